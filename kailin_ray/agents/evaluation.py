"""The evaluation agent: it prefers the candidate that fits the biomedical hierarchy better.

The rule comes first. It compares the MeSH descriptors of the contexts with those of the source. Sample: for the scores
[0.41, 0.35] it returns ``Verdict(preferred=0, by="rule", margin=0.06)``. The judge is a language model that is scored
by token probabilities, never by generated text. A *pairwise* judge sees both candidates and chooses A or B. It is asked
in both orders, so that position bias cancels out. If P(A) is 0.78 where a candidate is shown first, and P(B) is 0.30
where it is shown second, its probability is 0.54. A *pointwise* judge sees one candidate and chooses yes or no; the two
probabilities of yes are compared.
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
"""A candidate as the judge sees it: the question and the text of its contexts."""


class Agreement(TypedDict):
    """How far two judges agree on ``rows`` rows."""

    rows: int
    share: float | None
    """Share of rows on which both have the same preference."""
    cohens_kappa: float | None


class PositionBias(TypedDict):
    """How far the verdicts of a pairwise judge on ``rows`` rows depend on the order of the candidates."""

    rows: int
    first: float | None
    """Mean probability of the candidate that is shown first; 0.5 means no bias."""
    flipped: float | None
    """Share of rows whose verdict changes with the order."""


@dataclass(frozen=True)
class Verdict:
    """The preferred candidate, who decided, and the margin; all are None if the evaluation abstains."""

    preferred: int | None = None
    by: str | None = None
    margin: float | None = None


ONLY = Verdict(preferred=0, by="only")
"""The verdict on a single candidate. It has no margin, because there is nothing to compare, and no preference pair."""


TIE = 1e-9
"""Scores that differ by at most this are equal: the difference is rounding, not a preference."""


def prefer(scores: Sequence[float | None], min_margin: float, by: str) -> Verdict:
    """Return a verdict that prefers the candidate with the higher score.

    ``scores``: for the rule, each candidate's mean MeSH similarity; for the judge, its probability. The margin is the
    difference. The verdict abstains if a score is missing (None), at a tie, and if the margin is under ``min_margin``.
    """
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or len(scores) < 2:
        return Verdict()
    ranked = sorted(range(len(known)), key=lambda i: known[i], reverse=True)
    margin = known[ranked[0]] - known[ranked[1]]
    return Verdict(ranked[0], by, margin) if margin > TIE and margin >= min_margin else Verdict()


def candidate_score(similarities: Sequence[float | None]) -> float | None:
    """Return the mean of the contexts' similarities, without missing ones; None if all are missing."""
    known = [value for value in similarities if value is not None]
    # fsum, because the score must not depend on the order of the contexts.
    return math.fsum(known) / len(known) if known else None


def from_orders(shown_first: float, shown_second: float) -> list[float]:
    """Return the pairwise judge's probability of both candidates, from the first candidate's in both orders."""
    mean = (shown_first + shown_second) / 2
    return [mean, 1 - mean]


def pairwise_messages(document: Row, first: Shown, second: Shown, examples: bool = True) -> list[Message]:
    """Return messages that ask which of two candidates fits the abstract better; ``first`` is shown as A."""
    return prompt(document, compare_task(first, second), examples)


def pointwise_messages(document: Row, candidate: Shown, examples: bool = True) -> list[Message]:
    """Return messages that ask whether a candidate suits the abstract.

    Only their last line differs from ``answer.messages``.
    """
    return prompt(document, suits_task(*candidate), examples)


def agreement(table: npt.NDArray[np.int64]) -> Agreement:
    """Return how far two judges agree: the share of equal preferences and Cohen's kappa.

    ``table`` (n, n) counts rows by the candidate that the first judge prefers and the candidate that the second judge
    prefers. Kappa is None if they would always agree by chance. Source: doi:10.1177/001316446002000104.
    """
    total = int(table.sum())
    if not total:
        return {"rows": 0, "share": None, "cohens_kappa": None}
    share = float(np.trace(table)) / total
    chance = float(table.sum(axis=0) @ table.sum(axis=1)) / total**2
    kappa = None if math.isclose(chance, 1.0) else round((share - chance) / (1 - chance), 4)
    return {"rows": total, "share": round(share, 4), "cohens_kappa": kappa}


def position_sums(orders: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sums (3,) that ``position_bias`` needs, for some rows; sums of several batches can be added.

    ``orders`` (n, 2): the probability of one candidate where it was shown first, and where it was shown second.
    """
    first = (orders[:, 0] + 1 - orders[:, 1]) / 2
    flipped = (orders[:, 0] - 0.5) * (orders[:, 1] - 0.5) < 0  # a tie in one order is no flip
    return np.array([len(orders), first.sum(), flipped.sum()], dtype=np.float64)


def position_bias(sums: npt.NDArray[np.float64]) -> PositionBias:
    """Return how far the pairwise judge's verdicts depend on the order in which the candidates are shown.

    ``first`` is the mean probability of the candidate that is shown first (0.5: no bias). ``flipped`` is the share of
    rows whose verdict changes with the order.
    """
    rows, first, flipped = sums.tolist()
    if not rows:
        return {"rows": 0, "first": None, "flipped": None}
    return {"rows": int(rows), "first": round(first / rows, 4), "flipped": round(flipped / rows, 4)}
