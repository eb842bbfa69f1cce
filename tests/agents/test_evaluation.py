import math

import pytest

from kailin_ray.agents.evaluation import Verdict, candidate_score, mesh_rule


@pytest.mark.parametrize(
    ("scores", "min_margin", "verdict"),
    [
        ([0.5, 0.25], 0.0, Verdict(0, "rule", 0.25)),
        ([0.25, 0.5], 0.0, Verdict(1, "rule", 0.25)),
        ([0.5, 0.25], 0.25, Verdict(0, "rule", 0.25)),
        ([0.5, 0.25], 0.3, Verdict()),
        ([0.5, 0.5], 0.0, Verdict()),
        ([0.5, None], 0.0, Verdict()),
        ([None, None], 0.0, Verdict()),
        ([0.5], 0.3, Verdict(0, "only", None)),
        ([None], 0.0, Verdict(0, "only", None)),
        ([], 0.0, Verdict()),
    ],
)
def test_the_rule_prefers_the_higher_score_and_abstains_where_it_cannot_tell(
    scores: list[float | None], min_margin: float, verdict: Verdict
) -> None:
    assert mesh_rule(scores, min_margin) == verdict


def test_a_candidate_s_score_is_the_mean_over_the_contexts_that_have_one() -> None:
    assert candidate_score([0.2, math.nan, 0.4]) == pytest.approx(0.3)
    assert candidate_score([math.nan]) is None
    assert candidate_score([]) is None
