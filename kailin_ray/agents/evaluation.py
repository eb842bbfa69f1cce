"""The evaluation agent: which of the candidates fits the biomedical hierarchy better.

First a rule: the similarity of the contexts' MeSH descriptors to the source's. Sample: scores [0.41, 0.35] give
``Verdict(preferred=0, by="rule", margin=0.06)``. Then a judge, a language model that is read by its probabilities and
never by its text. *Pairwise* it sees both candidates and says A or B, asked in both orders so that a liking for a
position cancels: P(A) 0.78 shown first and P(B) 0.30 shown second are a probability of 0.54 for that candidate.
*Pointwise* it sees one candidate and says yes or no; the two probabilities of yes are compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from kailin_ray.agents.prompts import Message, compare_task, prompt, suits_task
from kailin_ray.schema import Row

Shown = tuple[str, list[str]]
"""A candidate as the judge sees it: the question, and the contexts' text."""


class Agreement(TypedDict):
    """How far two judges agree on so many ``rows``."""

    rows: int
    share: float | None
    """Of equal preferences."""
    cohens_kappa: float | None


class PositionBias(TypedDict):
    """How the verdict of a pairwise judge on so many ``rows`` hangs on the order in which the candidates are shown."""

    rows: int
    first: float | None
    """The mean probability of what is shown first; 0.5: no bias."""
    flipped: float | None
    """The share of rows whose verdict changes with the order."""


@dataclass(frozen=True)
class Verdict:
    """The preferred candidate, who decided, and by what margin; all None where the evaluation abstains."""

    preferred: int | None = None
    by: str | None = None
    margin: float | None = None


ONLY = Verdict(preferred=0, by="only")
"""A lone candidate: there is nothing to compare it with, so it has no margin and makes no preference pair."""


TIE = 1e-9
"""Scores nearer than this are equal: that is rounding, not a preference."""


def prefer(scores: Sequence[float | None], min_margin: float, by: str) -> Verdict:
    """Prefer the candidate of the higher score.

    ``scores``: for the rule, each candidate's mean MeSH similarity; for the judge, its probability. The margin is the
    difference. It abstains where a score is missing (None), at a tie, and where the margin is under ``min_margin``.
    """
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or len(scores) < 2:
        return Verdict()
    ranked = sorted(range(len(known)), key=lambda i: known[i], reverse=True)
    margin = known[ranked[0]] - known[ranked[1]]
    return Verdict(ranked[0], by, margin) if margin > TIE and margin >= min_margin else Verdict()


def candidate_score(similarities: Sequence[float | None]) -> float | None:
    """The mean of those contexts' similarities that are not missing; None if all are."""
    known = [value for value in similarities if value is not None]
    # fsum: the same contexts in another order give the same score.
    return math.fsum(known) / len(known) if known else None


def from_orders(shown_first: float, shown_second: float) -> list[float]:
    """The pairwise judge's probability of either candidate, from the first one's in both orders."""
    mean = (shown_first + shown_second) / 2
    return [mean, 1 - mean]


def pairwise_messages(document: Row, first: Shown, second: Shown, examples: bool = True) -> list[Message]:
    """Ask which of two candidates fits the abstract better; ``first`` is shown as A."""
    return prompt(document, compare_task(first, second), examples)


def pointwise_messages(document: Row, candidate: Shown, examples: bool = True) -> list[Message]:
    """Ask whether one candidate suits the abstract; ``answer.messages`` differs in the last line alone."""
    return prompt(document, suits_task(*candidate), examples)


def agreement(table: npt.NDArray[np.int64]) -> Agreement:
    """How far two judges agree: the share of equal preferences, and Cohen's kappa (doi:10.1177/001316446002000104).

    ``table`` (n, n): rows by the candidate that the one prefers and the one that the other does. Kappa is None where
    chance alone would make them agree.
    """
    total = int(table.sum())
    if not total:
        return {"rows": 0, "share": None, "cohens_kappa": None}
    share = float(np.trace(table)) / total
    chance = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    kappa = None if math.isclose(chance, 1.0) else round((share - chance) / (1 - chance), 4)
    return {"rows": total, "share": round(share, 4), "cohens_kappa": kappa}


def position_sums(orders: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(3,) what ``position_bias`` needs of some rows; to be added up over all.

    ``orders`` (n, 2): the probability of one candidate where it was shown first, and where it was shown second.
    """
    first = (orders[:, 0] + 1 - orders[:, 1]) / 2
    flipped = (orders[:, 0] - 0.5) * (orders[:, 1] - 0.5) < 0  # a tie in one order turns nothing
    return np.array([len(orders), first.sum(), flipped.sum()], dtype=np.float64)


def position_bias(sums: npt.NDArray[np.float64]) -> PositionBias:
    """How the pairwise judge's verdict hangs on the order in which the candidates are shown.

    ``first`` is the mean probability of what is shown first (0.5: no bias), ``flipped`` the share of rows whose verdict
    changes with the order.
    """
    rows, first, flipped = sums.tolist()
    if not rows:
        return {"rows": 0, "first": None, "flipped": None}
    return {"rows": int(rows), "first": round(first / rows, 4), "flipped": round(flipped / rows, 4)}
