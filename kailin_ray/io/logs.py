"""Logging: one logger per module, all below ``kailin_ray``.

The terminal shows progress, results and warnings; a command's log file has everything, with time and level. Used as a
library, outside a command, the package adds no handler and sets no level.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from kailin_ray.io.terminal import printable, terminal

ROOT = logging.getLogger("kailin_ray")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to the terminal, even while the process's output goes to a log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = terminal()
        super().emit(record)


class TerminalFormatter(logging.Formatter):
    """Formats a record for a terminal, which foreign text in it cannot control."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return printable(super().format(record))


def warn_on_terminal() -> None:
    """Show warnings on the terminal as ``kailin_ray: …``, as the command line does."""
    if not any(isinstance(handler, TerminalHandler) for handler in ROOT.handlers):
        handler = TerminalHandler(terminal())
        handler.setLevel(logging.WARNING)
        handler.setFormatter(TerminalFormatter("kailin_ray: %(message)s"))
        ROOT.addHandler(handler)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write the package's log inside the block to a file, from level INFO on unless the logger's level is set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    level = ROOT.level
    if level == logging.NOTSET:
        ROOT.setLevel(logging.INFO)
    ROOT.addHandler(handler)
    try:
        yield
    finally:
        ROOT.removeHandler(handler)
        ROOT.setLevel(level)
        handler.close()


def log_to_output() -> None:
    """Write the package's log in this process to its output, from level INFO on: an actor's output is a log."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    ROOT.addHandler(handler)
    if ROOT.level == logging.NOTSET:
        ROOT.setLevel(logging.INFO)
