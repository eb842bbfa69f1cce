from itertools import permutations

import numpy as np
import pytest

from kailin_ray.agents import evaluation
from kailin_ray.agents.evaluation import Verdict, agreement, candidate_score, position_bias, position_sums, prefer
from kailin_ray.agents.prompts import PREAMBLE

DOCUMENT = {"title": "Azide.", "abstract": "Azide preserved tissues."}


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
        ([0.5], 0.0, Verdict()),
        ([0.5, 0.5 + 1e-15], 0.0, Verdict()),  # rounding
        ([], 0.0, Verdict()),
    ],
)
def test_the_higher_score_is_preferred_and_it_abstains_where_it_cannot_tell(
    scores: list[float | None], min_margin: float, verdict: Verdict
) -> None:
    assert prefer(scores, min_margin, "rule") == verdict


def test_a_candidate_s_score_is_the_mean_over_the_contexts_that_have_one() -> None:
    assert candidate_score([0.2, None, 0.4]) == pytest.approx(0.3)
    # The same contexts in any order: the same score.
    assert len({candidate_score(order) for order in permutations([0.1, 0.7, 0.35, 0.2])}) == 1
    assert candidate_score([None]) is None
    assert candidate_score([]) is None


def test_the_pairwise_judge_sees_both_candidates_with_their_contexts_in_order() -> None:
    one, two = ("Does it?", ["first", "second"]), ("How?", [])
    asked = evaluation.pairwise_messages(DOCUMENT, two, one)
    assert asked[:-1] == PREAMBLE
    content = asked[-1]["content"]
    assert content.startswith("Title: Azide.\nAbstract: Azide preserved tissues.\n\n")
    assert "A: How?\nB: Does it?\n[1] first\n[2] second\n" in content


def test_agreement_by_hand() -> None:
    # Equal in 20 + 15 of 50 = 0.7; by chance 25/50·30/50 + 25/50·20/50 = 0.5; kappa (0.7 - 0.5)/(1 - 0.5) = 0.4
    assert agreement(np.array([[20, 5], [10, 15]])) == {"rows": 50, "share": 0.7, "cohens_kappa": 0.4}
    assert agreement(np.array([[0, 5], [5, 0]])) == {"rows": 10, "share": 0.0, "cohens_kappa": -1.0}
    # Both always say the same: chance explains it all.
    assert agreement(np.array([[9, 0], [0, 0]])) == {"rows": 9, "share": 1.0, "cohens_kappa": None}
    assert agreement(np.zeros((2, 2), dtype=np.int64)) == {"rows": 0, "share": None, "cohens_kappa": None}


def test_position_bias_by_hand() -> None:
    # Row 1: 0.8 where shown first, and what is shown first otherwise gets 1 - 0.4 = 0.6; it flips. Row 2: 0.9 and 0.3.
    found = position_bias(position_sums(np.array([[0.8, 0.4]])) + position_sums(np.array([[0.9, 0.7]])))
    assert found == {"rows": 2, "first": pytest.approx((0.8 + 0.6 + 0.9 + 0.3) / 4), "flipped": 0.5}
    assert position_bias(position_sums(np.zeros((0, 2)))) == {"rows": 0, "first": None, "flipped": None}
