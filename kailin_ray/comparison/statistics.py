"""Means and paired differences with their 95 % bootstrap intervals (Efron 1979), over abstracts."""

from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2_000
SEED = 0
AT_ONCE = 4_000_000
"""Numbers that are drawn together."""

Values = npt.NDArray[np.float64]


def interval(values: Values) -> list[float] | None:
    """[mean, low, high] of (n,) values; None of none."""
    if not len(values):
        return None
    rng, means = np.random.default_rng(SEED), np.empty(DRAWS)
    step = max(1, AT_ONCE // len(values))
    for start in range(0, DRAWS, step):
        stop = min(start + step, DRAWS)
        means[start:stop] = values[rng.integers(0, len(values), (stop - start, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(one), 4) for one in (values.mean(), low, high)]


def compared(old: Values, new: Values) -> dict[str, Any]:
    """Means of old and new values of n abstracts, and of what they differ by, where neither is missing (NaN)."""
    both = ~(np.isnan(old) | np.isnan(new))
    old, new = old[both], new[both]
    return {"abstracts": len(old), "old": interval(old), "new": interval(new), "difference": interval(new - old)}


def win_rate(old: Values, new: Values, tie: float) -> dict[str, Any]:
    """How often the new value is the higher one of n abstracts; a tie counts half, a missing value (NaN) not at all."""
    both = ~(np.isnan(old) | np.isnan(new))
    margins = (new - old)[both]
    won, lost = margins > tie, margins < -tie
    points = np.where(won, 1.0, np.where(lost, 0.0, 0.5))
    return {
        "wins": int(won.sum()),
        "ties": int((~won & ~lost).sum()),
        "losses": int(lost.sum()),
        "missing": int((~both).sum()),
        "rate": interval(points),
    }
