"""The actor that lets the engines of a measurement begin together, and repeat their calls together."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray

from kailin_ray.bench.engine import EngineReport, Machine
from kailin_ray.dataset.records import load_pmids, record_files
from kailin_ray.errors import CommandFailedError


@dataclass
class _Phase:
    """One phase of the plan: the engines of one stage."""

    replicas: int
    num_ready: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    began: float | None = None
    ended: float | None = None
    agents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reports: list[EngineReport] = field(default_factory=list)


class Conductor:
    """Knows which phase runs. In each, an engine ``arrive``s, gets ``warm``, waits for ``rows_done``, and ``report``s.

    The clock of a phase runs from the moment when the first of its engines is warm until its last row is written.
    """

    def __init__(self, replicas: Sequence[int], with_bare: bool, with_prompts: bool):
        """Take the replicas of each phase, and whether engines repeat their calls and report the prompts."""
        self._phases = [_Phase(number) for number in replicas]
        self._with = with_bare, with_prompts
        self._current = 0
        self._failure: str | None = None
        self.machines: list[Machine] = []

    async def arrive(self, machine: Machine) -> None:
        """Return when all engines of the phase are ready."""
        phase = self._phases[self._current]
        phase.num_ready += 1
        if phase.num_ready > phase.replicas:
            await self.fail("an engine died and was started again")
        if self._current == 0:
            self.machines.append(machine)
        if phase.num_ready == phase.replicas:
            phase.ready.set()
        await phase.ready.wait()

    async def warm(self) -> None:
        """Start the clock, if it does not run yet."""
        phase = self._phases[self._current]
        if phase.began is None:
            phase.began = time.monotonic()

    async def end(self, agents: Mapping[str, Sequence[str]]) -> None:
        """Stop the clock: all rows are written. ``agents``: for each agent, the hashes of its prompts."""
        phase = self._phases[self._current]
        phase.ended, phase.agents = time.monotonic(), agents
        phase.done.set()

    async def rows_done(self) -> tuple[Mapping[str, Sequence[str]], bool, bool]:
        """Return, when all rows are written, what the engine is to repeat."""
        phase = self._phases[self._current]
        await phase.done.wait()
        return phase.agents, *self._with

    async def report(self, report: EngineReport) -> None:
        """Take what an engine did; the last report of a phase begins the next phase."""
        phase = self._phases[self._current]
        phase.reports.append(report)
        if len(phase.reports) == phase.replicas:
            phase.reported.set()

    async def fail(self, why: str) -> None:
        """End the measurement."""
        self._failure = self._failure or why

    async def failure(self) -> str | None:
        """Return why the measurement failed; None if it did not."""
        return self._failure

    async def close_phase(self, timeout: float) -> bool:
        """Wait for the reports of the phase, for ``timeout`` seconds; return whether all are there."""
        phase = self._phases[self._current]
        try:
            await asyncio.wait_for(phase.reported.wait(), timeout)
        except TimeoutError:
            return False
        self._current += 1
        return True

    async def results(self) -> tuple[list[Machine], list[tuple[float, list[EngineReport]]]]:
        """Return the machines of the engines, and of each phase the seconds of its rows and its engines' reports."""
        return self.machines, [((p.ended or 0.0) - (p.began or 0.0), p.reports) for p in self._phases]


@dataclass(frozen=True)
class Linger:
    """Keeps the engines of a phase after its last row, until they have reported (see ``pipeline.distill``)."""

    conductor: Any
    num_rows: int

    def __call__(self, folder: Path) -> None:
        """Wait for the rows in ``folder``, then for the engines. Raises ``CommandFailedError``."""
        while len(load_pmids(folder)) < self.num_rows:
            self._raise_failure(ray.get(self.conductor.failure.remote()))
            time.sleep(0.1)
        ray.get(self.conductor.end.remote(_prompts_by_agent(folder)))
        while not ray.get(self.conductor.close_phase.remote(1.0)):
            self._raise_failure(ray.get(self.conductor.failure.remote()))

    def _raise_failure(self, why: str | None) -> None:
        if why:
            raise CommandFailedError(why)


AGENT_ORDER = ("general", "biomedical", "judge", "answer", "decision")
"""Agents in the order of their calls about an abstract."""


def _prompts_by_agent(folder: Path) -> dict[str, list[str]]:
    """Return the hashes of the prompts of each agent, from the records."""
    hashes: dict[str, list[str]] = {agent: [] for agent in AGENT_ORDER}
    for path in record_files(folder):
        for usage in pq.read_table(path, columns=["usage"])["usage"].to_pylist():
            for call in usage or []:
                hashes.setdefault(call["agent"], []).append(call["prompt_hash"])
    return hashes
