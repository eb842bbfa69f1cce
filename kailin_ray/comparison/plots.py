"""Plot each difference with its interval, in one panel for each unit."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kailin_ray.comparison.report import GROUPS, Line
from kailin_ray.io.plots import BLUE, GREY, ORANGE, save

INCHES_A_LINE = 0.24
TITLE_LINES = 3.5
"""Height of a panel's title and axis, in lines."""


def draw_differences(lines: Sequence[Line], num_abstracts: int, path: Path) -> None:
    """Draw the lines of a comparison's table as a PNG: blue for better, orange worse, black changed, grey unknown."""
    save(plot_differences(lines, num_abstracts), path, dpi=110)


def plot_differences(lines: Sequence[Line], num_abstracts: int) -> Figure:
    """Return the figure of ``draw_differences``."""
    ordered = sorted(lines, key=lambda line: GROUPS.index(line.measure.group))
    panels = [(name, list(panel_lines)) for name, panel_lines in groupby(ordered, key=lambda line: line.measure.group)]
    heights = [len(panel_lines) + TITLE_LINES for _, panel_lines in panels]
    figure = Figure(figsize=(10, max(3.0, INCHES_A_LINE * sum(heights) + 0.8)), layout="constrained")
    figure.suptitle(f"New minus old, {num_abstracts:,} abstracts, 95 % intervals", ha="left", x=0.01)
    axes = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel_axes, (name, panel_lines) in zip(axes, panels, strict=True):
        _panel(panel_axes, name, panel_lines[::-1])
    return figure


def _panel(axes: Axes, name: str, lines: Sequence[Line]) -> None:
    axes.axvline(0, color=GREY, linewidth=1, zorder=0)
    for y, line in enumerate(lines):
        mean, low, high = line.difference
        colour = _colour(line)
        axes.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([mean], [y], color=colour, marker="o", markersize=5)
    axes.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_title(name, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(line: Line) -> str:
    if not line.direction:
        return GREY
    if not line.measure.sense:
        return "black"
    return BLUE if line.direction == line.measure.sense else ORANGE
