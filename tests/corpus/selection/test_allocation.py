import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.corpus.selection.allocation import allocate, largest_quota, most_of_one

SIZES = st.lists(st.integers(0, 300), min_size=1, max_size=12)
POWERS = st.sampled_from([0.0, 0.25, 0.5, 1.0])
SHARES = st.sampled_from([0.05, 0.1, 0.29, 0.5, 1.0])


def test_powers_by_hand() -> None:
    sizes = np.array([900, 100, 0])
    assert allocate(sizes, 100, alpha=1.0).tolist() == [90, 10, 0]
    assert allocate(sizes, 100, alpha=0.5).tolist() == [75, 25, 0]  # 30 to 10
    assert allocate(sizes, 100, alpha=0.0).tolist() == [50, 50, 0]
    # Drawn at rates of 1 to 10, as their branches' frequencies are 1,000 and 100.
    assert allocate(np.array([100, 100]), 11, alpha=0.0, frequency=np.array([1000.0, 100.0])).tolist() == [1, 10]


def test_a_share_caps_and_a_least_lifts() -> None:
    sizes = np.array([900, 60, 40])
    assert allocate(sizes, 100, alpha=1.0).tolist() == [90, 6, 4]
    assert allocate(sizes, 100, alpha=1.0, max_share=0.5).tolist() == [50, 30, 20]
    assert allocate(sizes, 100, alpha=1.0, min_per_stratum=10).tolist() == [80, 10, 10]


def test_the_budget_holds_where_the_bounds_cannot() -> None:
    assert allocate(np.array([50, 50, 50]), 7, min_per_stratum=5).tolist() == [3, 2, 2]
    assert allocate(np.array([50, 5, 50]), 45, max_share=0.2).tolist() == [20, 5, 20]


def test_wrong_numbers_are_refused() -> None:
    for sizes, budget in ([1, -1], 2), ([1], -2):
        with pytest.raises(ValueError, match="0 or more"):
            allocate(np.array(sizes), budget)


@given(SIZES, st.integers(0, 1500), POWERS, SHARES, st.integers(0, 9))
def test_the_budget_is_met_exactly_within_the_bounds(
    sizes: list[int], budget: int, power: float, share: float, least: int
) -> None:
    size = np.array(sizes)
    quotas = allocate(size, budget, alpha=power, max_share=share, min_per_stratum=least)
    target = min(budget, size.sum())
    assert quotas.sum() == target
    assert (quotas >= 0).all() and (quotas <= size).all()
    most = np.minimum(size, most_of_one(budget, share))
    if most.sum() >= target:
        assert (quotas <= most).all()
    if np.minimum(least, most).sum() <= target:
        assert (quotas >= np.minimum(least, most)).all()


@given(SIZES, st.integers(0, 1500), POWERS, st.integers(0, 9))
def test_it_is_sainte_lague(sizes: list[int], budget: int, power: float, least: int) -> None:
    size = np.array(sizes)
    quotas = allocate(size, budget, alpha=power, min_per_stratum=least)
    floors = np.minimum(least, size)
    if floors.sum() > budget:
        return
    # Document by document to whoever has the highest claim, weight / (quota + 1/2).
    expected = floors.copy()
    claims = [
        (-(n**power) / (q + 0.5), i) for i, (n, q) in enumerate(zip(sizes, floors.tolist(), strict=True)) if n > q
    ]
    heapq.heapify(claims)
    for _ in range(int(min(budget, size.sum()) - floors.sum())):
        _, i = heapq.heappop(claims)
        expected[i] += 1
        if expected[i] < size[i]:
            heapq.heappush(claims, (-(sizes[i] ** power) / (expected[i] + 0.5), i))
    # Of equal claims, and of those that rounding cannot tell apart, either may win.
    differ = quotas != expected
    if differ.any():
        assert np.abs(quotas - expected).max() == 1
        last = (size[differ].astype(float) ** power) / (np.minimum(quotas, expected)[differ] + 0.5)
        assert np.allclose(last, last[0], rtol=1e-9)


@given(SIZES, st.integers(0, 400), st.integers(0, 100), POWERS, st.integers(0, 9))
def test_with_a_larger_budget_no_stratum_gives_less(
    sizes: list[int], budget: int, more: int, power: float, least: int
) -> None:
    small, large = (
        allocate(np.array(sizes), number, alpha=power, min_per_stratum=least) for number in (budget, budget + more)
    )
    assert (small <= large).all()


@given(SIZES, SIZES, st.integers(1, 1500), POWERS, SHARES, st.integers(0, 9))
def test_the_largest_quota_bounds_whatever_is_drawn_when_more_is_known(
    now: list[int], later: list[int], budget: int, power: float, share: float, least: int
) -> None:
    before = np.array(now)
    after = before + np.resize(later, len(now))
    bound = largest_quota(before, budget, share)
    assert largest_quota(after, budget, share) <= bound
    assert allocate(after, budget, alpha=power, max_share=share, min_per_stratum=least).max() <= bound
