"""The progress bar, and where this process's output goes."""

import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

_redirected: list[TextIO] = []
"""The terminal, while this process's output goes to a log."""


def printable(text: str) -> str:
    """Return a text without the control characters that would change a terminal: each is shown as its escape.

    Line breaks and tabs stay. Marks that reorder text (bidirectional controls) count as control characters.
    """
    if text.isascii() and all(character >= " " or character in "\n\t" for character in text):
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def show(text: str = "", to_errors: bool = False) -> None:
    """Print a text for people, on standard output or standard error; foreign text in it cannot control a terminal."""
    print(printable(text), file=sys.stderr if to_errors else sys.stdout, flush=True)


def terminal() -> TextIO:
    """Return the terminal: standard error, even while ``output_to`` sends this process's output to a log."""
    return _redirected[-1] if _redirected else sys.stderr


def progress_bar(terminal: TextIO, stage: str, total: int | None, unit: str = " abstracts", **options: Any) -> Any:
    """Return a progress bar with rate and time left: live on a terminal, a line now and then in a log file."""
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
    """Send this process's output, including that of its C++ code, to ``log``; yield the terminal."""
    sys.stdout.flush()
    stdout, screen = os.dup(1), os.fdopen(os.dup(2), "w", buffering=1)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    _redirected.append(screen)
    try:
        yield screen
    finally:
        _redirected.remove(screen)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(stdout, 1)
        os.dup2(screen.fileno(), 2)
        os.close(stdout)
        screen.close()


def send_output_to(log: Path) -> None:
    """Append the output of this process and its children (vLLM) to a file, so that the terminal stays readable.

    A folder that is missing, as the driver made it on its own machine, is made for this user alone.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
