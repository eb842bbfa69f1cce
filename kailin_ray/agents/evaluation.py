"""The evaluation agent: which of the candidates fits the biomedical hierarchy better.

Sample: scores [0.41, 0.35] give ``Verdict(preferred=0, by="rule", margin=0.06)``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The preferred candidate, who decided, and by what margin; all None where the evaluation abstains."""

    preferred: int | None = None
    by: str | None = None
    margin: float | None = None


def mesh_rule(scores: Sequence[float | None], min_margin: float) -> Verdict:
    """Prefer the candidate of the higher MeSH score (m-KAILIN's cold-start rule).

    ``scores`` holds each candidate's mean similarity of its contexts to the source, None where it is missing. The rule
    abstains where a score is missing, at a tie, and where the margin is under ``min_margin``. A lone candidate is
    preferred ``by="only"``, without a margin: there is nothing to compare it with, so it makes no preference pair.
    """
    if len(scores) == 1:
        return Verdict(preferred=0, by="only")
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or not scores:
        return Verdict()
    ranked = sorted(range(len(known)), key=lambda i: known[i], reverse=True)
    margin = known[ranked[0]] - known[ranked[1]]
    return Verdict(ranked[0], "rule", margin) if margin > 0 and margin >= min_margin else Verdict()


def candidate_score(similarities: Sequence[float]) -> float | None:
    """The mean of those contexts' similarities that are not missing (NaN); None if all are."""
    known = [value for value in similarities if not math.isnan(value)]
    return sum(known) / len(known) if known else None
