"""What a person looks at of a comparison: the table, what can be said from it, the picture."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kailin_ray.comparison.pairs import KINDS, PREFERRED
from kailin_ray.files import atomic_file
from kailin_ray.picture import BLUE, GREY, ORANGE

Line = tuple[str, list[float] | None, list[float] | None, list[float] | None, int]
"""What, old, new, difference (each [mean, low, high]), and whether more is better: 1, -1, or 0 for neither."""


def lines(found: dict[str, Any]) -> list[Line]:
    """All that has an interval."""
    made: list[Line] = [("accepted", *_three(found["accepted"]), 1)]
    for kind in KINDS:
        mine = found["questions"][kind]
        if kind != PREFERRED:
            made.append((f"{kind}: gave a question", *_three(mine["asked"]), 1))
        made.append((f"{kind}: MeSH score", *_three(mine["mesh_score"]), 1))
        made.append((f"{kind}: wins under the rule", None, mine["rule"]["rate"], _less_half(mine["rule"]["rate"]), 1))
        if found["judge"]:
            rate = found["judge"][kind]["rate"]
            made.append((f"{kind}: wins under the judge", None, rate, _less_half(rate), 1))
        made.append((f"{kind}: words", *_three(mine["words"]), 0))
    return [line for line in made if line[3] is not None]


def _three(compared: dict[str, Any]) -> tuple[Any, Any, Any]:
    return compared["old"], compared["new"], compared["difference"]


def _less_half(rate: list[float] | None) -> list[float] | None:
    return None if rate is None else [round(one - 0.5, 4) for one in rate]


def card(found: dict[str, Any]) -> str:
    """The folder's README."""
    held = "abstracts that were held out from training" if found["held_out"] else "abstracts, those trained on too"
    rows = [
        f"| {name} | {_shown(old)} | {_shown(new)} | {_shown(difference, sign=True)} |"
        for name, old, new, difference, _ in lines(found)
    ]
    for kind in KINDS:
        both = found["questions"][kind]["diversity"]
        for name in ("distinct_1", "distinct_2", "distinct_3", "repeats", "near_repeats", "commonest_opening"):
            old, new = both["old"][name], both["new"][name]
            if old is not None and new is not None:
                rows.append(f"| {kind}: {name.replace('_', ' ')} | {old:.3f} | {new:.3f} | {new - old:+.3f} |")
    return "\n".join(
        [
            f"# New against old: {found['abstracts']:,} {held}",
            "",
            f"Old: `{found['old']['run']}`; new: `{found['new']['run']}`. Means with 95 % bootstrap intervals over "
            "abstracts; a win rate's difference is to 0.5. Diversity has no interval: it depends on the number of "
            "questions, so compare it at equal numbers only.",
            "",
            "| | old | new | difference |",
            "|---|---|---|---|",
            *rows,
            "",
            *verdict(found),
            "",
            "![differences](comparison.png)",
            "",
        ]
    )


def _shown(three: list[float] | None, sign: bool = False) -> str:
    if three is None:
        return ""
    mean, low, high = three
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if sign else f"{mean:.3f} ({low:.3f} to {high:.3f})"


def verdict(found: dict[str, Any]) -> list[str]:
    """What the intervals say, and nothing beyond."""
    better: list[str] = []
    worse: list[str] = []
    open_: list[str] = []
    other: list[str] = []
    for name, _, _, difference, sense in lines(found):
        assert difference
        _, low, high = difference
        if low <= 0 <= high:
            open_.append(name)
        elif sense == 0:
            other.append(f"{name} {'more' if low > 0 else 'fewer'}")
        else:
            (better if (low > 0) == (sense > 0) else worse).append(name)
    said = [("Better", better), ("Worse", worse), ("Changed", other), ("Not distinguishable", open_)]
    told = [f"{word}: {'; '.join(names)}." for word, names in said if names]
    for kind in KINDS:
        both = found["questions"][kind]["diversity"]
        before, after = both["old"]["near_repeats"], both["new"]["near_repeats"]
        if before is not None and after is not None and after > before + 0.05:
            told.append(
                f"Less varied: {after:.0%} of the {kind} questions nearly repeat another one, {before:.0%} before: "
                "a reward may have been learned instead of the task."
            )
    return told


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the differences with their intervals, each in units of its own, as a PNG."""
    rows = [line for line in lines(found) if not line[0].endswith("words")][::-1]
    figure = Figure(figsize=(8, 0.42 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=GREY, linewidth=1)
    for place, (_, _, _, difference, _) in enumerate(rows):
        assert difference
        mean, low, high = difference
        colour = GREY if low <= 0 <= high else BLUE if mean > 0 else ORANGE
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([mean], [place], color=colour, marker="o")
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_xlabel("new less old (win rates: less 0.5), 95 % intervals")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
