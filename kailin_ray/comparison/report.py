"""What a person looks at of a comparison: the table, and what can be said from its intervals alone."""

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
"""Abstracts under which nothing is said: a bootstrap of a few values is too sure of itself."""
TOO_FEW = f"Too few to tell (under {FEWEST} abstracts)"


@dataclass(frozen=True)
class Measure:
    """One figure of a kind of question."""

    name: str
    sense: int
    """1: more is better; -1: less is; 0: neither."""
    group: str
    """What has a unit in common."""
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
    """Of ``KINDS``; empty for what is of no kind."""
    key: str
    measure: Measure
    old: Interval | None
    new: Interval | None
    difference: Interval
    abstracts: int

    @property
    def direction(self) -> int | None:
        """1 where more was measured, -1 where less, 0 where the interval holds 0; None of too few abstracts."""
        _, low, high = self.difference
        return None if self.abstracts < FEWEST else int(low > 0) - int(high < 0)

    @property
    def label(self) -> str:
        """As in a sentence."""
        return f"{self.kind}: {self.measure.name}" if self.kind else self.measure.name


@dataclass(frozen=True)
class ComparisonResult:
    """A comparison that was made."""

    out: Path
    manifest: ComparisonManifest
    measures: Measures
    said: list[str]
    """What can be said of the figures, in sentences."""


def lines(figures: Mapping[str, Figure]) -> list[Line]:
    """The table of ``measures.measured``'s figures; of what could not be measured there is no line."""
    keys = [("", "accepted", ACCEPTED)]
    keys += [(kind, key, measure) for kind in KINDS for key, measure in MEASURES.items()]
    made = []
    for kind, key, measure in keys:
        one = figures.get(f"{kind}.{key}" if kind else key)
        if one and one["difference"]:
            made.append(Line(kind, key, measure, one["old"], one["new"], one["difference"], one["abstracts"]))
    return made


def summarize(figures: Mapping[str, Figure]) -> list[str]:
    """What is better, worse, and not distinguishable: one sentence each, from the intervals alone; then warnings."""
    every = lines(figures)
    told = []
    for group in ("Better", "Worse", "Changed", "Not distinguishable", TOO_FEW):
        mine = [line for line in every if _group(line) == group]
        if mine:
            told.append(f"{group}: {'; '.join(_of_kinds(mine))}.")
    return told + [warning for kind in KINDS for warning in _warnings(kind, [one for one in every if one.kind == kind])]


def _of_kinds(some: list[Line]) -> Iterator[str]:
    for kind in ("", *KINDS):
        names = [line.measure.name + _length(line) for line in some if line.kind == kind]
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


def _warnings(kind: str, mine: list[Line]) -> Iterator[str]:
    """A score that rose while something else gave way is what a reward looks like that was learned for the task."""
    gained = [line.measure.name for line in mine if line.key in SCORES and _group(line) == "Better"]
    if not gained:
        return
    lost = [line.measure.name for line in mine if line.key in DIVERSITY and _group(line) == "Worse"]
    changed = ["length" for line in mine if _group(line) == "Changed"]
    fewer = ["usable questions" for line in mine if line.key == "asked" and _group(line) == "Worse"]
    if lost:
        yield f"Warning: {kind} gained in {_join_names(gained)} and is less varied ({_join_names(lost)}): {HACKED}"
    if changed or fewer:
        yield (
            f"Caution: {kind} gained in {_join_names(gained)} with another {_join_names(changed + fewer)}; that may be "
            "why."
        )


HACKED = "it may have learned the score and not the task."


def _join_names(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def format_comparison(result: ComparisonResult) -> str:
    """What a person wants to know of a comparison."""
    which = "held out" if result.manifest.held_out else "held out or not"
    head = f"{result.out}: {result.manifest.abstracts:,} abstracts, {which}"
    return "\n".join([head, "", table(result.measures.figures), "", *result.said])


def table(figures: Mapping[str, Figure]) -> str:
    """The table as a terminal shows it."""
    rows = [("", "old", "new", "difference", "abstracts")]
    before = ""
    for line in lines(figures):
        if line.kind != before:
            rows.append((f"{line.kind}{_whose(line.kind)}", "", "", "", ""))
            before = line.kind
        name = f"  {line.measure.name}" if line.kind else line.measure.name
        rows.append((name, *_cells(line)))
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def _whose(kind: str) -> str:
    return " question" if kind == PREFERRED else " agent's question"


def _cells(line: Line) -> tuple[str, str, str, str]:
    digits = line.measure.digits
    old, new = ("" if one is None else f"{one[0]:.{digits}f}" for one in (line.old, line.new))
    # Plus zero: what rounds to -0 has no sign.
    mean, low, high = (f"{round(value, digits) + 0.0:+.{digits}f}" for value in line.difference)
    return old, new, f"{mean} ({low} to {high})", f"{line.abstracts:,}"


def card(manifest: ComparisonManifest, measures: Measures) -> str:
    """The folder's README."""
    figures = measures.figures
    rows = [f"| {line.label} | " + " | ".join([*_both(line), *_cells(line)[2:]]) + " |" for line in lines(figures)]
    return "\n".join(
        [
            f"# New against old on {manifest.abstracts:,} abstracts",
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
            "In brackets: 95 % intervals, by a bootstrap over abstracts, paired: old and new are always of the same "
            "abstracts. One interval in twenty misses 0 by chance, so a single small difference in a table of this "
            "length says little. A win rate counts a tie half; its difference, and that of the judge's pairwise "
            "probability, is to 0.5. Shares of distinct words, pairs and triples are of all those in the questions. "
            f"A question nearly repeats another whose set of words is {ALIKE} like its own (Jaccard). These intervals "
            "come from leaving out a quarter of the abstracts again and again. `comparison.json` has every figure.",
            "",
        ]
    )


def _both(line: Line) -> list[str]:
    digits = line.measure.digits
    return [
        "" if one is None else f"{one[0]:.{digits}f} ({one[1]:.{digits}f} to {one[2]:.{digits}f})"
        for one in (line.old, line.new)
    ]


def _about(manifest: ComparisonManifest) -> list[str]:
    which = (
        "held out from all training"
        if manifest.held_out
        else "that both runs have, also such as agents were trained on"
    )
    told = [f"Abstracts {which}; documents `{manifest.documents}`."]
    for side, one in (("old", manifest.old), ("new", manifest.new)):
        agents = (f"{agent} {_model(model)}" for agent, model in one.models.items())
        told.append(f"- {side}: `{one.run}`: {', '.join(agents)}")
    if manifest.judge:
        told.append(f"- judge here, {manifest.judge.form}: {_model(manifest.judge.model)}")
    if manifest.differs:
        told += ["", f"Besides the models, the runs differ in: {', '.join(f'`{key}`' for key in manifest.differs)}."]
    return told


def _model(model: UsedModel) -> str:
    return model.name + (f" + {model.adapter}" if model.adapter else "")


def _counts(measures: Measures) -> list[str]:
    told = []
    for kind, counts in measures.counts.items():
        told.append(f"- {kind}, MeSH rule: {_wins(counts['rule'])}")
        if "judge" in counts:
            told += [f"- {kind}, judge: {_wins(counts['judge'])}", *_judge(kind, counts["judge"])]
        if any(counts["openings"].values()):
            told.append(
                f"- {kind}, commonest opening: old {counts['openings']['old']!r}, new {counts['openings']['new']!r}"
            )
    reasons = measures.not_accepted
    names = sorted(reasons["old"] | reasons["new"], key=list(REASONS).index)
    told += [
        f"- not accepted, {name}: {reasons['old'].get(name, 0):,} old, {reasons['new'].get(name, 0):,} new"
        for name in names
    ]
    return told


def _wins(counts: WinCounts) -> str:
    return (
        f"{counts['wins']:,} wins, {counts['ties']:,} ties, {counts['losses']:,} losses, {counts['missing']:,} missing"
    )


def _judge(kind: str, counts: JudgeCounts) -> Iterator[str]:
    same, bias = counts["same_question"], counts["position_bias"]
    yield f"- {kind}, judge: {same:,} of the ties are the same question in both runs, which nobody was asked about"
    if bias["rows"]:
        yield f"- {kind}, judge: what is shown first gets {bias['first']:.2f}; {bias['flipped']:.0%} of verdicts flip"
    if counts["faults"]:
        faults = ", ".join(f"{number:,} {fault}" for fault, number in counts["faults"].items())
        yield f"- {kind}, judge: not judged: {faults}"
