"""Find duplicate and near-duplicate abstracts with MinHash signatures (Broder 1997), banded for LSH.

There are three passes, so that no process holds all abstracts or compares all pairs:

1. per part of the corpus: ``sketch`` its abstracts; keep ``buckets`` and ``signatures`` on disk;
2. per range of bucket numbers: ``in_range`` on each part, then ``candidate_pairs`` on all parts together;
3. once: ``verify`` the candidates by their signatures; ``removals`` returns which abstracts to remove and to keep.

An abstract takes 656 bytes between the passes (PMID 8, buckets 8 * 21, signature 4 * 120), so 38 million take 25 GB on
disk. Pass 2 reads 16 bytes per bucket in its range and uses about 100 while it sorts. That is 1.3 GB for all of PubMed
in 64 ranges. Pass 3 reads only the signatures of abstracts that are in a candidate pair.
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
"""(p, 2) PMIDs; the lower one comes first in each pair, and pairs are unique."""

SHINGLE_WORDS = 5
BANDS, ROWS = 20, 6
"""A pair of Jaccard similarity s shares a band with probability 1 - (1 - s^6)^20: 0.998 at 0.8, 0.27 at 0.5, 0.001 at
0.2."""
NEIGHBOURS = 32
"""An abstract is paired with this many abstracts that follow it in a bucket, and always with the first in the bucket.
This creates all pairs of a small bucket, but few pairs of a bucket that a boilerplate text fills with 100,000."""
PAIRS_AT_ONCE = 1 << 16

REMOVAL = pa.schema(
    [("pmid", pa.int64()), ("kept_pmid", pa.int64()), ("jaccard", pa.float32()), ("reason", pa.string())]
)
"""``jaccard`` is the estimated similarity of the removed abstract and the kept one. It is 1 if all words are equal; the
reason is then ``duplicate`` instead of ``near_duplicate``."""


@dataclass(frozen=True)
class Sketches:
    """The hashes that are kept of n abstracts."""

    buckets: Hashes
    """(n, 1 + BANDS) the hash of all words, then the hash of each band of the signature. 0 means no bucket. A text
    without words has no bucket. A text of fewer than ``SHINGLE_WORDS`` words has only the first bucket, so it can only
    match an equal text."""
    signatures: npt.NDArray[np.uint32]
    """(n, BANDS * ROWS) MinHash values."""


def sketch(abstracts: pa.Array | pa.ChunkedArray, shingle_words: int = SHINGLE_WORDS) -> Sketches:
    """Return buckets and MinHash signatures of n abstracts, from their sets of ``shingle_words`` consecutive words."""
    batches = [
        _sketch(abstracts.slice(start, TEXTS_AT_ONCE), shingle_words)
        for start in range(0, max(len(abstracts), 1), TEXTS_AT_ONCE)
    ]
    return Sketches(
        np.concatenate([batch.buckets for batch in batches]), np.concatenate([batch.signatures for batch in batches])
    )


def _sketch(abstracts: pa.Array | pa.ChunkedArray, shingle_words: int) -> Sketches:
    words = split_words(abstracts)
    shingles, offsets = ngrams(words.hashes, words.offsets, shingle_words)
    lower = shingles.astype(np.uint32)
    sets = (lower[start:end].tolist() for start, end in pairwise(offsets.tolist()))
    signatures = np.empty((len(abstracts), BANDS * ROWS), np.uint32)
    # The shingles are hashes already; `seed` and `scheme` fix the permutations for every process and machine.
    for row, minhash in enumerate(
        MinHash.generator(sets, num_perm=BANDS * ROWS, seed=1, scheme="affine32", hashfunc=int)
    ):
        signatures[row] = minhash.hashvalues
    bands = np.where((np.diff(offsets) > 0)[:, None], _bands(signatures), 0)
    whole = text_hashes(words.hashes, words.offsets)
    return Sketches(np.concatenate([whole[:, None], bands], axis=1, dtype=np.uint64), signatures)


def _bands(signatures: npt.NDArray[np.uint32]) -> Hashes:
    """Return (n, BANDS) hashes, never 0; equal values in different bands have different hashes."""
    n = len(signatures)
    seeds = np.broadcast_to(np.arange(BANDS, dtype=np.uint64)[None, :, None], (n, BANDS, 1))
    rows = np.concatenate([seeds, signatures.reshape(n, BANDS, ROWS)], axis=2, dtype=np.uint64)
    return text_hashes(rows.reshape(-1), np.arange(0, n * BANDS + 1, dtype=np.int64) * (ROWS + 1)).reshape(n, BANDS)


def in_range(pmids: Pmids, buckets: Hashes, number: int, of: int) -> tuple[Hashes, Pmids]:
    """Return the buckets of a part in range ``number`` of ``of`` equal ranges, and the PMID of each: (m,) and (m,)."""
    low, high = max((number << 64) // of, 1), ((number + 1) << 64) // of - 1
    rows, columns = np.nonzero((buckets >= np.uint64(low)) & (buckets <= np.uint64(high)))
    return buckets[rows, columns], pmids[rows]


def candidate_pairs(buckets: Hashes, pmids: Pmids) -> Pairs:
    """Return pairs of PMIDs that share a bucket, at most ``NEIGHBOURS + 1`` per entry.

    ``buckets`` (m,) and ``pmids`` (m,) are entries in any order.
    """
    order = np.lexsort((pmids, buckets))
    buckets, pmids = buckets[order], pmids[order]
    starts = np.concatenate([[True], buckets[1:] != buckets[:-1]]) if len(buckets) else np.zeros(0, bool)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(buckets)), 0))
    all_pairs = [np.stack([pmids[first], pmids], axis=1)]
    for step in range(1, min(NEIGHBOURS + 1, len(buckets))):
        together = buckets[step:] == buckets[:-step]
        if not together.any():
            break
        all_pairs.append(np.stack([pmids[:-step][together], pmids[step:][together]], axis=1))
    pairs = np.concatenate(all_pairs)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def verify(
    pairs: Pairs, pmids: Pmids, buckets: Hashes, signatures: npt.NDArray[np.uint32], threshold: float
) -> tuple[Pairs, npt.NDArray[np.float32]]:
    """Return the pairs whose Jaccard similarity is at least ``threshold``, and that similarity (1: all words equal).

    ``pmids`` (m,), sorted, ``buckets`` and ``signatures`` (m, ...) must cover all abstracts in ``pairs``. The
    similarity is the share of equal signature values; its standard error is 0.037 at 0.8.
    """
    jaccard = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        first, second = np.searchsorted(pmids, pairs[start : start + PAIRS_AT_ONCE]).T
        alike = (signatures[first] == signatures[second]).mean(axis=1, dtype=np.float32)
        # Abstracts without shingles have no bands, and their signatures are all equal.
        alike[(buckets[first, 1] == 0) | (buckets[second, 1] == 0)] = 0
        alike[buckets[first, 0] == buckets[second, 0]] = 1
        jaccard[start : start + PAIRS_AT_ONCE] = alike
    alike = jaccard >= np.float32(threshold)
    return pairs[alike], jaccard[alike]


def removals(pairs: Pairs, pmids: Pmids, buckets: Hashes, signatures: npt.NDArray[np.uint32]) -> pa.Table:
    """Return the abstracts to remove, a table of ``REMOVAL`` sorted by PMID.

    Of all abstracts that verified ``pairs`` link, the lowest PMID is kept, because PubMed added it first. Abstracts
    that are linked only through others may be less similar than the threshold; ``jaccard`` is their similarity.
    ``pmids``, ``buckets`` and ``signatures`` are as for ``verify``.
    """
    rows, columns = np.searchsorted(pmids, pairs).T
    links = coo_array((np.ones(len(pairs), bool), (rows, columns)), shape=(len(pmids), len(pmids)))
    _, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    kept = first[group]
    removed = np.flatnonzero(kept != np.arange(len(pmids)))
    kept_and_removed = np.stack([pmids[kept[removed]], pmids[removed]], axis=1)
    _, jaccard = verify(kept_and_removed, pmids, buckets, signatures, 0)
    reasons = np.where(buckets[removed, 0] == buckets[kept[removed], 0], "duplicate", "near_duplicate")
    return pa.table([kept_and_removed[:, 1], kept_and_removed[:, 0], jaccard, reasons.astype(object)], REMOVAL)
