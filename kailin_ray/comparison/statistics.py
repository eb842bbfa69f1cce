"""Means, paired differences and win rates over abstracts, with 95 % intervals by the bootstrap (Efron 1979).

All measures of a comparison are drawn together: a resample takes whole abstracts, so that old and new stay paired.
"""

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kailin_ray.comparison.figures import Interval, WinCounts

DRAWS = 2_000
SEED = 1

Values = npt.NDArray[np.float64]


def intervals(columns: Mapping[str, Values]) -> dict[str, Interval | None]:
    """The mean and interval of each of some columns (n,), of values that are there (not NaN); None where none is.

    A resample is of all n abstracts, so how many values it has of a column varies, as it would with other abstracts.
    """
    if not columns:
        return {}
    values = np.stack(list(columns.values()), axis=1)
    there = ~np.isnan(values)
    rng, filled = np.random.default_rng(SEED), np.where(there, values, 0.0)
    means = np.full((DRAWS, values.shape[1]), np.nan)
    for draw in range(DRAWS if len(values) else 0):
        times = np.bincount(rng.integers(0, len(values), len(values)), minlength=len(values))
        means[draw] = _means(times, filled, there)
    found: dict[str, Interval | None] = {}
    for place, name in enumerate(columns):
        drawn, known = means[:, place], values[there[:, place], place]
        drawn = drawn[~np.isnan(drawn)]
        found[name] = [float(known.mean()), *np.quantile(drawn, [0.025, 0.975]).tolist()] if len(drawn) else None
    return found


def interval(values: Values) -> Interval | None:
    """The mean of values (n,) that are there (not NaN) and its interval; None of none."""
    return intervals({"": values})[""]


# Not a matrix product: of one resample after the other it is as fast, and does not share BLAS's threads with others.
@numba.njit(cache=True, nogil=True)
def _means(times: Any, filled: Any, there: Any) -> Any:
    sums, counts = np.zeros(filled.shape[1]), np.zeros(filled.shape[1])
    for row in range(len(times)):
        for column in range(filled.shape[1]):
            sums[column] += times[row] * filled[row, column]
            counts[column] += times[row] * there[row, column]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def pair_values(old: Values, new: Values) -> dict[str, Values]:
    """Columns for ``intervals``: old and new values (n,) of those abstracts that have both, and their difference."""
    both = ~(np.isnan(old) | np.isnan(new))
    columns = {"old": old, "new": new, "difference": new - old}
    return {name: np.where(both, column, np.nan) for name, column in columns.items()}


def points(old: Values, new: Values, tie: float) -> Values:
    """(n,) 1 where new is higher than old by more than ``tie``, 0 where it is lower, 0.5 at a tie, NaN of missing."""
    won = np.where(new - old > tie, 1.0, np.where(new - old < -tie, 0.0, 0.5))
    return np.where(np.isnan(new - old), np.nan, won)


def count_wins(points: Values) -> WinCounts:
    """How many wins, ties, losses and missing values there are among ``points``."""
    return WinCounts(
        wins=int((points == 1).sum()),
        ties=int((points == 0.5).sum()),
        losses=int((points == 0).sum()),
        missing=int(np.isnan(points).sum()),
    )
