"""The line that a person watches while a part works, and the eye that stops a run when too much fails."""

import _thread
import logging
import threading
import time
from collections import Counter, deque
from types import TracebackType
from typing import Any, TextIO

import ray

from kailin_ray.config import DistillConfig, without_secrets
from kailin_ray.distill.accounting import EngineNumbers, PartProgress, Session, rate_of
from kailin_ray.distill.engine_load import describe_load
from kailin_ray.distill.metrics import RunMetrics
from kailin_ray.engines.metering import Account
from kailin_ray.errors import STOPPED, StoppedError, TooManyFailuresError
from kailin_ray.io.terminal import progress_bar
from kailin_ray.planning.plan import Part
from kailin_ray.schema import FAILED

logger = logging.getLogger(__name__)

POLL_S = 1.0
WRITE_S = 10.0
"""Seconds between two writings of the session's file: what a kill can leave unaccounted for."""
MAX_STARTS_IN_VAIN = 5
"""Engine starts in a row after which no row was finished: they die at once, or of one row that comes again."""
MIN_ROWS_TO_JUDGE = 20
"""Rows done before a fraction of failures is believed."""
LOOKS = 30
"""Looks over which the engines' load is taken, a second apart: calls of many tokens end seldom."""
LINE = "{desc}{n_fmt}/{total_fmt} {percentage:3.0f}% [{elapsed}<{remaining}, {rate_fmt}{postfix}]{bar:0}"
"""The line as tqdm takes it. The bar is empty: tqdm cuts a line to the terminal's width only if it has one, and a line
that runs over is repeated at each step."""
MARKS = 60
"""Writings over which the rate of late is taken: ten minutes."""
SETTLE_S = 5.0
"""Seconds between the last row's end and the end of a run that drains: blocks are written meanwhile."""


class Watch:
    """Context manager: shows a part's line from a ``Progress`` actor, and keeps the session's file up to date.

    Sets ``stop`` when more of the rows failed than ``max_failed_fraction``, or ended for a reason than its
    ``max_fraction``. Once what was begun before ``stop`` is finished it raises ``stopped`` out of the block.
    """

    def __init__(
        self,
        progress: Any,
        session: Session,
        number: int,
        part: Part,
        rows: tuple[int, int],
        config: DistillConfig,
        stop: threading.Event,
        terminal: TextIO,
    ):
        """``rows``: how many there are in all, and how many are done already. ``number`` of the part, from 1."""
        self._progress, self._session, self._number, self._part = progress, session, number, part
        self._rows, self._config, self._terminal = rows, config, terminal
        self._stop_request = stop
        self._draining_since: float | None = None
        self._open_until = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: Exception | None = None
        self.stopped: Exception = StoppedError(STOPPED)
        """Why the part was drained, if ``stop`` is set."""
        self._began: float | None = None
        self._written = 0.0
        self._worked_at_start = (0, 0)
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        self._looks: deque[list[dict[str, Any]]] = deque(maxlen=LOOKS)
        self._drawn = time.monotonic()
        self._ended: str | None = None
        self._metrics = RunMetrics(config.out.name)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        why = self._failure or error or (self.stopped if self._stop_request.is_set() else "done")
        self._ended = without_secrets(" ".join(str(why).split())[:300]) or type(why).__name__
        self._stop.set()
        self._thread.join()
        if self._failure:
            raise self._failure from error

    def _run(self) -> None:
        total, done = self._rows
        stage, cut = f"{self._name()}, engines ready 0: ", self._terminal.isatty()
        with progress_bar(self._terminal, stage, total, initial=done, bar_format=LINE, dynamic_ncols=cut) as bar:
            while not self._stop.wait(POLL_S):
                self._look(bar)
            self._written = 0.0
            self._look(bar)
            bar.refresh()

    def _name(self) -> str:
        return "distill" if not self._number else f"part {self._number}, {'+'.join(p.stage.name for p in self._part)}"

    def _look(self, bar: Any) -> None:
        try:
            state = ray.get(self._progress.state.remote(), timeout=10)
        except ray.exceptions.RayError:
            return
        accounts = state["accounts"]
        ready, wanted = sum(account["ready"] for account in accounts), sum(pool.replicas for pool in self._part)
        if self._began is None and ready:
            # The rate, and so the time left, counts from the first engine that can serve.
            self._began = time.monotonic()
            bar.last_print_t = time.time()
        # Those that have not begun wait for room on a machine.
        doing = f", engines ready {ready} of {wanted}, begun {len(accounts)}" if ready < wanted else ""
        if self._stop_request.is_set():
            doing = f", stopping: {state['num_open']} abstracts to finish"
            self._drain(state["num_open"])
        bar.set_description(self._name() + doing, refresh=False)
        last = self._part[-1].stage.name
        rows: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for account in accounts:
            if account["stage"] == last:
                rows.update(account["rows"])
                reasons.update(account["reasons"])
        self._looks.append(accounts)
        load = "" if self._ended else describe_load(self._looks[0], accounts)
        shown = [*(f"{status}={number}" for status, number in sorted(rows.items())), *filter(None, [load])]
        bar.set_postfix_str(", ".join(shown), refresh=False)
        done = self._rows[1] + sum(rows.values())
        self._draw(bar, done)
        if time.monotonic() - self._written > WRITE_S:
            self._write(accounts, done, {"ready": ready, "wanted": wanted, "begun": len(accounts)})
        self._judge(rows, reasons, len(accounts), state["num_left"])

    def _draw(self, bar: Any, done: int) -> None:
        """Move the line on, and draw it now and then where no row was done: the load changes."""
        # Never update(0): tqdm takes the next rows to have been done since then, and their rate to be far too high.
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
            self._marks.append((time.time(), done))
        progress: PartProgress = {
            "state": "ended" if self._ended else "stopping" if self._stop_request.is_set() else "running",
            "why": self._ended,
            "part": self._number or 1,
            "total": self._rows[0],
            "done": done,
            "marks": list(self._marks),
            "engines": engines,
        }
        self._metrics.show(progress, rate_of(progress["marks"]))
        try:
            self._session.update(self._number, self._part, accounts, distill, progress)
        except Exception as error:  # a store that does not answer now must not end this watch; the next time may do
            logger.warning("the session's account was not written: %s", error)

    def _drain(self, num_open: int) -> None:
        """Let what is begun be finished and written, for as long as ``grace_seconds`` say, then end the run."""
        now = time.monotonic()
        if self._draining_since is None:
            self._draining_since = self._open_until = now
            self._progress.drain.remote()
        if num_open:
            self._open_until = now
        over = now - self._draining_since > self._config.grace_seconds
        if over or now - self._open_until > SETTLE_S:
            self._fail(self.stopped)

    def _judge(self, rows: Counter[str], reasons: Counter[str], starts: int, worked: int) -> None:
        """Drain the run if too many of the last stage's ``rows`` failed; end it if engines start and work no row."""
        if worked > self._worked_at_start[0]:
            self._worked_at_start = (worked, starts)
        in_vain = starts - self._worked_at_start[1]
        done = sum(rows.values())
        found = [("failed", rows[FAILED], "max_failed_fraction", self._config.max_failed_fraction)]
        found += [
            (f"ended with {reason}", reasons[reason], f"max_fraction.{reason}", fraction)
            for reason, fraction in self._config.max_fraction.items()
            if fraction is not None
        ]
        for how, number, key, fraction in found:
            if done >= MIN_ROWS_TO_JUDGE and number > fraction * done and not self._stop_request.is_set():
                self.stopped = TooManyFailuresError(f"{number} of {done} rows {how}, more than {key}={fraction}")
                self._stop_request.set()
        if in_vain > sum(pool.replicas for pool in self._part) + MAX_STARTS_IN_VAIN:
            died = f"engines were started {in_vain} times without finishing a row: they die"
            self._fail(TooManyFailuresError(died))

    def _fail(self, why: Exception) -> None:
        if not self._failure and not self._stop.is_set():
            self._failure = why
            _thread.interrupt_main()
