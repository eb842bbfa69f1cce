"""Write a comparison's table, README card, and conclusions, which follow from the intervals alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kailin_ray.comparison.diversity import ALIKE
from kailin_ray.comparison.figures import Figure, Interval, JudgeCounts, Measures, WinCounts
from kailin_ray.comparison.manifest import ComparisonManifest
from kailin_ray.comparison.pairs import KINDS, PREFERRED
from kailin_ray.dataset.run import UsedModel
from kailin_ray.schema import REASONS

FEWEST = 20
"""With fewer abstracts nothing is concluded: a bootstrap over a few values has too narrow intervals."""
TOO_FEW = f"Too few to tell (under {FEWEST} abstracts)"


@dataclass(frozen=True)
class Measure:
    """A measure of one kind of question."""

    name: str
    sense: int
    """1: more is better; -1: less is better; 0: neither."""
    group: str
    """Measures of a group have the same unit."""
    digits: int = 3


GROUPS = WIN_RATE, SCORE, WORDS, SHARE = ("win rate, less 0.5", "MeSH score", "words", "share")

SCORES = {
    "rule": Measure("wins under the MeSH rule", 1, WIN_RATE),
    "judge": Measure("wins under the judge", 1, WIN_RATE),
    "judge_probability": Measure("the judge's probability", 1, WIN_RATE),
    "mesh_score": Measure("MeSH score", 1, SCORE, 4),
}
DIVERSITY = {
    "distinct_1": Measure("distinct words", 1, SHARE),
    "distinct_2": Measure("distinct pairs of words", 1, SHARE),
    "distinct_3": Measure("distinct triples of words", 1, SHARE),
    "exact_repeats": Measure("repeats another abstract's question", -1, SHARE),
    "near_repeats": Measure("nearly repeats another's", -1, SHARE),
    "commonest_opening": Measure("begins with the commonest three words", -1, SHARE),
}
MEASURES = {
    **SCORES,
    "asked": Measure("gave a usable question", 1, SHARE),
    "words": Measure("words", 0, WORDS, 2),
    **DIVERSITY,
}
ACCEPTED = Measure("abstracts accepted", 1, SHARE)


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    kind: str
    """One of ``KINDS``; empty for a measure of the abstracts."""
    key: str
    measure: Measure
    old: Interval | None
    new: Interval | None
    difference: Interval
    abstracts: int

    @property
    def direction(self) -> int | None:
        """1 if new is larger, -1 if it is smaller, 0 if the interval contains 0; None for too few abstracts."""
        _, low, high = self.difference
        return None if self.abstracts < FEWEST else int(low > 0) - int(high < 0)

    @property
    def label(self) -> str:
        """The measure's name with the kind of question."""
        return f"{self.kind}: {self.measure.name}" if self.kind else self.measure.name


@dataclass(frozen=True)
class ComparisonResult:
    """A finished comparison."""

    out: Path
    manifest: ComparisonManifest
    measures: Measures
    said: list[str]
    """The conclusions from the figures, in sentences."""


def lines(figures: Mapping[str, Figure]) -> list[Line]:
    """Return the table's lines for the figures of ``measures.measure``; a measure without values has no line."""
    keys = [("", "accepted", ACCEPTED)]
    keys += [(kind, key, measure) for kind in KINDS for key, measure in MEASURES.items()]
    table_lines = []
    for kind, key, measure in keys:
        figure = figures.get(f"{kind}.{key}" if kind else key)
        if figure and figure["difference"]:
            table_lines.append(
                Line(kind, key, measure, figure["old"], figure["new"], figure["difference"], figure["abstracts"])
            )
    return table_lines


def summarize(figures: Mapping[str, Figure]) -> list[str]:
    """Return sentences on what is better, worse and not distinguishable, from the intervals alone; then warnings."""
    all_lines = lines(figures)
    sentences = []
    for group in ("Better", "Worse", "Changed", "Not distinguishable", TOO_FEW):
        group_lines = [line for line in all_lines if _group(line) == group]
        if group_lines:
            sentences.append(f"{group}: {'; '.join(_of_kinds(group_lines))}.")
    return sentences + [
        warning for kind in KINDS for warning in _warnings(kind, [line for line in all_lines if line.kind == kind])
    ]


def _of_kinds(group_lines: list[Line]) -> Iterator[str]:
    for kind in ("", *KINDS):
        names = [line.measure.name + _length(line) for line in group_lines if line.kind == kind]
        if names:
            yield (f"{kind} question: " if kind else "") + ", ".join(names)


def _group(line: Line) -> str:
    if line.direction is None:
        return TOO_FEW
    if line.direction == 0:
        return "Not distinguishable"
    if line.measure.sense == 0:
        return "Changed"
    return "Better" if line.direction == line.measure.sense else "Worse"


def _length(line: Line) -> str:
    return f" ({'longer' if line.direction == 1 else 'shorter'})" if line.key == "words" and line.direction else ""


def _warnings(kind: str, kind_lines: list[Line]) -> Iterator[str]:
    """Yield warnings if a score rose while something else changed: the agent may have learned to raise the score."""
    gained = [line.measure.name for line in kind_lines if line.key in SCORES and _group(line) == "Better"]
    if not gained:
        return
    lost = [line.measure.name for line in kind_lines if line.key in DIVERSITY and _group(line) == "Worse"]
    changed = ["length" for line in kind_lines if _group(line) == "Changed"]
    fewer = ["usable questions" for line in kind_lines if line.key == "asked" and _group(line) == "Worse"]
    if lost:
        yield f"Warning: {kind} gained in {_join_names(gained)} and is less varied ({_join_names(lost)}): {HACKED}"
    if changed or fewer:
        yield (
            f"Caution: {kind} gained in {_join_names(gained)} while {_join_names(changed + fewer)} changed; that may "
            "be why."
        )


HACKED = "it may have learned the score and not the task."


def _join_names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def format_comparison(result: ComparisonResult) -> str:
    """Return a comparison's table and conclusions as text."""
    which = "held out" if result.manifest.held_out else "held out or not"
    head = f"{result.out}: {result.manifest.abstracts:,} abstracts, {which}"
    return "\n".join([head, "", table(result.measures.figures), "", *result.said])


def table(figures: Mapping[str, Figure]) -> str:
    """Return the table as text for a terminal."""
    rows = [("", "old", "new", "difference", "abstracts")]
    last_kind = ""
    for line in lines(figures):
        if line.kind != last_kind:
            rows.append((f"{line.kind}{_whose(line.kind)}", "", "", "", ""))
            last_kind = line.kind
        name = f"  {line.measure.name}" if line.kind else line.measure.name
        rows.append((name, *_cells(line)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def _whose(kind: str) -> str:
    return " question" if kind == PREFERRED else " agent's question"


def _cells(line: Line) -> tuple[str, str, str, str]:
    digits = line.measure.digits
    old, new = ("" if interval is None else f"{interval[0]:.{digits}f}" for interval in (line.old, line.new))
    # Adding zero removes the sign of -0.
    mean, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in line.difference)
    return old, new, f"{mean} ({low} to {high})", f"{line.abstracts:,}"


def card(manifest: ComparisonManifest, measures: Measures) -> str:
    """Return the folder's README."""
    figures = measures.figures
    rows = [f"| {line.label} | " + " | ".join([*_both(line), *_cells(line)[2:]]) + " |" for line in lines(figures)]
    return "\n".join(
        [
            f"# New run compared with old run on {manifest.abstracts:,} abstracts",
            "",
            *_about(manifest),
            "",
            "| | old | new | difference | abstracts |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "\n\n".join(summarize(figures)),
            "",
            *_counts(measures),
            "",
            "![differences with their intervals](comparison.png)",
            "",
            "## How to read it",
            "",
            "The brackets contain 95 % intervals from a paired bootstrap: old and new are always measured on the same "
            "abstracts. One interval in twenty misses 0 by chance, so a single small difference in a table of this "
            "length says little. A win rate counts a tie as half a win. The differences of win rates and of the "
            "judge's pairwise probability are to 0.5. Distinct words, pairs and triples are shares of all words, pairs "
            "and triples in the questions. Two questions nearly repeat each other if their sets of words have a "
            f"Jaccard similarity of at least {ALIKE}. The intervals of distinct words, repeats and openings come from "
            "leaving out a random quarter of the abstracts many times. `comparison.json` has every figure.",
            "",
        ]
    )


def _both(line: Line) -> list[str]:
    digits = line.measure.digits
    return [
        "" if interval is None else f"{interval[0]:.{digits}f} ({interval[1]:.{digits}f} to {interval[2]:.{digits}f})"
        for interval in (line.old, line.new)
    ]


def _about(manifest: ComparisonManifest) -> list[str]:
    which = (
        "held out from all training"
        if manifest.held_out
        else "that both runs have, including those that agents were trained on"
    )
    text_lines = [f"Abstracts {which}; documents `{manifest.documents}`."]
    for side, run in (("old", manifest.old), ("new", manifest.new)):
        agents = (f"{agent} {_model(model)}" for agent, model in run.models.items())
        text_lines.append(f"- {side}: `{run.run}`: {', '.join(agents)}")
    if manifest.judge:
        text_lines.append(f"- judge of this comparison, {manifest.judge.mode}: {_model(manifest.judge.model)}")
    if manifest.differs:
        text_lines += [
            "",
            f"Besides the models, the runs differ in: {', '.join(f'`{key}`' for key in manifest.differs)}.",
        ]
    return text_lines


def _model(model: UsedModel) -> str:
    return model.name + (f" + {model.adapter}" if model.adapter else "")


def _counts(measures: Measures) -> list[str]:
    items = []
    for kind, counts in measures.counts.items():
        items.append(f"- {kind}, MeSH rule: {_wins(counts['rule'])}")
        if "judge" in counts:
            items += [f"- {kind}, judge: {_wins(counts['judge'])}", *_judge(kind, counts["judge"])]
        if any(counts["openings"].values()):
            items.append(
                f"- {kind}, commonest opening: old {counts['openings']['old']!r}, new {counts['openings']['new']!r}"
            )
    reasons = measures.not_accepted
    names = sorted(reasons["old"] | reasons["new"], key=list(REASONS).index)
    items += [
        f"- not accepted, {name}: {reasons['old'].get(name, 0):,} old, {reasons['new'].get(name, 0):,} new"
        for name in names
    ]
    return items


def _wins(counts: WinCounts) -> str:
    return (
        f"{counts['wins']:,} wins, {counts['ties']:,} ties, {counts['losses']:,} losses, {counts['missing']:,} missing"
    )


def _judge(kind: str, counts: JudgeCounts) -> Iterator[str]:
    same, bias = counts["same_question"], counts["position_bias"]
    yield f"- {kind}, judge: {same:,} of the ties are the same question in both runs, on which the judge was not asked"
    if bias["rows"]:
        yield (
            f"- {kind}, judge: the question shown first gets probability {bias['first']:.2f}; "
            f"{bias['flipped']:.0%} of verdicts flip with the order"
        )
    if counts["faults"]:
        faults = ", ".join(f"{number:,} {fault}" for fault, number in counts["faults"].items())
        yield f"- {kind}, judge: not judged: {faults}"
