"""The progress line, and where this process's output goes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

_redirected: list[TextIO] = []
"""The person's terminal, while this process's output goes to a log."""


def terminal() -> TextIO:
    """Where a person reads: standard error, also while ``output_to`` sends this process's output to a log."""
    return _redirected[-1] if _redirected else sys.stderr


def progress_bar(terminal: TextIO, stage: str, total: int | None, unit: str = " abstracts", **options: Any) -> Any:
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


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Send this process's output, also that of its C++ parts, to ``log``; yield the person's terminal."""
    sys.stdout.flush()
    stdout, shown = os.dup(1), os.fdopen(os.dup(2), "w", buffering=1)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    _redirected.append(shown)
    try:
        yield shown
    finally:
        _redirected.remove(shown)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(stdout, 1)
        os.dup2(shown.fileno(), 2)
        os.close(stdout)
        shown.close()


def send_output_to(log: Path) -> None:
    """Append this process's output, and its children's (vLLM's), to a file: the terminal stays readable."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
