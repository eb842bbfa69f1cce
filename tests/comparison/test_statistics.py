"""Intervals, paired differences and win rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.comparison.statistics import compared, interval, win_rate

VALUES = st.lists(st.floats(-10, 10, allow_nan=False), min_size=1, max_size=40)


@given(VALUES)
def test_an_interval_holds_the_mean_and_lies_within_the_values(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found is not None
    mean, low, high = found
    assert min(values) - 1e-3 <= low <= mean + 1e-3
    assert mean - 1e-3 <= high <= max(values) + 1e-3


def test_an_interval_has_the_width_of_the_mean_s_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = interval(values)
    assert found is not None
    assert found[2] - found[1] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert interval(np.zeros(0)) is None


@given(VALUES)
def test_the_same_values_do_not_differ(values: list[float]) -> None:
    found = compared(np.array(values), np.array(values))
    assert found["difference"] == [0, 0, 0]
    assert found["old"] == found["new"]
    assert win_rate(np.array(values), np.array(values), 1e-9)["rate"] == [0.5, 0.5, 0.5]


def test_differences_are_paired_and_leave_out_what_is_missing_on_either_side() -> None:
    old = np.array([1.0, 10.0, np.nan, 5.0])
    new = np.array([2.0, 11.0, 3.0, np.nan])
    found = compared(old, new)
    assert (found["abstracts"], found["difference"]) == (2, [1, 1, 1])  # far apart as they are, each rose by one
    assert (found["old"][0], found["new"][0]) == (5.5, 6.5)


def test_a_win_rate_counts_ties_half() -> None:
    old = np.array([0.1, 0.2, 0.3, 0.4, np.nan])
    new = np.array([0.2, 0.2, 0.3 + 1e-12, 0.1, 0.5])
    found = win_rate(old, new, 1e-9)
    assert [found[name] for name in ("wins", "ties", "losses", "missing")] == [1, 2, 1, 1]
    assert found["rate"][0] == 0.5


def test_many_values_are_drawn_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=500)
    whole = interval(values)
    monkeypatch.setattr("kailin_ray.comparison.statistics.AT_ONCE", 3_000)
    assert interval(values) == pytest.approx(whole, abs=0.02)
