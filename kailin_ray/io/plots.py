"""What all plots share: colours, labels, files."""

from pathlib import Path

from matplotlib.figure import Figure

from kailin_ray.io.files import atomic_file
from kailin_ray.io.terminal import printable

GREY, BLUE, ORANGE = "#9aa0a6", "#1f6fb2", "#e07b39"
LONGEST = 48
"""Characters of a label that are shown."""


def format_label(text: str, longest: int = LONGEST) -> str:
    """Return a foreign text as matplotlib shows it unchanged: one line, no formula, at most ``longest`` characters.

    Matplotlib reads text between two ``$`` as a formula, and fails if it is none. Control characters become escapes.
    """
    line = printable(" ".join(text[: 8 * longest].split()))
    if len(line) > longest:
        line = f"{line[: longest - 1]}…"
    return line.replace("$", r"\$")


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure as a PNG, which appears when it is complete."""
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")
