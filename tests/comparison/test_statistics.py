"""Intervals, paired differences and win rates, by hand and by property."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.comparison import statistics
from kailin_ray.comparison.statistics import count_wins, interval, intervals, pair_values, points

NAN = float("nan")
VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=40)
GAPPED = st.lists(st.floats(-10, 10) | st.just(NAN), min_size=1, max_size=40)


@pytest.fixture(autouse=True, scope="module")
def few_draws() -> None:
    """Hypothesis asks often."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(statistics, "DRAWS", 200)
        yield


@given(VALUES)
def test_an_interval_lies_within_the_values(values: list[float]) -> None:
    found = interval(np.array(values))
    assert found is not None
    _, low, high = found
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@given(st.floats(-10, 10), st.integers(1, 30))
def test_equal_values_have_no_width(value: float, number: int) -> None:
    assert interval(np.full(number, value)) == pytest.approx([value] * 3)


def test_an_interval_has_the_width_of_the_mean_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "DRAWS", 2_000)
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = interval(values)
    assert found is not None
    assert found[0] == values.mean()
    assert found[2] - found[1] == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_it_is_the_textbook_s_bootstrap() -> None:
    values = np.random.default_rng(2).normal(size=137)
    drawn = values[np.random.default_rng(statistics.SEED).integers(0, 137, (statistics.DRAWS, 137))].mean(axis=1)
    assert interval(values) == pytest.approx([values.mean(), *np.percentile(drawn, [2.5, 97.5])])


@given(GAPPED)
def test_columns_do_not_hang_on_one_another_and_gaps_are_left_out(values: list[float]) -> None:
    column = np.array(values)
    together = intervals({"other": np.arange(len(column), dtype=float), "one": column, "none": column * NAN})
    assert together["none"] is None
    assert together["one"] == interval(column)
    known = column[~np.isnan(column)]
    assert (together["one"] is None) == (len(known) == 0)
    if together["one"]:
        assert together["one"][0] == pytest.approx(known.mean())


def test_of_nothing_there_is_no_interval() -> None:
    assert interval(np.zeros(0)) is None
    assert intervals({}) == {}


@given(GAPPED)
def test_the_same_values_do_not_differ(values: list[float]) -> None:
    column = np.array(values)
    found = intervals(pair_values(column, column) | {"points": points(column, column, 1e-9)})
    assert found["old"] == found["new"]
    if found["old"]:
        assert (found["difference"], found["points"]) == ([0, 0, 0], [0.5, 0.5, 0.5])


def test_differences_are_paired_and_leave_out_what_is_missing_on_either_side() -> None:
    found = intervals(pair_values(np.array([1.0, 10.0, NAN, 5.0]), np.array([2.0, 11.0, 3.0, NAN])))
    # Far apart as they are, each rose by one.
    assert found["difference"] == pytest.approx([1, 1, 1])
    assert found["old"] is not None
    assert found["old"][0] == 5.5


def test_points_are_given_for_wins_and_half_for_ties() -> None:
    old = np.array([0.1, 0.2, 0.3, 0.4, NAN, 0.1])
    new = np.array([0.2, 0.2, 0.3 + 1e-12, 0.1, 0.5, NAN])
    found = points(old, new, 1e-9)
    assert found[:4].tolist() == [1, 0.5, 0.5, 0]
    assert count_wins(found) == {"wins": 1, "ties": 2, "losses": 1, "missing": 2}


@given(GAPPED, st.randoms())
def test_who_wins_when_sides_change_loses(values: list[float], dice: object) -> None:
    old = np.array(values)
    new = np.array(dice.sample(values, len(values)))  # type: ignore[attr-defined]
    one, other = count_wins(points(old, new, 1e-9)), count_wins(points(new, old, 1e-9))
    assert (one["wins"], one["ties"], one["missing"]) == (other["losses"], other["ties"], other["missing"])
    assert sum(one.values()) == len(values)
