"""What is drawn: bars, points and labels, and that foreign names are shown as they are."""

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from kailin_ray.corpus.selection.balance import balance
from kailin_ray.corpus.selection.sampling import Design, draw, sketch
from kailin_ray.io.plots import LONGEST, format_label, save
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.coverage import coverage
from kailin_ray.mesh.plots import NONE_AT, draw_coverage, draw_sampling, plot_coverage, plot_sampling
from tests.corpus.selection.test_sampling import COUNTS, random_documents

HOSTILE = {
    r"$\frac{$": r"$\frac{$",
    "$x$ and $y": "$x$ and $y",
    r"a \$ b $c$": r"a \$ b $c$",
    "two\nlines\tand \x1b[2J": "two lines and \\x1b[2J",
    "\u202eright to left": "\\u202eright to left",
    "n" * 10_000: "n" * (LONGEST - 1) + "…",
}


def points(axes: Axes, label: str) -> list[tuple[float, float]]:
    """The points of the scatter whose label begins so."""
    (found,) = (one for one in axes.collections if str(one.get_label()).startswith(label))
    return [(float(x), float(y)) for x, y in found.get_offsets()]


def widths(axes: Axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]


@pytest.fixture(scope="module")
def reports(toy_mesh: MeshHierarchy) -> Any:
    """Figures of samples of the first ``number`` of random documents, by name."""

    def report(number: int, *names: str) -> dict[str, Any]:
        mesh, table = toy_mesh.with_counts(COUNTS), random_documents(100)[:number]
        designs = {
            name: Design(size=10, seed=1, stratify_by="categories" if name == "stratified" else None) for name in names
        }
        wholes = {name: sketch(table, mesh, design) for name, design in designs.items()}
        return {name: balance(wholes[name], draw(wholes[name], designs[name]), mesh, designs[name]) for name in names}

    return report


@pytest.mark.parametrize("number", [0, 1, 100])
@pytest.mark.parametrize("names", [("uniform",), ("uniform", "stratified")])
def test_samples_of_any_size_are_drawn(tmp_path: Path, reports: Any, number: int, names: tuple[str, ...]) -> None:
    figures = reports(number, *names)
    branches = {name: {row["branch"]: row for row in figures[name]["categories"]["branches"]} for name in names}
    before = {branch: row["documents_before"] for branch, row in branches["uniform"].items() if row["documents_before"]}
    order = sorted(before, key=lambda branch: (before[branch], branch))
    assert len(order) == {0: 0, 1: 1, 100: 3}[number]
    figure = plot_sampling(figures)
    left, right = figure.axes
    assert [bar.get_height() for bar in left.patches] == [before[branch] for branch in order]
    assert widths(right) == [before[branch] for branch in order]
    assert [label.get_text().split()[-1] for label in right.get_yticklabels()] == order
    assert len(left.collections) == len(right.collections) == len(names)
    for name in names:
        chosen = [branches[name][branch]["documents_after"] or NONE_AT for branch in order]
        assert [y for _, y in points(left, f"{name}: ")] == chosen
        assert [x for x, _ in points(right, name)] == chosen
    assert figure.get_suptitle().startswith(f"{min(number, 10)} of {number} abstracts")
    draw_sampling(figures, tmp_path / "picture.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "picture.png").shape
    assert (width, height) == (1400, 800)


@pytest.mark.parametrize(
    ("accepted", "reached"), [({}, []), ({"D11": 3}, ["C1"]), ({"D11": 3, "D21": 5, "D52": 1}, ["C1", "C2", "D1"])]
)
@pytest.mark.parametrize("corpus", [{}, {"D11": 4, "D21": 2}])
def test_any_spread_is_drawn(
    tmp_path: Path, toy_mesh: MeshHierarchy, corpus: dict[str, int], accepted: dict[str, int], reached: list[str]
) -> None:
    found = coverage(toy_mesh.with_counts(corpus), accepted, {"D12": 1})
    figure = plot_coverage(found)
    left, right = figure.axes
    rows = [row for row in found["letters"]["branches"] if row["corpus"] or row["accepted"]][::-1]
    assert [label.get_text().split()[-1] for label in left.get_yticklabels()] == [row["branch"] for row in rows]
    assert bool(rows) == bool(corpus or accepted)
    for name, drawn in (("corpus", widths(left)), ("accepted", [x for x, _ in points(left, "accepted")])):
        total = sum(row[name] for row in rows)
        assert drawn == pytest.approx([100 * row[name] / total if total else 0 for row in rows])
    both = [row for row in found["categories"]["branches"] if row["corpus"] and row["accepted"]]
    assert [row["branch"] for row in both] == (reached if corpus else [])
    if both:
        sums = {name: sum(row[name] for row in found["categories"]["branches"]) for name in ("corpus", "accepted")}
        places = [tuple(100 * row[name] / total for name, total in sums.items()) for row in both]
        assert points(right, "accepted") == [pytest.approx(place) for place in places]
        missed = [row for row in found["categories"]["branches"] if row["corpus"] and not row["accepted"]]
        assert len(points(right, "not reached")) == len(missed)
        assert {text.get_text().split()[0] for text in right.texts} == {row["branch"] for row in both}
    else:
        assert [*right.collections, *right.texts] == []
    draw_coverage(found, tmp_path / "picture.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "picture.png").shape
    assert (width, height) == (1430, 715)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_foreign_name_is_shown_as_it_is(tmp_path: Path, reports: Any, toy_mesh: MeshHierarchy, name: str) -> None:
    """Names come from MeSH files; matplotlib takes what is between dollars for a formula, and may fail on it."""
    figures = reports(100, "uniform")
    spread = coverage(toy_mesh.with_counts({"D11": 4, "D21": 2}), {"D11": 3}, {})
    for row in [*figures["uniform"]["categories"]["branches"], *spread["letters"]["branches"]]:
        row["name"] = name
    for row in spread["categories"]["branches"]:
        row["name"] = name
    draw_sampling(figures, tmp_path / "sampling.png")
    draw_coverage(spread, tmp_path / "coverage.png")
    sampling, spread_figure = plot_sampling(figures), plot_coverage(spread)
    for figure, axes in ((sampling, sampling.axes[1]), (spread_figure, spread_figure.axes[0])):
        labels = axes.get_yticklabels()
        assert labels
        for label in labels:
            assert shown(figure, label).rpartition("  ")[0] == HOSTILE[name]
    (annotation,) = spread_figure.axes[1].texts
    assert shown(spread_figure, annotation).startswith(f"C1 {HOSTILE[name]}"[:30])
    assert len(shown(spread_figure, annotation)) <= 34


def shown(figure: Figure, text: Text) -> str:
    """What matplotlib draws for a text: not a formula, and without its escapes."""
    drawn, is_formula = text._preprocess_math(text.get_text())  # type: ignore[attr-defined]
    assert is_formula is False
    assert "\n" not in drawn
    return str(drawn)


def test_a_label_may_be_empty_and_a_file_is_complete_or_not_there(tmp_path: Path) -> None:
    assert format_label("") == ""
    figure = Figure()
    figure.text(0, 0, "$\\nothing{$")
    with pytest.raises(ValueError, match="nothing"):
        save(figure, tmp_path / "a.png", dpi=50)
    assert list(tmp_path.iterdir()) == []
