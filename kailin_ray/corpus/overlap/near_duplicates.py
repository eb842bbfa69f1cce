"""Abstracts that are there twice, word for word or nearly: MinHash signatures (Broder 1997), banded for LSH.

Three passes, so that nothing ever holds all abstracts, nor compares all with all:

1. per part of the corpus: ``sketch`` its abstracts; keep ``buckets`` and ``signatures`` on disk;
2. per range of bucket numbers: ``in_range`` from each part, then ``candidate_pairs`` of all parts together;
3. once: ``verify`` the candidates by their signatures, and ``removals`` says who goes and who is kept.

An abstract takes 656 bytes between the passes (PMID 8, buckets 8 * 21, signature 4 * 120): 38 million take 25 GB on
disk. Pass 2 takes in 16 bytes for each bucket in its range and about 100 while it sorts: 1.3 GB with 64 ranges of all
of PubMed. Pass 3 takes only the signatures of abstracts that are in a candidate pair.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasketch import MinHash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kailin_ray.corpus.overlap.ngrams import TEXTS_AT_ONCE, Hashes, ngrams, split_words, text_hashes

Pmids = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]
"""(p, 2) PMIDs, the lower one first, without repetition."""

SHINGLE_WORDS = 5
BANDS, ROWS = 20, 6
"""A pair of Jaccard similarity s shares a band with probability 1 - (1 - s^6)^20: 0.998 at 0.8, 0.27 at 0.5, 0.001 at
0.2."""
NEIGHBOURS = 32
"""So many next ones in a bucket an abstract is paired with, and always with the bucket's first: all pairs of a small
bucket, few of one that a boilerplate text fills with 100,000."""
PAIRS_AT_ONCE = 1 << 16

REMOVAL = pa.schema(
    [("pmid", pa.int64()), ("kept_pmid", pa.int64()), ("jaccard", pa.float32()), ("reason", pa.string())]
)
"""``jaccard``: estimated, between the abstract that goes and the one that is kept; 1 where all words are equal, which
is ``duplicate`` and not ``near_duplicate``."""


@dataclass(frozen=True)
class Sketches:
    """What is kept of n abstracts."""

    buckets: Hashes
    """(n, 1 + BANDS): the hash of all words, then of each band of the signature. 0 is no bucket: a text without words,
    or with fewer than ``SHINGLE_WORDS``, which can only be equal to another as a whole."""
    signatures: npt.NDArray[np.uint32]
    """(n, BANDS * ROWS)."""


def sketch(abstracts: pa.Array | pa.ChunkedArray, shingle_words: int = SHINGLE_WORDS) -> Sketches:
    """Buckets and MinHash signatures of n abstracts, by the set of each ``shingle_words`` words in a row."""
    parts = [
        _sketch(abstracts.slice(start, TEXTS_AT_ONCE), shingle_words)
        for start in range(0, max(len(abstracts), 1), TEXTS_AT_ONCE)
    ]
    return Sketches(
        np.concatenate([part.buckets for part in parts]), np.concatenate([part.signatures for part in parts])
    )


def _sketch(abstracts: pa.Array | pa.ChunkedArray, shingle_words: int) -> Sketches:
    words = split_words(abstracts)
    shingles, offsets = ngrams(words.hashes, words.offsets, shingle_words)
    lower = shingles.astype(np.uint32)
    sets = (lower[start:end].tolist() for start, end in pairwise(offsets.tolist()))
    signatures = np.empty((len(abstracts), BANDS * ROWS), np.uint32)
    # The shingles are hashes already; `seed` and `scheme` fix the permutations for every process and machine.
    for row, one in enumerate(MinHash.generator(sets, num_perm=BANDS * ROWS, seed=1, scheme="affine32", hashfunc=int)):
        signatures[row] = one.hashvalues
    bands = np.where((np.diff(offsets) > 0)[:, None], _bands(signatures), 0)
    whole = text_hashes(words.hashes, words.offsets)
    return Sketches(np.concatenate([whole[:, None], bands], axis=1, dtype=np.uint64), signatures)


def _bands(signatures: npt.NDArray[np.uint32]) -> Hashes:
    """(n, BANDS) hashes, never 0, which differ between bands for the same values."""
    n = len(signatures)
    seeds = np.broadcast_to(np.arange(BANDS, dtype=np.uint64)[None, :, None], (n, BANDS, 1))
    rows = np.concatenate([seeds, signatures.reshape(n, BANDS, ROWS)], axis=2, dtype=np.uint64)
    return text_hashes(rows.reshape(-1), np.arange(0, n * BANDS + 1, dtype=np.int64) * (ROWS + 1)).reshape(n, BANDS)


def in_range(pmids: Pmids, buckets: Hashes, number: int, of: int) -> tuple[Hashes, Pmids]:
    """The buckets of a part in range ``number`` of ``of`` equal ones, and whose PMID each is: (m,) and (m,)."""
    low, high = max((number << 64) // of, 1), ((number + 1) << 64) // of - 1
    rows, columns = np.nonzero((buckets >= np.uint64(low)) & (buckets <= np.uint64(high)))
    return buckets[rows, columns], pmids[rows]


def candidate_pairs(buckets: Hashes, pmids: Pmids) -> Pairs:
    """Pairs of PMIDs that share a bucket, of m entries in any order; at most ``NEIGHBOURS + 1`` per entry."""
    order = np.lexsort((pmids, buckets))
    buckets, pmids = buckets[order], pmids[order]
    starts = np.concatenate([[True], buckets[1:] != buckets[:-1]]) if len(buckets) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(buckets)), 0))
    found = [np.stack([pmids[first], pmids], axis=1)]
    for step in range(1, min(NEIGHBOURS + 1, len(buckets))):
        together = buckets[step:] == buckets[:-step]
        if not together.any():
            break
        found.append(np.stack([pmids[:-step][together], pmids[step:][together]], axis=1))
    pairs = np.concatenate(found)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def verify(
    pairs: Pairs, pmids: Pmids, buckets: Hashes, signatures: npt.NDArray[np.uint32], threshold: float
) -> tuple[Pairs, npt.NDArray[np.float32]]:
    """Those of p pairs whose Jaccard similarity is at least ``threshold``, and that similarity (1: all words equal).

    ``pmids`` (m,), sorted, with ``buckets`` and ``signatures`` (m, ...) of all abstracts that are in ``pairs``. The
    similarity is the share of equal signature values; its standard error is 0.037 at 0.8.
    """
    jaccard = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        one, two = np.searchsorted(pmids, pairs[start : start + PAIRS_AT_ONCE]).T
        alike = (signatures[one] == signatures[two]).mean(axis=1, dtype=np.float32)
        # Only one that has shingles has a band, and all signatures without shingles are alike.
        alike[(buckets[one, 1] == 0) | (buckets[two, 1] == 0)] = 0
        alike[buckets[one, 0] == buckets[two, 0]] = 1
        jaccard[start : start + PAIRS_AT_ONCE] = alike
    alike = jaccard >= np.float32(threshold)
    return pairs[alike], jaccard[alike]


def removals(pairs: Pairs, pmids: Pmids, buckets: Hashes, signatures: npt.NDArray[np.uint32]) -> pa.Table:
    """Who goes, by ``REMOVAL``, sorted by PMID: of all abstracts that verified ``pairs`` link, the lowest PMID is kept.

    The lowest is what PubMed took in first. Abstracts linked through others may be less alike than the threshold:
    ``jaccard`` says how much. ``pmids``, ``buckets`` and ``signatures`` as for ``verify``.
    """
    one, two = np.searchsorted(pmids, pairs).T
    links = coo_array((np.ones(len(pairs), bool), (one, two)), shape=(len(pmids), len(pmids)))
    _, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    kept = first[group]
    gone = np.flatnonzero(kept != np.arange(len(pmids)))
    kept_and_gone = np.stack([pmids[kept[gone]], pmids[gone]], axis=1)
    _, jaccard = verify(kept_and_gone, pmids, buckets, signatures, 0)
    reasons = np.where(buckets[gone, 0] == buckets[kept[gone], 0], "duplicate", "near_duplicate")
    return pa.table([kept_and_gone[:, 1], kept_and_gone[:, 0], jaccard, reasons.astype(object)], REMOVAL)
