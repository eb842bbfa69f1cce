"""Fuse several rankings of passages into one; rerank passages by their MeSH similarity to the source.

Sample: dense search returns [7, 3, 9] and BM25 [3, 5]; with weights (1, 1) the fusion is 3, 7, 5, 9.
"""

import math
from collections.abc import Sequence

K = 60
"""The constant of Cormack et al.: the larger it is, the less the first places stand out."""


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[int]], weights: Sequence[float], k: int = K
) -> list[tuple[int, float]]:
    """Return (PMID, score) of every PMID in the rankings, best first: Σ weight / (k + rank), ranks from 1.

    Cormack et al. 2009, doi:10.1145/1571941.1572114. ``rankings``: PMIDs, best first; a PMID that occurs twice in a
    ranking counts at its first place. A ranking of weight 0 is left out. Equal scores keep the order of the first
    ranking that counts. Raises ``ValueError`` if a weight is not a finite number of 0 or more, and if the numbers of
    rankings and weights differ.
    """
    shares: dict[int, list[float]] = {}
    for ranking, weight in zip(rankings, _check_weights(weights), strict=True):
        if weight:
            for rank, pmid in enumerate(dict.fromkeys(ranking), start=1):
                shares.setdefault(pmid, []).append(weight / (k + rank))
    # fsum: rounding does not depend on the order of the rankings.
    scores = [(pmid, math.fsum(pmid_shares)) for pmid, pmid_shares in shares.items()]
    return sorted(scores, key=lambda scored: -scored[1])


def mesh_rerank(pmids: Sequence[int], similarities: Sequence[float | None], weight: float, k: int = K) -> list[int]:
    """Return ``pmids`` fused with their ranking by MeSH similarity, which has ``weight`` against 1 for ``pmids``.

    ``similarities`` (as ``pmids``) are those of each passage's descriptors to the source's; None or NaN if a passage
    has no descriptors. Such a passage keeps its exact place, and the others are reordered among the other places, so it
    is neither lost nor favoured. Equal similarities keep their order. Raises ``ValueError`` as
    ``reciprocal_rank_fusion`` does, for a PMID that occurs twice, and if the lengths differ.
    """
    if len(set(pmids)) != len(pmids):
        raise ValueError("a PMID occurs twice in the ranking")
    pairs = zip(pmids, similarities, strict=True)
    known = {pmid: value for pmid, value in pairs if value is not None and not math.isnan(value)}
    by_mesh = sorted(known, key=lambda pmid: -known[pmid])
    reranked = (pmid for pmid, _ in reciprocal_rank_fusion([list(known), by_mesh], [1.0, weight], k))
    return [next(reranked) if pmid in known else pmid for pmid in pmids]


def _check_weights(weights: Sequence[float]) -> Sequence[float]:
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight: {weight} is not a finite number of 0 or more")
    return weights
