"""What a comparison measures, as its JSON holds it."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

from kailin_ray.agents.evaluation import PositionBias
from kailin_ray.schema import Json

Interval = list[float]
"""Mean, and the lower and upper end of its 95 % interval."""


class Compared(TypedDict):
    """One measure of two runs; None where nothing could be measured. The difference is new less old."""

    old: Interval | None
    new: Interval | None
    difference: Interval | None


class Figure(Compared):
    """The same, with the number of abstracts that it is of."""

    abstracts: int


class WinCounts(TypedDict):
    """How often the new question won against the old one; ``missing``: how often there was no verdict."""

    wins: int
    ties: int
    losses: int
    missing: int


class JudgeCounts(WinCounts):
    """The judge's verdicts."""

    same_question: int
    """Ties for which nobody was asked: both runs have the same question."""
    faults: dict[str, int]
    """Questions that were not judged, by reason."""
    position_bias: PositionBias


class Openings(TypedDict):
    """The first words of the questions that begin with the commonest ones."""

    old: str | None
    new: str | None


class KindCounts(TypedDict):
    """Counts of one kind of question."""

    rule: WinCounts
    judge: NotRequired[JudgeCounts]
    openings: Openings


class Reasons(TypedDict):
    """Abstracts that were not accepted, by reason."""

    old: dict[str, int]
    new: dict[str, int]


@dataclass(frozen=True)
class Measures:
    """All that is measured of two runs."""

    figures: dict[str, Figure]
    """By name: ``accepted``, or the kind of question and the measure, as ``general.mesh_score``. A win rate is ``new``,
    and its difference is to 0.5."""
    not_accepted: Reasons
    counts: dict[str, KindCounts]
    """By kind: what cannot have an interval."""

    def as_json(self) -> Json:
        """As the file of all figures has it."""
        return {"figures": self.figures, "counts": {"not_accepted": self.not_accepted, **self.counts}}
