import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.retrieval.search.fusion import mesh_rerank, reciprocal_rank_fusion

RANKING = st.lists(st.integers(0, 30), unique=True, max_size=15)
WEIGHT = st.floats(0.01, 10)
SIMILARITY = st.none() | st.just(math.nan) | st.floats(0, 1)


def pmids(found: list[tuple[int, float]]) -> list[int]:
    return [pmid for pmid, _ in found]


def test_by_hand() -> None:
    found = reciprocal_rank_fusion([[7, 3, 9], [3, 5]], [1.0, 0.5])
    expected = {3: 1 / 62 + 0.5 / 61, 7: 1 / 61, 9: 1 / 63, 5: 0.5 / 62}
    assert pmids(found) == [3, 7, 9, 5]
    assert dict(found) == pytest.approx(expected, rel=1e-12)


def test_k_says_how_much_the_first_places_stand_out() -> None:
    rankings = [[1, 2, 3], [4, 2, 3]]
    assert pmids(reciprocal_rank_fusion(rankings, [1.0, 1.0])) == [2, 3, 1, 4]
    assert pmids(reciprocal_rank_fusion(rankings, [1.0, 1.0], k=0)) == [1, 2, 4, 3]  # 1, 1/2 + 1/2, 1, 2/3


def test_ties_keep_the_order_of_the_first_ranking() -> None:
    assert pmids(reciprocal_rank_fusion([[8, 2], [2, 8]], [1.0, 1.0])) == [8, 2]
    assert pmids(reciprocal_rank_fusion([[2, 8], [8, 2]], [1.0, 1.0])) == [2, 8]
    assert pmids(reciprocal_rank_fusion([[9], [1]], [1.0, 1.0])) == [9, 1]


def test_what_comes_twice_counts_at_its_first_place() -> None:
    assert reciprocal_rank_fusion([[4, 4, 6]], [1.0]) == [(4, 1 / 61), (6, 1 / 62)]


@given(RANKING, RANKING, RANKING, WEIGHT, WEIGHT, WEIGHT)
def test_every_pmid_is_there_once(a: list[int], b: list[int], c: list[int], u: float, v: float, w: float) -> None:
    found = reciprocal_rank_fusion([a, b, c], [u, v, w])
    assert sorted(pmids(found)) == sorted({*a, *b, *c})
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    # The scores do not depend on the order in which the rankings are given.
    assert dict(found) == dict(reciprocal_rank_fusion([c, a, b], [w, u, v]))


@given(RANKING, RANKING, WEIGHT)
def test_weight_0_leaves_the_other_ranking(a: list[int], b: list[int], weight: float) -> None:
    assert pmids(reciprocal_rank_fusion([a, b], [weight, 0.0])) == a
    assert pmids(reciprocal_rank_fusion([a, b], [0.0, weight])) == b


@given(RANKING, WEIGHT)
def test_a_ranking_fused_with_itself_stays(a: list[int], weight: float) -> None:
    assert pmids(reciprocal_rank_fusion([a, a], [1.0, weight])) == a


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_weights_that_are_none_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        reciprocal_rank_fusion([[1], [2]], [1.0, weight])
    with pytest.raises(ValueError, match="weight"):
        mesh_rerank([1, 2], [0.1, 0.2], weight)


def test_a_weight_is_wanted_for_each_ranking() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reciprocal_rank_fusion([[1], [2]], [1.0])


def test_mesh_by_hand() -> None:
    # By mesh 4, 2, 1. Of weight 1: 1 and 4 have 1/61 + 1/63 each, and 2 has 2/62, which is less.
    assert mesh_rerank([1, 2, 4], [0.1, 0.2, 0.9], 1.0) == [1, 4, 2]
    assert mesh_rerank([1, 2, 4], [0.1, 0.2, 0.9], 0.5) == [1, 2, 4]
    assert mesh_rerank([1, 2, 4], [0.1, 0.2, 0.9], 2.0) == [4, 2, 1]


def test_a_passage_without_descriptors_keeps_its_place() -> None:
    assert mesh_rerank([1, 5, 2, 6, 4], [0.1, None, 0.2, math.nan, 0.9], 100.0) == [4, 5, 2, 6, 1]
    assert mesh_rerank([3, 1, 2], [None, None, None], 1.0) == [3, 1, 2]
    assert mesh_rerank([], [], 1.0) == []


def test_a_doubtful_call_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        mesh_rerank([1, 1], [0.1, 0.2], 1.0)
    with pytest.raises(ValueError, match="shorter"):
        mesh_rerank([1, 2], [0.1], 1.0)


@given(st.lists(st.tuples(st.integers(), SIMILARITY), unique_by=lambda one: one[0], max_size=20), WEIGHT)
def test_mesh_moves_and_loses_nothing(passages: list[tuple[int, float | None]], weight: float) -> None:
    ranking, similarities = [pmid for pmid, _ in passages], [value for _, value in passages]
    moved = mesh_rerank(ranking, similarities, weight)
    assert sorted(moved) == sorted(ranking)
    for place, value in enumerate(similarities):
        if value is None or math.isnan(value):
            assert moved[place] == ranking[place]
    assert mesh_rerank(ranking, similarities, 0.0) == ranking
    assert mesh_rerank(ranking, [0.5] * len(ranking), weight) == ranking
    # Whoever is before another in both respects stays before it.
    at = {pmid: place for place, pmid in enumerate(moved)}
    known = [(pmid, value) for pmid, value in passages if value is not None and not math.isnan(value)]
    for i, (first, high) in enumerate(known):
        assert all(at[first] < at[second] for second, low in known[i + 1 :] if high >= low)
