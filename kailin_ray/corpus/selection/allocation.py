"""A budget of documents shared out among strata: how many each may give.

A stratum's share is proportional to its *weight*, ``size · frequency^(power-1)``, within its bounds. With the size as
its frequency that is ``size^power``, the power allocation of survey sampling (Bankier 1988, The American Statistician
42, 174-177): power 1 draws from all at one rate, power 0 equally many from each.
"""

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def allocate(
    sizes: Counts,
    budget: int,
    *,
    power: float = 0.5,
    max_share: float = 1.0,
    min_per_stratum: int = 0,
    frequency: npt.NDArray[np.float64] | None = None,
) -> Counts:
    """(n,) how many of each stratum's ``sizes`` documents to take: ``min(budget, sizes.sum())`` together, exactly.

    ``max_share``: no stratum gives more than this share of the budget; ``min_per_stratum``: none gives less, as far as
    it has them and its highest share allows. Where both cannot be had with the budget, the budget holds: what is too
    little for every stratum's least is dealt evenly, and so is what is left when all that the shares allow is taken.

    Rounded by Sainte-Laguë's method and not by largest remainders: so with a larger budget no stratum gives less
    (without ``max_share``, whose bounds move with the budget), and the larger sample holds the smaller one. Of strata
    with equal claims to the last documents the first in order get them.

    ``frequency``: of what each stratum stands for, as far as that is not its own size; positive where a stratum has
    documents. Raises ``ValueError`` for a negative size or budget.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if budget < 0 or (sizes < 0).any():
        raise ValueError(f"sizes and budget must be 0 or more, not {budget} and {sizes.min(initial=0)}")
    quotas = np.zeros(len(sizes), dtype=np.int64)
    there = sizes > 0
    size = sizes[there]
    often = size if frequency is None else np.asarray(frequency, dtype=np.float64)[there]
    target = min(budget, int(size.sum()))
    if target:
        most = np.minimum(size, most_of_one(budget, max_share))
        least = np.minimum(min_per_stratum, most)
        even = np.ones(len(size))
        if least.sum() > target:
            quotas[there] = _round_to_sum(even, 0 * least, least, target)
        elif most.sum() < target:
            quotas[there] = _round_to_sum(even, most, size, target)
        else:
            quotas[there] = _round_to_sum(size * often.astype(float) ** (power - 1), least, most, target)
    return quotas


def most_of_one(budget: int, max_share: float) -> int:
    """The documents that ``max_share`` of a budget is, at least one."""
    return max(1, int(max_share * budget + 1e-9))  # 0.29 * 100 is a little less than 29


def largest_quota(sizes: Counts, budget: int, max_share: float) -> int:
    """The most that one stratum can come to give, now or when more documents are known: sizes only grow.

    It falls as they do. More than ``max_share`` only as long as that cannot fill the budget.
    """
    most = most_of_one(budget, max_share)
    if np.minimum(sizes, most).sum() >= budget:
        return most
    if sizes.sum() <= budget:
        return budget
    return int(allocate(sizes, budget, max_share=max_share).max())


def _round_to_sum(weights: npt.NDArray[np.float64], least: Counts, most: Counts, target: int) -> Counts:
    """(n,) whole numbers from ``least`` to ``most`` in proportion to positive weights, whose sum is ``target``."""
    low, high = 0.0, 2.0 * (float(most.max()) + 1) / float(weights.min())

    def at(level: float) -> Counts:
        return np.clip(np.floor(level * weights + 0.5), least, most).astype(np.int64)

    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if at(middle).sum() <= target else (low, middle)
    quotas = at(low)
    quotas[np.flatnonzero(at(high) > quotas)[: target - int(quotas.sum())]] += 1
    return quotas
