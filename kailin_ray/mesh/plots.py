"""Plots of MeSH coverage and sampling."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from kailin_ray.io.plots import BLUE, GREY, ORANGE, format_label, save
from kailin_ray.mesh.figures import BranchFigures, BranchHeadings, Coverage, CoverageLevel, SampleFigures
from kailin_ray.schema import Json

_SPREADS: tuple[Literal["corpus", "accepted", "rejected"], ...] = ("corpus", "accepted", "rejected")
NUM_LABELS = 8
NUM_RARE, NUM_COMMON = 20, 8
NONE_AT = 0.35
"""Position of zero on a logarithmic axis."""


def draw_coverage(coverage: Coverage, path: Path) -> None:
    """Draw the result of ``mesh.coverage.coverage`` as a PNG."""
    save(plot_coverage(coverage), path, dpi=110)


def plot_coverage(coverage: Coverage) -> Figure:
    """Return the figure of ``draw_coverage``."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    _letters(left, coverage["letters"])
    _categories(right, coverage["categories"])
    return figure


def _letters(axes: Axes, level: CoverageLevel) -> None:
    rows = [row for row in level["branches"] if row["corpus"] or row["accepted"]][::-1]
    corpus, accepted, rejected = (_shares(rows, name) for name in _SPREADS)
    places = range(len(rows))
    axes.barh(places, corpus, color=GREY, height=0.6, label="corpus")
    axes.scatter(accepted, places, color=BLUE, zorder=3, label="accepted")
    axes.scatter(rejected, places, facecolors="none", edgecolors=ORANGE, zorder=3, label="rejected")
    axes.set_yticks(places, [_label_branch(row) for row in rows])
    axes.set_xlabel("share of the headings, %")
    axes.set_title(_title("Categories", level), loc="left")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _categories(axes: Axes, level: CoverageLevel) -> None:
    rows = level["branches"]
    corpus, accepted, rejected = (_shares(rows, name) for name in _SPREADS)
    both = [(c, a, row) for c, a, row in zip(corpus, accepted, rows, strict=True) if c and a]
    missed = [c for c, a in zip(corpus, accepted, strict=True) if c and not a]
    axes.set_xscale("log")
    axes.set_yscale("log")
    if both:
        rejected_points = [(c, r) for c, r in zip(corpus, rejected, strict=True) if c and r]
        places = [c for c, _ in rejected_points], [r for _, r in rejected_points]
        axes.scatter(*places, s=22, facecolors="none", edgecolors=ORANGE, alpha=0.6, label="rejected")
        axes.scatter([c for c, _, _ in both], [a for _, a, _ in both], color=BLUE, s=18, label="accepted")
        lowest, highest = min(corpus[i] for i in range(len(rows)) if corpus[i]), max(max(corpus), max(accepted))
        axes.plot([lowest, highest], [lowest, highest], color=GREY, linewidth=1, zorder=0)
        floor = min(a for _, a, _ in both) / 2
        axes.scatter(missed, [floor] * len(missed), marker="x", color=ORANGE, s=18, label="not reached by accepted")
        for c, a, row in sorted(both, key=lambda point: -abs(point[1] - point[0]))[:NUM_LABELS]:
            # There is space to the left above the diagonal, and to the right below it.
            side, offset = ("right", (-5, 3)) if a > c else ("left", (5, -8))
            label = format_label(f"{row['branch']} {row['name'] or ''}", 34)
            axes.annotate(label, (c, a), xytext=offset, textcoords="offset points", ha=side, fontsize=8)
        axes.set_xlim(right=8 * highest)
        axes.legend(frameon=False, loc="upper left")
    axes.set_xlabel("share of the headings of the corpus, %")
    axes.set_ylabel("share of the headings of accepted (rejected) abstracts, %")
    axes.set_title(_title("Second level", level), loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _shares(rows: list[BranchHeadings], name: Literal["corpus", "accepted", "rejected"]) -> list[float]:
    total = sum(row[name] for row in rows)
    return [100 * row[name] / total if total else 0.0 for row in rows]


def _title(name: str, level: CoverageLevel) -> str:
    known = "" if level["divergence"] is None else f", divergence {level['divergence']:.3f} bits"
    return f"{format_label(name)}: {level['num_reached']} of {level['num_in_corpus']} reached{known}"


def draw_sampling(reports: Mapping[str, SampleFigures], path: Path) -> None:
    """Draw one or two samples of one corpus as a PNG; ``reports`` has the result of ``balance.balance`` by name."""
    save(plot_sampling(reports), path, dpi=100)


def plot_sampling(reports: Mapping[str, SampleFigures]) -> Figure:
    """Return the figure of ``draw_sampling``."""
    first = next(iter(reports.values()))
    rows = sorted(
        (row for row in first["categories"]["branches"] if row["documents_before"]),
        key=lambda row: (row["documents_before"], row["branch"]),
    )
    counts = {
        name: {row["branch"]: row["documents_after"] for row in report["categories"]["branches"]}
        for name, report in reports.items()
    }
    figure = Figure(figsize=(14, 8), layout="constrained")
    figure.suptitle(_headline(first), fontsize=14, ha="left", x=0.01)
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    _all_branches(left, rows, counts, reports)
    _name_branches(right, rows, counts)
    return figure


def _headline(report: SampleFigures) -> str:
    total, heading = report["num_documents"], "major heading" if report["design"]["major_only"] else "heading"
    return (
        f"{total['after']:,} of {total['before']:,} abstracts chosen: how many have a {heading} "
        "in each branch of MeSH's second level"
    )


def _all_branches(
    axes: Axes,
    rows: list[BranchFigures],
    counts: Mapping[str, Mapping[str, int]],
    reports: Mapping[str, SampleFigures],
) -> None:
    places = range(len(rows))
    axes.set_yscale("log")
    axes.bar(places, [row["documents_before"] for row in rows], color=GREY, alpha=0.45, width=1.0, label="corpus")
    for name, style in zip(counts, _styles(), strict=False):
        level = reports[name]["categories"]
        largest = f"the largest {level['largest_share']['after']:.1%}"
        label = f"{format_label(name)}: {level['num_reached']} of {level['num_in_corpus']} branches, {largest}"
        axes.scatter(places, [counts[name][row["branch"]] or NONE_AT for row in rows], **style, s=20, label=label)
    _counts_axis(axes.yaxis)
    axes.set_ylim(bottom=NONE_AT * 0.7, top=8 * max((row["documents_before"] for row in rows), default=1))
    axes.set_xlim(-1, len(rows))
    axes.set_xticks([])
    axes.set_xlabel("branches, from the rarest in the corpus to the most common")
    axes.set_ylabel("abstracts in the branch")
    axes.set_title("All branches", loc="left")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)


def _name_branches(axes: Axes, rows: list[BranchFigures], counts: Mapping[str, Mapping[str, int]]) -> None:
    rare, common = rows[:NUM_RARE], rows[NUM_RARE:][-NUM_COMMON:]
    labelled = [*rare, *common]
    places = [-number - (number >= len(rare)) for number in range(len(labelled))]
    axes.set_xscale("log")
    axes.barh(places, [row["documents_before"] for row in labelled], color=GREY, alpha=0.45, height=0.7)
    for place, row in zip(places, labelled, strict=True):
        axes.annotate(
            f"{row['documents_before']:,}", (row["documents_before"], place), xytext=(7, 0),
            textcoords="offset points", va="center", fontsize=8, color="#5f6368",
        )  # fmt: skip
    for name, style in zip(counts, _styles(), strict=False):
        axes.scatter(
            [counts[name][row["branch"]] or NONE_AT for row in labelled],
            places,
            **style,
            s=34,
            label=format_label(name),
        )
    axes.set_yticks(places, [_label_branch(row) for row in labelled], fontsize=8)
    _counts_axis(axes.xaxis)
    axes.set_xlim(NONE_AT * 0.7, 4 * max((row["documents_before"] for row in rows), default=1))
    axes.set_xlabel("abstracts in the branch; the numbers are those of the corpus")
    axes.set_title(f"The {len(rare)} rarest and the {len(common)} most common", loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _label_branch(row: BranchFigures | BranchHeadings) -> str:
    return f"{format_label(row['name'] or '')}  {format_label(row['branch'])}"


def _styles() -> list[Json]:
    """Return keyword arguments for matplotlib, for each sample."""
    return [{"facecolors": "none", "edgecolors": ORANGE, "zorder": 4, "linewidths": 1.3}, {"color": BLUE, "zorder": 3}]


def _counts_axis(axis: Any) -> None:
    """Make the axis logarithmic, with a place for zero."""
    ticks = [10**power for power in range(9)]
    axis.set_major_locator(FixedLocator([NONE_AT, *ticks]))
    axis.set_major_formatter(FixedFormatter(["none", *(f"{tick:,}" for tick in ticks)]))
    axis.set_minor_locator(NullLocator())
