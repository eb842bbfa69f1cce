"""Several rankings of passages made into one; passages moved by their MeSH similarity to the source.

Sample: dense search gives [7, 3, 9] and BM25 [3, 5]; with weights (1, 1) the fusion is 3, 7, 5, 9.
"""

import math
from collections.abc import Sequence

K = 60
"""The constant of Cormack et al.: how little the first places stand out."""


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[int]], weights: Sequence[float], k: int = K
) -> list[tuple[int, float]]:
    """(PMID, score) of every PMID of the rankings, best first: Σ weight / (k + rank), ranks from 1.

    Cormack et al. 2009, doi:10.1145/1571941.1572114. ``rankings``: PMIDs, best first; a PMID that comes twice in one
    counts at its first place. A ranking of weight 0 is left out. Equal scores keep the order of the first ranking that
    counts. Raises ``ValueError`` for a weight that is not a finite number of 0 or more, or not one for each ranking.
    """
    shares: dict[int, list[float]] = {}
    for ranking, weight in zip(rankings, _check_weights(weights), strict=True):
        if weight:
            for rank, pmid in enumerate(dict.fromkeys(ranking), start=1):
                shares.setdefault(pmid, []).append(weight / (k + rank))
    # fsum: the order of the rankings does not decide by its rounding.
    scores = [(pmid, math.fsum(of_pmid)) for pmid, of_pmid in shares.items()]
    return sorted(scores, key=lambda one: -one[1])


def mesh_rerank(pmids: Sequence[int], similarities: Sequence[float | None], weight: float, k: int = K) -> list[int]:
    """The ranking ``pmids``, fused with that by MeSH similarity, which weighs ``weight`` to its own 1.

    ``similarities`` (as ``pmids``): of each passage's descriptors to the source's; None or NaN where a passage has
    none. Such a passage keeps its place exactly, and the others are ordered among theirs: it is neither lost nor
    favoured. Equal similarities rank as they did. Raises ``ValueError`` as ``reciprocal_rank_fusion`` does, for a PMID
    that comes twice, and where the two are not equally many.
    """
    if len(set(pmids)) != len(pmids):
        raise ValueError("a PMID comes twice in the ranking")
    of_pmid = zip(pmids, similarities, strict=True)
    known = {pmid: value for pmid, value in of_pmid if value is not None and not math.isnan(value)}
    by_mesh = sorted(known, key=lambda pmid: -known[pmid])
    moved = (pmid for pmid, _ in reciprocal_rank_fusion([list(known), by_mesh], [1.0, weight], k))
    return [next(moved) if pmid in known else pmid for pmid in pmids]


def _check_weights(weights: Sequence[float]) -> Sequence[float]:
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: {weight} is not a finite number of 0 or more")
    return weights
