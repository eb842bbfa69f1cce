"""The actor that lets the engines of a measurement begin together, and repeat their calls together."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kailin_ray.bench.engine import EngineReport, Machine
from kailin_ray.errors import CommandFailedError


@dataclass
class _Phase:
    """One phase of the plan: the engines of one stage."""

    replicas: int
    num_ready: int = 0
    num_rows: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    began: float | None = None
    ended: float | None = None
    reports: list[EngineReport] = field(default_factory=list)


class Conductor:
    """Knows which phase runs. In each, an engine ``arrive``s, gets ``warm``, waits for ``rows_done``, and ``report``s.

    The clock of a phase runs from the moment when the first of its engines is warm until its last row is finished.
    """

    def __init__(self, replicas: Sequence[int], num_rows: int, with_bare: bool, with_prompts: bool):
        """Take the replicas of each phase, its rows, and whether engines repeat their calls and report the prompts."""
        self._phases = [_Phase(number) for number in replicas]
        self._num_rows = num_rows
        self._with = with_bare, with_prompts
        self._current = 0
        self._failure: str | None = None
        self._machines: list[Machine] = []

    async def arrive(self, machine: Machine) -> None:
        """Return when all engines of the phase are ready. Raises ``CommandFailedError`` for an engine too many."""
        phase = self._phases[self._current]
        phase.num_ready += 1
        if phase.num_ready > phase.replicas:
            raise CommandFailedError("an engine died during the measurement")
        if self._current == 0:
            self._machines.append(machine)
        if phase.num_ready == phase.replicas:
            phase.ready.set()
        await phase.ready.wait()

    async def warm(self) -> None:
        """Start the clock, if it does not run yet."""
        phase = self._phases[self._current]
        if phase.began is None:
            phase.began = time.monotonic()

    async def finish(self, num_rows: int) -> None:
        """Count rows that are finished. After the last row, return only when all engines have reported.

        So the last block is not done before that, and Ray Data keeps the engines. Raises ``CommandFailedError`` if an
        engine could not repeat its calls.
        """
        phase = self._phases[self._current]
        phase.num_rows += num_rows
        if phase.num_rows < self._num_rows:
            return
        phase.ended = time.monotonic()
        phase.done.set()
        await phase.reported.wait()
        self._current += 1
        if self._failure:
            raise CommandFailedError(self._failure)

    async def rows_done(self) -> tuple[bool, bool]:
        """Return, when all rows are finished, whether to repeat the calls, and whether to report the prompts."""
        await self._phases[self._current].done.wait()
        return self._with

    async def report(self, report: EngineReport) -> None:
        """Take what an engine did."""
        phase = self._phases[self._current]
        phase.reports.append(report)
        if len(phase.reports) == phase.replicas:
            phase.reported.set()

    async def fail(self, why: str) -> None:
        """Note why an engine has no report."""
        self._failure = why
        self._phases[self._current].reported.set()

    async def results(self) -> tuple[list[Machine], list[tuple[float, list[EngineReport]]]]:
        """Return the machines of the engines, and of each phase the seconds of its rows and its engines' reports."""
        return self._machines, [((p.ended or 0.0) - (p.began or 0.0), p.reports) for p in self._phases]
