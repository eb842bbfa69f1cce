"""Similarity of descriptors and of sets of descriptors, compiled: no Python loop over pairs.

a and b are descriptors with tree numbers. m is their common ancestor with the highest information content (MICA);
without a common ancestor, every measure is 0. ``mesh/hierarchy.py`` defines ``IC`` and ``freq``; ``ic = IC / IC_max``.

- ``resnik`` = ic(m)                                        Resnik 1995, arXiv cmp-lg/9511007; scaled to [0, 1]
- ``lin``    = 2·IC(m) / (IC(a) + IC(b)); 1 if a = b          Lin 1998, ICML, 296-304
- ``jc``     = 1 - min(1, ic(a) + ic(b) - 2·ic(m))            Jiang and Conrath 1997, arXiv cmp-lg/9709008
- ``rel``    = lin · (1 - freq(m) / N)                        Schlicker et al. 2006, doi:10.1186/1471-2105-7-302
- ``kailin`` = the forerunner's mixture (arXiv 2501.15108), see ``_kailin``; it needs corpus counts

Sets: ``bma``, the best-match average (Pesquita et al. 2008, doi:10.1186/1471-2105-9-S5-S4); ``mean`` over all pairs.
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

MEASURES = ("resnik", "lin", "jc", "rel", "kailin")
AGGREGATES = ("bma", "mean")

_RESNIK, _LIN, _JC, _REL, _KAILIN = range(len(MEASURES))

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ragged = tuple[npt.NDArray[Any], Ints]
"""(n+1,) offsets and values: row i is ``values[offsets[i]:offsets[i+1]]``."""
Trees = tuple[Ints, Ints, Ints, Ints]
"""``lineage_offsets``, ``lineage``, ``tree_holder`` and ``tree_length`` of a hierarchy."""
Branches = tuple[Ints, Ints, Floats, Floats]
"""``branch_offsets``, ``branches``, ``branch_ic`` and ``branch_max_ic`` of a hierarchy."""


def check(measure: str, aggregate: str) -> None:
    """Raise ``ValueError`` for an unknown measure or aggregate."""
    if measure not in MEASURES:
        raise ValueError(f"measure: unknown {measure!r}; allowed: {', '.join(MEASURES)}")
    if aggregate not in AGGREGATES:
        raise ValueError(f"aggregate: unknown {aggregate!r}; allowed: {', '.join(AGGREGATES)}")


def score_sets(
    one: Ragged,
    two: Ragged,
    measure: str,
    aggregate: str,
    *,
    ancestors: Ragged,
    information_content: Floats,
    max_information_content: float,
    trees: Trees,
    branches: Branches,
) -> Floats:
    """Return the similarity (n,) of n pairs of ragged sets of descriptor numbers; NaN if either has no placed one.

    A placed descriptor has tree numbers. The parameters after ``aggregate`` are arrays of one hierarchy, as in its
    fields (``mesh/hierarchy.py``).
    """
    return _score_sets(
        *one,
        *two,
        *ancestors,
        information_content,
        max_information_content,
        trees,
        branches,
        MEASURES.index(measure),
        aggregate == "bma",
    )


@numba.njit(cache=True, nogil=True)
def _collect_placed(values: Ints, start: int, end: int, offsets: Ints, seen: Ints, mark: int, into: Ints) -> int:
    """Write the placed descriptors of a set, each once, to ``into``; return their number."""
    size = 0
    for place in range(start, end):
        d = values[place]
        if d >= 0 and offsets[d + 1] > offsets[d] and seen[d] != mark:
            seen[d] = mark
            into[size] = d
            size += 1
    return size


@numba.njit(cache=True, nogil=True)
def _score_sets(
    one_offsets: Any, one: Ints, two_offsets: Any, two: Ints, offsets: Ints, nodes: Ints, ic: Floats, ic_max: float,
    trees: Any, branches: Any, measure: int, best_match: bool,
) -> Floats:  # fmt: skip
    n = len(one_offsets) - 1
    scores = np.empty(n)
    widest_one, widest_two = 0, 0
    for row in range(n):
        widest_one = max(widest_one, one_offsets[row + 1] - one_offsets[row])
        widest_two = max(widest_two, two_offsets[row + 1] - two_offsets[row])
    a, b, best_b = np.empty(widest_one, np.int32), np.empty(widest_two, np.int32), np.empty(widest_two)
    stamp = np.zeros(len(ic), np.int64)  # which nodes are ancestors of the current descriptor
    seen, mark, turn = np.zeros(len(offsets), np.int32), 0, 0
    for row in range(n):
        mark += 2
        size_a = _collect_placed(one, one_offsets[row], one_offsets[row + 1], offsets, seen, mark - 1, a)
        size_b = _collect_placed(two, two_offsets[row], two_offsets[row + 1], offsets, seen, mark, b)
        if size_a == 0 or size_b == 0:
            scores[row] = np.nan
            continue
        best_b[:size_b] = 0.0
        sum_best_a, total = 0.0, 0.0
        for i in range(size_a):
            turn += 1
            for place in range(offsets[a[i]], offsets[a[i] + 1]):
                stamp[nodes[place]] = turn
            best_a = 0.0
            for j in range(size_b):
                if measure == _KAILIN:
                    value = _kailin(a[i], b[j], trees, branches)
                else:
                    value = _of_two(a[i], b[j], stamp, turn, offsets, nodes, ic, ic_max, measure)
                total += value
                best_a, best_b[j] = max(best_a, value), max(best_b[j], value)
            sum_best_a += best_a
        if best_match:
            scores[row] = (sum_best_a + best_b[:size_b].sum()) / (size_a + size_b)
        else:
            scores[row] = total / (size_a * size_b)
    return scores


@numba.njit(cache=True, nogil=True)
def _of_two(
    a: int, b: int, stamp: Any, turn: int, offsets: Ints, nodes: Ints, ic: Floats, ic_max: float, measure: int
) -> float:
    """Return ``resnik``, ``lin``, ``jc`` or ``rel`` of a and b; a's ancestors carry the stamp ``turn``."""
    if a == b and measure == _LIN:
        return 1.0
    # The most informative ancestors come first, so the first shared ancestor is the MICA.
    for place in range(offsets[b], offsets[b + 1]):
        if stamp[nodes[place]] == turn:
            mica = ic[nodes[place]]
            if measure == _RESNIK:
                return mica / ic_max if ic_max > 0.0 else 0.0
            if measure == _JC:
                distance = (ic[a] + ic[b] - 2.0 * mica) / ic_max if ic_max > 0.0 else 0.0
                return 1.0 - min(1.0, max(0.0, distance))
            both = ic[a] + ic[b]
            lin = 1.0 if a == b else (2.0 * mica / both if both > 0.0 else 0.0)
            return lin * (1.0 - np.exp(-mica)) if measure == _REL else lin
    return 0.0


@numba.njit(cache=True, nogil=True)
def _kailin(a: int, b: int, trees: Any, branches: Any) -> float:
    """Return the forerunner's similarity: lin, jiang and rel on category-wise IC, averaged over the shared categories.

    The LCA is the descriptor at the common prefix of two tree numbers that is longest as a string (the first in order
    among equals). For each category c that a, b and the LCA share, and that has MaxIC_c > 0:
    x = IC_c(LCA)/MaxIC_c, S = IC_c(a) + IC_c(b); if S > 0: lin = 2x/S, jiang = 1 - min(1, S - 2x),
    rel = lin·(1 - 10^(-x·MaxIC_c)). The result is the mean of all these values, each clipped to [0, 1]; 1 if a = b;
    0 if there are no values. It mixes a normalised x with an unnormalised S, as published.
    """
    if a == b:
        return 1.0
    lineage_offsets, lineage, holder, length = trees
    i, i_end, j, j_end = lineage_offsets[a], lineage_offsets[a + 1], lineage_offsets[b], lineage_offsets[b + 1]
    lca, longest = -1, 0
    while i < i_end and j < j_end:
        if lineage[i] == lineage[j]:
            if length[lineage[i]] > longest:
                lca, longest = holder[lineage[i]], length[lineage[i]]
            i += 1
            j += 1
        elif lineage[i] < lineage[j]:
            i += 1
        else:
            j += 1
    if lca < 0:
        return 0.0
    offsets, category, ic, highest = branches
    total, number = 0.0, 0
    for at_lca in range(offsets[lca], offsets[lca + 1]):
        c = category[at_lca]
        at_a = _place(c, offsets[a], offsets[a + 1], category)
        at_b = _place(c, offsets[b], offsets[b + 1], category)
        if at_a < 0 or at_b < 0 or highest[c] <= 0.0:
            continue
        x, both = ic[at_lca] / highest[c], ic[at_a] + ic[at_b]
        if both > 0.0:
            lin = 2.0 * x / both
            total += _clip(lin) + _clip(1.0 - min(1.0, both - 2.0 * x))
            total += _clip(lin * (1.0 - 10.0 ** (-x * highest[c])))
            number += 3
    return total / number if number else 0.0


@numba.njit(cache=True, nogil=True)
def _place(value: int, start: int, end: int, values: Ints) -> int:
    for place in range(start, end):
        if values[place] == value:
            return place
    return -1


@numba.njit(cache=True, nogil=True)
def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
