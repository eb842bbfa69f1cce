"""The line that a person watches while something works."""

from typing import Any, TextIO

from tqdm import tqdm


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
