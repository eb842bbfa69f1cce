"""The progress line of a phase, and the checks that stop a run if too many rows fail."""

import logging
import signal
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

import ray

from kailin_ray.config import DistillConfig, without_secrets
from kailin_ray.distill.accounting import EngineNumbers, Outcome, PhaseProgress, Session, rate_of
from kailin_ray.distill.engine_load import describe_load
from kailin_ray.distill.metrics import RunMetrics
from kailin_ray.distill.progress import ProgressState
from kailin_ray.engines.metering import Account
from kailin_ray.errors import STOPPED, StoppedError, TooManyFailuresError
from kailin_ray.io.processes import INTERRUPT, interrupt_main_thread
from kailin_ray.io.terminal import printable, progress_bar
from kailin_ray.planning.plan import Phase
from kailin_ray.runtime.faults import describe_error
from kailin_ray.schema import FAILED

logger = logging.getLogger(__name__)

POLL_S = 1.0
WRITE_S = 10.0
"""Seconds between two writes of the session's file. After a kill, the work since the last write is not counted."""
MAX_STARTS_IN_VAIN = 5
"""Allowed engine starts in a row without a finished row. Such engines die at once, or on a row that is retried."""
MIN_ROWS_TO_JUDGE = 20
"""Rows that must be done before a fraction of failures is checked."""
LOOKS = 30
"""Snapshots, a second apart, over which the engines' load is measured: calls with many tokens end rarely."""
LINE = "{desc}{n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}, {rate_fmt}{postfix}]{bar:0}"
"""The format of the line for tqdm. The bar has zero width, but it must exist: only then does tqdm cut the line to the
terminal's width, and a line that is too long would be repeated at each step."""
MARKS = 60
"""Writes of the session's file over which the current rate is measured: ten minutes."""
SETTLE_S = 5.0
"""Seconds between the end of the last row and the end of a draining run. Blocks are written in this time."""


class Watch:
    """Context manager that shows a phase's progress line and keeps the session's file up to date.

    It reads the state from a ``Progress`` actor. It sets ``stop`` if the fraction of failed rows exceeds
    ``max_failed_fraction``, or the fraction of rows with some reason exceeds its ``max_fraction``. When ``stop`` is set
    and all rows that had begun are finished, it raises ``stopped`` out of the block.
    """

    def __init__(
        self,
        progress: Any,
        session: Session,
        number: int,
        phase: Phase,
        rows: tuple[int, int],
        config: DistillConfig,
        stop: threading.Event,
        terminal: TextIO,
    ):
        """Prepare the watch. ``rows``: total and done. ``number`` of the phase, from 1; 0 for a single phase."""
        self._progress, self._session, self._number, self._phase = progress, session, number, phase
        self._rows, self._config, self._terminal = rows, config, terminal
        self._stop_request = stop
        self._draining_since: float | None = None
        self._open_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: Exception | None = None
        self.stopped: Exception = StoppedError(STOPPED)
        """Why the phase drains, if ``stop`` is set."""
        self._began: float | None = None
        self._written = 0.0
        self._worked_at_start = (0, 0)
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        self._looks: deque[list[Account]] = deque(maxlen=LOOKS)
        self._accounts: dict[str, Account] = {}
        """The last account of each replica that ever started. A progress actor that restarts knows only the living."""
        self._open, self._left = 0, 0
        self._drawn = time.monotonic()
        self._outcome: Outcome | None = None
        self._ended: str | None = None
        self._before: Any = None
        self._warned: set[str] = set()
        self._metrics = RunMetrics(config.out.name)

    def __enter__(self) -> "Watch":
        self._before = signal.signal(INTERRUPT, signal.default_int_handler)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reason = self._failure or error or (self.stopped if self._stop_request.is_set() else "done")
        self._outcome = "done" if reason == "done" else "stopped" if isinstance(reason, StoppedError) else "failed"
        words = describe_error(reason) if isinstance(reason, ray.exceptions.RayError) else str(reason)
        words = " ".join(words.split())
        self._ended = without_secrets(words[:300]) or type(reason).__name__
        self._stop.set()
        self._thread.join()
        signal.signal(INTERRUPT, self._before)
        if self._failure:
            raise self._failure from error

    def _run(self) -> None:
        total, done = self._rows
        description, is_tty = f"{self._name()}, engines ready 0: ", self._terminal.isatty()
        with progress_bar(
            self._terminal, description, total, initial=done, bar_format=LINE, dynamic_ncols=is_tty
        ) as bar:
            while not self._stop.wait(POLL_S):
                self._look(bar)
            self._written = 0.0
            self._look(bar)
            bar.refresh()

    def _name(self) -> str:
        return "distill" if not self._number else f"phase {self._number}, {'+'.join(p.stage.name for p in self._phase)}"

    def _look(self, bar: Any) -> None:
        self._read_progress()
        accounts = list(self._accounts.values())
        ready, wanted = sum(account["ready"] for account in accounts), sum(pool.replicas for pool in self._phase)
        if self._began is None and ready:
            # The rate, and so the time left, is measured from the moment when the first engine can serve.
            self._began = time.monotonic()
            bar.last_print_t = time.time()
        # Engines that have not begun wait for free resources on a machine.
        activity = f", engines ready {ready} of {wanted}, begun {len(accounts)}" if ready < wanted else ""
        if self._stop_request.is_set():
            activity = f", stopping: {self._open} abstracts to finish"
            self._drain(self._open)
        bar.set_description(self._name() + activity, refresh=False)
        last_stage = self._phase[-1].stage.name
        rows: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for account in accounts:
            if account["stage"] == last_stage:
                rows.update(account["rows"])
                reasons.update(account["reasons"])
        self._looks.append(accounts)
        load = "" if self._ended else describe_load(self._looks[0], accounts)
        postfix = [*(f"{status}={count}" for status, count in sorted(rows.items())), *filter(None, [load])]
        bar.set_postfix_str(", ".join(postfix), refresh=False)
        done = self._rows[1] + sum(rows.values())
        self._draw(bar, done)
        if time.monotonic() - self._written > WRITE_S:
            self._write(accounts, done, {"ready": ready, "wanted": wanted, "begun": len(accounts)})
        self._judge(rows, reasons, len(accounts), self._left)

    def _read_progress(self) -> None:
        """Read the state of the progress actor; without an answer, the last one counts."""
        with suppress(ray.exceptions.RayError):
            state: ProgressState = ray.get(self._progress.state.remote(), timeout=10)
            if state["accounts"] or not self._accounts:  # otherwise it has just restarted, and no replica reported yet
                self._accounts |= state["accounts"]
                self._open, self._left = state["num_open"], state["num_left"]
            for warning in set(state["warnings"]) - self._warned:
                self._warned.add(warning)
                logger.warning(printable(warning))

    def _draw(self, bar: Any, done: int) -> None:
        """Update the line. It is also redrawn at times when no row was done, because the load changes."""
        # update(0) is avoided: tqdm would measure the time of the next rows from that call, and their rate would be far
        # too high.
        drawn = bar.update(done - bar.n) if done != bar.n else False
        if not drawn and time.monotonic() - self._drawn >= bar.mininterval:
            drawn = bar.refresh()
        if drawn:
            self._drawn = time.monotonic()

    def _write(self, accounts: list[Account], done: int, engines: EngineNumbers) -> None:
        """Keep the session's file up to date; ``status`` reads it."""
        self._written = time.monotonic()
        distill = self._written - self._began if self._began else 0.0
        if self._began:
            self._marks.append((round(self._written, 1), done))
        progress: PhaseProgress = {
            "state": "ended" if self._ended else "stopping" if self._stop_request.is_set() else "running",
            "outcome": self._outcome if self._ended else None,
            "why": self._ended,
            "phase": self._number or 1,
            "total": self._rows[0],
            "done": done,
            "marks": list(self._marks),
            "engines": engines,
        }
        self._metrics.show(progress, rate_of(progress["marks"]))
        try:
            self._session.update(self._number, self._phase, accounts, distill, progress)
        except Exception as error:  # a store that does not answer must not end this watch; the next write may succeed
            logger.warning("the session's account was not written: %s", error)

    def _drain(self, num_open: int) -> None:
        """Let rows that have begun be finished and written, for at most ``grace_seconds``, then end the run."""
        now = time.monotonic()
        if self._draining_since is None:
            self._draining_since = self._open_until = now
        self._progress.drain.remote()  # at each look, because a progress actor that restarted does not know it
        if num_open:
            self._open_until = now
        is_over = now - self._draining_since > self._config.grace_seconds
        if is_over or now - self._open_until > SETTLE_S:
            self._fail(self.stopped)

    def _judge(self, rows: Counter[str], reasons: Counter[str], starts: int, worked: int) -> None:
        """Drain the run if too many of the last stage's ``rows`` failed; end it if engines start but finish no row."""
        if worked != self._worked_at_start[0]:  # it counts from 0 again if the progress actor was restarted
            self._worked_at_start = (worked, starts)
        in_vain = starts - self._worked_at_start[1]
        done = sum(rows.values())
        limits = [("failed", rows[FAILED], "max_failed_fraction", self._config.max_failed_fraction)]
        limits += [
            (f"ended with {reason}", reasons[reason], f"max_fraction.{reason}", fraction)
            for reason, fraction in self._config.max_fraction.items()
            if fraction is not None
        ]
        for outcome, count, key, fraction in limits:
            if done >= MIN_ROWS_TO_JUDGE and count > fraction * done and not self._stop_request.is_set():
                self.stopped = TooManyFailuresError(f"{count} of {done} rows {outcome}, more than {key}={fraction}")
                self._stop_request.set()
        if in_vain > sum(pool.replicas for pool in self._phase) + MAX_STARTS_IN_VAIN:
            message = f"engines were started {in_vain} times without finishing a row: they keep dying"
            self._fail(TooManyFailuresError(message))

    def _fail(self, why: Exception) -> None:
        if not self._failure and not self._stop.is_set():
            self._failure = why
            interrupt_main_thread()
