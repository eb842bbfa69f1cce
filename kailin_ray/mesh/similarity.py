"""Similarity of descriptors, compiled: no Python loop over pairs.

Lin, D. (1998). An information-theoretic definition of similarity. ICML, 296-304.
Best-match average: Pesquita et al. (2008), doi:10.1186/1471-2105-9-S5-S4.
"""

import numba
import numpy as np
import numpy.typing as npt

MEASURES = ("lin",)
AGGREGATES = ("bma", "mean")

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def check(measure: str, aggregate: str) -> None:
    """Raise ``ValueError`` for an unknown measure or aggregate."""
    if measure not in MEASURES:
        raise ValueError(f"measure: unknown {measure!r}; allowed: {', '.join(MEASURES)}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate: unknown {aggregate!r}; allowed: {', '.join(AGGREGATES)}")


@numba.njit(cache=True)
def _mica_ic(a: int, b: int, offsets: Ints, nodes: Ints, ic: Floats) -> float:
    """IC of the common ancestor of highest IC of descriptors a and b; 0 if there is none. Merges two sorted lists."""
    i, i_end, j, j_end = offsets[a], offsets[a + 1], offsets[b], offsets[b + 1]
    best = 0.0
    while i < i_end and j < j_end:
        if nodes[i] == nodes[j]:
            best = max(best, ic[nodes[i]])
            i += 1
            j += 1
        elif nodes[i] < nodes[j]:
            i += 1
        else:
            j += 1
    return best


@numba.njit(cache=True)
def _lin(a: int, b: int, offsets: Ints, nodes: Ints, ic: Floats) -> float:
    if a == b:
        return 1.0
    both = ic[a] + ic[b]
    return 2.0 * _mica_ic(a, b, offsets, nodes, ic) / both if both > 0.0 else 0.0


@numba.njit(cache=True)
def lin_of_sets(
    a_offsets: Ints, a: Ints, b_offsets: Ints, b: Ints, offsets: Ints, nodes: Ints, ic: Floats, best_match: bool
) -> Floats:
    """(n,) Lin similarity of n pairs of ragged descriptor sets: best-match average, or the mean over all pairs.

    NaN where either set is empty.
    """
    scores = np.empty(len(a_offsets) - 1)
    for row in range(len(scores)):
        one, two = a[a_offsets[row] : a_offsets[row + 1]], b[b_offsets[row] : b_offsets[row + 1]]
        if len(one) == 0 or len(two) == 0:
            scores[row] = np.nan
            continue
        best_one, best_two, total = np.zeros(len(one)), np.zeros(len(two)), 0.0
        for i in range(len(one)):
            for j in range(len(two)):
                value = _lin(one[i], two[j], offsets, nodes, ic)
                total += value
                best_one[i] = max(best_one[i], value)
                best_two[j] = max(best_two[j], value)
        if best_match:
            scores[row] = (best_one.sum() + best_two.sum()) / (len(one) + len(two))
        else:
            scores[row] = total / (len(one) * len(two))
    return scores
