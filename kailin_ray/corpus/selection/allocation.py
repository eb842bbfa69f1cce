"""Allocate a budget of documents among strata.

The share of a stratum is proportional to its *weight*, ``size · frequency^(alpha-1)``, within its bounds. If the
frequency is the size, the weight is ``size^alpha``, the power allocation of survey sampling (Bankier 1988, The American
Statistician 42, 174-177). alpha 1 draws from all strata at the same rate; alpha 0 draws the same number from each.
"""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def allocate(
    sizes: Counts,
    budget: int,
    *,
    alpha: float = 0.5,
    max_share: float = 1.0,
    min_per_stratum: int = 0,
    frequency: npt.NDArray[np.float64] | None = None,
) -> Counts:
    """Return (n,) the number of documents to take from each stratum; the sum is exactly ``min(budget, sizes.sum())``.

    ``sizes`` (n,): number of documents of each stratum. ``max_share``: no stratum gets more than this share of the
    budget. ``min_per_stratum``: no stratum gets less, as far as its size and ``max_share`` allow. If the budget cannot
    satisfy both, the budget holds. A budget too small for all minimums is distributed evenly. If all strata reach
    ``max_share`` and budget remains, the remainder is distributed evenly.

    Shares are rounded by Sainte-Laguë's method instead of largest remainders. So no stratum gets less from a larger
    budget, and the larger sample contains the smaller one (without ``max_share``, whose bounds depend on the budget).
    If strata tie for the last documents, the first strata get them.

    ``frequency`` (n,): the frequency of what each stratum represents, if that is not its size; positive for strata that
    have documents. Raises ``ValueError`` for a negative size or budget.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if budget < 0 or (sizes < 0).any():
        raise ValueError(f"sizes and budget must be 0 or more, not {budget} and {sizes.min(initial=0)}")
    quotas = np.zeros(len(sizes), dtype=np.int64)
    nonempty = sizes > 0
    size = sizes[nonempty]
    often = size if frequency is None else np.asarray(frequency, dtype=np.float64)[nonempty]
    target = min(budget, int(size.sum()))
    if target:
        most = np.minimum(size, most_of_one(budget, max_share))
        least = np.minimum(min_per_stratum, most)
        even = np.ones(len(size))
        if least.sum() > target:
            quotas[nonempty] = _round_to_sum(even, 0 * least, least, target)
        elif most.sum() < target:
            quotas[nonempty] = _round_to_sum(even, most, size, target)
        else:
            quotas[nonempty] = _round_to_sum(size * often.astype(float) ** (alpha - 1), least, most, target)
    return quotas


def most_of_one(budget: int, max_share: float) -> int:
    """Return how many documents ``max_share`` of a budget is, at least one."""
    return max(1, int(max_share * budget + 1e-9))  # 0.29 * 100 is a little less than 29


def largest_quota(sizes: Counts, budget: int, max_share: float) -> int:
    """Return the largest quota that one stratum can get, now or after its ``sizes`` have grown.

    It falls as the sizes grow. It exceeds ``max_share`` only while quotas within ``max_share`` cannot fill the budget.
    """
    most = most_of_one(budget, max_share)
    if np.minimum(sizes, most).sum() >= budget:
        return most
    if sizes.sum() <= budget:
        return budget
    return int(allocate(sizes, budget, max_share=max_share).max())


def _round_to_sum(weights: npt.NDArray[np.float64], least: Counts, most: Counts, target: int) -> Counts:
    """Return (n,) integers from ``least`` to ``most``, proportional to positive weights, whose sum is ``target``."""
    low, high = 0.0, 2.0 * (float(most.max()) + 1) / float(weights.min())

    def at(level: float) -> Counts:
        return np.clip(np.floor(level * weights + 0.5), least, most).astype(np.int64)

    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if at(middle).sum() <= target else (low, middle)
    quotas = at(low)
    quotas[np.flatnonzero(at(high) > quotas)[: target - int(quotas.sum())]] += 1
    return quotas
