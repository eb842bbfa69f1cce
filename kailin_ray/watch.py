"""The line that a person watches while a part works, and the eye that stops a run when too much fails."""

import _thread
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, TextIO

import ray
from tqdm import tqdm

from kailin_ray.accounts import Session
from kailin_ray.plan import Part
from kailin_ray.schema import FAILED

POLL_S = 1.0
WRITE_S = 10.0
"""Seconds between two writings of the session's file: what a kill can leave unaccounted for."""
MAX_STARTS_IN_VAIN = 5
"""Engine starts in a row after which no row was finished: they die at once, or of one row that comes again."""
MIN_ROWS_TO_JUDGE = 20
"""Rows done before a fraction of failures is believed."""


class TooManyFailuresError(RuntimeError):
    """More of a run's rows failed than the configuration allows, or its engines only die; what is done is kept."""


def progress_bar(terminal: TextIO, stage: str, total: int, unit: str = " abstracts", **options: Any) -> Any:
    """A stage's line with rate and time left: one that moves on a terminal, one now and then in a log file."""
    interval = 0.5 if terminal.isatty() else 15
    return tqdm(
        desc=stage,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        file=terminal,
        mininterval=interval,
        maxinterval=2 * interval,
        **options,
    )


class Watch:
    """Context manager: shows a part's line from an ``actor.Progress`` actor, and keeps the session's file up to date.

    Raises ``TooManyFailuresError`` out of the block when more than ``max_failed_fraction`` of its rows failed.
    """

    def __init__(
        self,
        progress: Any,
        session: Session,
        number: int,
        part: Part,
        rows: tuple[int, int],
        max_failed_fraction: float,
        terminal: TextIO,
    ):
        """``rows``: how many there are in all, and how many are done already. ``number`` of the part, from 1."""
        self._progress, self._session, self._number, self._part = progress, session, number, part
        self._rows, self._max_failed_fraction, self._terminal = rows, max_failed_fraction, terminal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: str | None = None
        self._began: float | None = None
        self._written = 0.0
        self._worked_at_start = (0, 0)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise TooManyFailuresError(self._failure) from error

    def _run(self) -> None:
        form = "{desc}{n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
        total, done = self._rows
        with progress_bar(
            self._terminal, f"{self._name()}, engines ready 0: ", total, initial=done, bar_format=form
        ) as bar:
            while not self._stop.wait(POLL_S):
                self._look(bar)
            self._written = 0.0
            self._look(bar)
            bar.refresh()

    def _name(self) -> str:
        return "distill" if not self._number else f"part {self._number}, {'+'.join(p.stage.name for p in self._part)}"

    def _look(self, bar: Any) -> None:
        try:
            accounts = ray.get(self._progress.accounts.remote(), timeout=10)
        except ray.exceptions.RayError:
            return
        ready, wanted = sum(account["ready"] for account in accounts), sum(pool.replicas for pool in self._part)
        if self._began is None and ready:
            # The rate, and so the time left, counts from the first engine that can serve.
            self._began = time.monotonic()
            bar.unpause()
        # Those that have not begun wait for room on a machine.
        starting = f", engines ready {ready} of {wanted}, begun {len(accounts)}" if ready < wanted else ""
        bar.set_description(self._name() + starting, refresh=False)
        if time.monotonic() - self._written > WRITE_S:
            self._written = time.monotonic()
            distill = self._written - self._began if self._began else 0.0
            self._session.update(self._number, self._part, accounts, distill)
        last = self._part[-1].stage.name
        rows: Counter[str] = Counter()
        for account in accounts:
            if account["stage"] == last:
                rows.update(account["rows"])
        bar.set_postfix(dict(sorted(rows.items())), refresh=False)
        bar.update(self._rows[1] + sum(rows.values()) - bar.n)
        self._judge(rows, len(accounts), sum(sum(account["rows"].values()) for account in accounts))

    def _judge(self, rows: Counter[str], starts: int, worked: int) -> None:
        """Stop the run if too many of the last stage's ``rows`` failed, or engines start without a row being worked."""
        if worked > self._worked_at_start[0]:
            self._worked_at_start = (worked, starts)
        in_vain = starts - self._worked_at_start[1]
        done, failed = sum(rows.values()), rows[FAILED]
        if done >= MIN_ROWS_TO_JUDGE and failed > self._max_failed_fraction * done:
            self._fail(f"{failed} of {done} rows failed, more than max_failed_fraction={self._max_failed_fraction}")
        elif in_vain > sum(pool.replicas for pool in self._part) + MAX_STARTS_IN_VAIN:
            self._fail(f"engines were started {in_vain} times without finishing a row: they die")

    def _fail(self, why: str) -> None:
        if not self._failure and not self._stop.is_set():
            self._failure = why
            _thread.interrupt_main()
