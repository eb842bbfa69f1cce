"""The picture of a run: how the corpus and what was accepted and rejected spread over the branches of MeSH."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kailin_ray.files import atomic_file

GREY, BLUE, ORANGE = "#9aa0a6", "#1f6fb2", "#e07b39"
NUM_LABELS = 8


def draw_coverage(coverage: dict[str, Any], path: Path) -> None:
    """Draw what ``mesh.coverage.coverage`` gave as a PNG."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    _letters(left, coverage["letters"])
    _categories(right, coverage["categories"])
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _letters(axes: Axes, level: dict[str, Any]) -> None:
    rows = [row for row in level["branches"] if row["corpus"] or row["accepted"]][::-1]
    corpus, accepted, rejected = (_shares(rows, name) for name in ("corpus", "accepted", "rejected"))
    places = range(len(rows))
    axes.barh(places, corpus, color=GREY, height=0.6, label="corpus")
    axes.scatter(accepted, places, color=BLUE, zorder=3, label="accepted")
    axes.scatter(rejected, places, facecolors="none", edgecolors=ORANGE, zorder=3, label="rejected")
    axes.set_yticks(places, [f"{row['name'] or ''}  {row['branch']}" for row in rows])
    axes.set_xlabel("share of the headings, %")
    axes.set_title(_title("Categories", level), loc="left")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _categories(axes: Axes, level: dict[str, Any]) -> None:
    rows = level["branches"]
    corpus, accepted, rejected = (_shares(rows, name) for name in ("corpus", "accepted", "rejected"))
    both = [(c, a, row) for c, a, row in zip(corpus, accepted, rows, strict=True) if c and a]
    missed = [c for c, a in zip(corpus, accepted, strict=True) if c and not a]
    axes.set_xscale("log")
    axes.set_yscale("log")
    if both:
        turned_down = [(c, r) for c, r in zip(corpus, rejected, strict=True) if c and r]
        places = [c for c, _ in turned_down], [r for _, r in turned_down]
        axes.scatter(*places, s=22, facecolors="none", edgecolors=ORANGE, alpha=0.6, label="rejected")
        axes.scatter([c for c, _, _ in both], [a for _, a, _ in both], color=BLUE, s=18, label="accepted")
        lowest, highest = min(corpus[i] for i in range(len(rows)) if corpus[i]), max(max(corpus), max(accepted))
        axes.plot([lowest, highest], [lowest, highest], color=GREY, linewidth=1, zorder=0)
        floor = min(a for _, a, _ in both) / 2
        axes.scatter(missed, [floor] * len(missed), marker="x", color=ORANGE, s=18, label="not reached by accepted")
        for c, a, row in sorted(both, key=lambda one: -abs(one[1] - one[0]))[:NUM_LABELS]:
            # Above the diagonal there is room to the left, below it to the right.
            side, offset = ("right", (-5, 3)) if a > c else ("left", (5, -8))
            label = f"{row['branch']} {row['name'] or ''}"[:34]
            axes.annotate(label, (c, a), xytext=offset, textcoords="offset points", ha=side, fontsize=8)
        axes.set_xlim(right=8 * highest)
        axes.legend(frameon=False, loc="upper left")
    axes.set_xlabel("share of the corpus' headings, %")
    axes.set_ylabel("share of the accepted (rejected) abstracts' headings, %")
    axes.set_title(_title("Second level", level), loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _shares(rows: list[dict[str, Any]], name: str) -> list[float]:
    total = sum(row[name] for row in rows)
    return [100 * row[name] / total if total else 0.0 for row in rows]


def _title(name: str, level: dict[str, Any]) -> str:
    known = "" if level["divergence"] is None else f", divergence {level['divergence']:.3f} bits"
    return f"{name}: {level['num_reached']} of {level['num_in_corpus']} reached{known}"
