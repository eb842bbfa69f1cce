"""The line that a person watches while a stage works, and the eye that stops a run when too much fails."""

import _thread
import threading
from types import TracebackType
from typing import Any, TextIO

import ray
from tqdm import tqdm

from kailin_ray.schema import FAILED, STATUSES

POLL_S = 1.0
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
    """Context manager: shows a run's line from a ``distill.Progress`` actor until the block ends.

    Raises ``TooManyFailuresError`` out of the block when more than ``max_failed_fraction`` of its rows failed.
    """

    def __init__(
        self, progress: Any, total: int, done: int, num_engines: int, max_failed_fraction: float, terminal: TextIO
    ):
        self._progress, self._total, self._done, self._num_engines = progress, total, done, num_engines
        self._max_failed_fraction, self._terminal = max_failed_fraction, terminal
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: str | None = None
        self._started = False
        self._worked_at_start = (0, 0)
        self.last: dict[str, Any] = {"rows": {}, "starts": 0, "engines": []}

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
        with progress_bar(
            self._terminal, "distill, engine starts: ", self._total, initial=self._done, bar_format=form
        ) as bar:
            while not self._stop.wait(POLL_S):
                self._look(bar)
            self._look(bar)
            bar.refresh()

    def _look(self, bar: Any) -> None:
        try:
            self.last = ray.get(self._progress.snapshot.remote(), timeout=10)
        except ray.exceptions.RayError:
            return
        if self.last["engines"] and not self._started:
            # The rate, and so the time left, counts from the first engine that can serve.
            self._started = True
            bar.unpause()
            bar.set_description("distill", refresh=False)
        rows = self.last["rows"]
        worked = sum(rows.values())
        bar.set_postfix({name: rows[name] for name in STATUSES if name in rows}, refresh=False)
        bar.update(self._done + worked - bar.n)
        if worked > self._worked_at_start[0]:
            self._worked_at_start = (worked, self.last["starts"])
        in_vain = self.last["starts"] - self._worked_at_start[1]
        failed = rows.get(FAILED, 0)
        if worked >= MIN_ROWS_TO_JUDGE and failed > self._max_failed_fraction * worked:
            self._fail(f"{failed} of {worked} rows failed, more than max_failed_fraction={self._max_failed_fraction}")
        elif in_vain > self._num_engines + MAX_STARTS_IN_VAIN:
            self._fail(f"engines were started {in_vain} times without finishing a row: they die")

    def _fail(self, why: str) -> None:
        if not self._failure and not self._stop.is_set():
            self._failure = why
            _thread.interrupt_main()
