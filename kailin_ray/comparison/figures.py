"""The figures of a comparison, in the form of its JSON file."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from kailin_ray.agents.evaluation import PositionBias
from kailin_ray.schema import Json

Interval = list[float]
"""Mean, lower end and upper end of the 95 % interval."""


class Compared(TypedDict):
    """One measure of two runs; None where nothing could be measured. The difference is new minus old."""

    old: Interval | None
    new: Interval | None
    difference: Interval | None


class Figure(Compared):
    """The same, with the number of abstracts measured."""

    abstracts: int


class WinCounts(TypedDict):
    """How often the new question won against the old question; ``missing``: how often there was no verdict."""

    wins: int
    ties: int
    losses: int
    missing: int


class JudgeCounts(WinCounts):
    """The judge's verdicts."""

    same_question: int
    """Ties without a call to the judge: both runs have the same question."""
    faults: dict[str, int]
    """Number of pairs that were not judged, by reason."""
    position_bias: PositionBias


class Openings(TypedDict):
    """The commonest first words of the questions."""

    old: str | None
    new: str | None


class KindCounts(TypedDict):
    """Counts of one kind of question."""

    rule: WinCounts
    judge: NotRequired[JudgeCounts]
    openings: Openings


class Reasons(TypedDict):
    """Number of abstracts that were not accepted, by reason."""

    old: dict[str, int]
    new: dict[str, int]


@dataclass(frozen=True)
class Measures:
    """All figures of two runs."""

    figures: dict[str, Figure]
    """By name: ``accepted``, or the kind of question and the measure, such as ``general.mesh_score``. A win rate is in
    ``new``; its difference is to 0.5."""
    not_accepted: Reasons
    counts: dict[str, KindCounts]
    """Counts by kind of question; they have no interval."""

    def as_json(self) -> Json:
        """Return the figures and counts as ``comparison.json`` holds them."""
        return {"figures": self.figures, "counts": {"not_accepted": self.not_accepted, **self.counts}}
