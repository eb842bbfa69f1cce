"""Compute means, paired differences and win rates over abstracts, with 95 % bootstrap intervals (Efron 1979).

All measures of a comparison are resampled together. A resample takes whole abstracts, so old and new stay paired.
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
    """Return the mean and interval of each column (n,), without NaN values; None if all are NaN.

    A resample is of all n abstracts, so the number of a column's values in it varies, as with other abstracts.
    """
    if not columns:
        return {}
    values = np.stack(list(columns.values()), axis=1)
    known = ~np.isnan(values)
    rng, filled = np.random.default_rng(SEED), np.where(known, values, 0.0)
    means = np.full((DRAWS, values.shape[1]), np.nan)
    for draw in range(DRAWS if len(values) else 0):
        times = np.bincount(rng.integers(0, len(values), len(values)), minlength=len(values))
        means[draw] = _means(times, filled, known)
    by_name: dict[str, Interval | None] = {}
    for index, name in enumerate(columns):
        drawn, values_of_column = means[:, index], values[known[:, index], index]
        drawn = drawn[~np.isnan(drawn)]
        by_name[name] = (
            [float(values_of_column.mean()), *np.quantile(drawn, [0.025, 0.975]).tolist()] if len(drawn) else None
        )
    return by_name


def interval(values: Values) -> Interval | None:
    """Return the mean of values (n,), without NaN, and its interval; None if all are NaN."""
    return intervals({"": values})[""]


# Not a matrix product: for one resample at a time this is as fast, and it does not compete for BLAS's threads.
@numba.njit(cache=True, nogil=True)
def _means(times: Any, filled: Any, known: Any) -> Any:
    sums, counts = np.zeros(filled.shape[1]), np.zeros(filled.shape[1])
    for row in range(len(times)):
        for column in range(filled.shape[1]):
            sums[column] += times[row] * filled[row, column]
            counts[column] += times[row] * known[row, column]
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def pair_values(old: Values, new: Values) -> dict[str, Values]:
    """Return columns for ``intervals``: old and new values (n,) where both exist, and their difference."""
    both = ~(np.isnan(old) | np.isnan(new))
    columns = {"old": old, "new": new, "difference": new - old}
    return {name: np.where(both, column, np.nan) for name, column in columns.items()}


def points(old: Values, new: Values, tie: float) -> Values:
    """Return (n,): 1 where new exceeds old by more than ``tie``, 0 for the reverse, 0.5 for a tie, NaN if missing."""
    won = np.where(new - old > tie, 1.0, np.where(new - old < -tie, 0.0, 0.5))
    return np.where(np.isnan(new - old), np.nan, won)


def count_wins(points: Values) -> WinCounts:
    """Count the wins, ties, losses and missing values in ``points``."""
    return WinCounts(
        wins=int((points == 1).sum()),
        ties=int((points == 0.5).sum()),
        losses=int((points == 0).sum()),
        missing=int(np.isnan(points).sum()),
    )
