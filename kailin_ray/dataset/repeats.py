"""Find rows whose questions nearly repeat the question of a better row.

Two questions are compared by their sets of two consecutive content words, with their beginning and end as words.
MinHash finds candidates and estimates the Jaccard similarity (``corpus.overlap.near_duplicates``). Articles, forms of
be, do and have, and some prepositions are no content words; question words, negations, numbers and "before" or "more"
are. A content word that differs changes two pairs, so of n content words n - 1 of n + 3 pairs are equal: at 0.9 this
needs 37 content words. So questions that share a template, such as "Does X affect Y?", stay.

Memory: 48 bytes a question (1.8 GB for 38 million), and about a gigabyte while candidates are compared. Sketches take
648 bytes a question (25 GB for 38 million) in a temporary folder.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.corpus.overlap.near_duplicates import BANDS, ROWS, Pairs, candidate_pairs, in_range, sketch, verify
from kailin_ray.corpus.overlap.ngrams import word_list

SHINGLE_WORDS = 2
LEFT_OUT = frozenset(
    "a an the of in on at for to by with and or is are was were be been being does do did has have had can could may "
    "might will would should there any this that these those it its their as".split()
)
"""Words that do not make questions different."""
_BEGIN, _END = "questionbegins", "questionends"
ENTRIES_AT_ONCE = 10_000_000
"""Entries of buckets that are compared at a time, each of about 100 bytes."""
ROWS_AT_ONCE = 1 << 18

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Questions:
    """The questions of n rows. ``scores`` and ``margins`` are NaN where a row has none."""

    pmids: npt.NDArray[np.int64]
    scores: Floats
    margins: Floats
    texts: list[str]


@dataclass(frozen=True)
class Repeats:
    """The rows to leave out: (r,) sorted PMIDs, and for each the PMID of the better row whose question it repeats."""

    pmids: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]


def find_repeats(batches: Iterable[Questions], threshold: float, folder: Path) -> Repeats:
    """Return the rows whose questions have at least this similarity to the question of a better row that stays.

    The better row has the higher MeSH score, then the higher margin, then the lower PMID, whatever the order of the
    ``batches``. ``folder`` is created and removed.
    """
    folder.mkdir()
    try:
        pmids, scores, margins = _write_sketches(batches, folder)
        order = np.lexsort((pmids, -_fill(margins), -_fill(scores)))
        removed, kept = _choose(_find_pairs(order, threshold, folder), len(pmids))
    finally:
        shutil.rmtree(folder)
    removed_pmids, kept_pmids = pmids[order[removed]], pmids[order[kept]]
    by_pmid = np.argsort(removed_pmids)
    return Repeats(removed_pmids[by_pmid], kept_pmids[by_pmid])


def normalize_question(question: str) -> str:
    """Return the content words of a question, without the plural's s, between two marks; all words if it has none."""
    words = word_list(question)
    content = [_singular(word) for word in words if word not in LEFT_OUT] or words
    return " ".join([_BEGIN, *content, _END])


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 4 and word.endswith("s") and word[-2] not in "siu" else word


def _write_sketches(batches: Iterable[Questions], folder: Path) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
    """Write buckets and signatures of all questions; return their PMIDs, scores and margins."""
    columns: list[tuple[npt.NDArray[np.int64], Floats, Floats]] = []
    with (folder / "buckets").open("wb") as buckets, (folder / "signatures").open("wb") as signatures:
        for batch in batches:
            if batch.texts:
                sketches = sketch(pa.array(map(normalize_question, batch.texts), pa.large_string()), SHINGLE_WORDS)
                sketches.buckets.tofile(buckets)
                sketches.signatures.tofile(signatures)
                columns.append((batch.pmids, batch.scores, batch.margins))
    if not columns:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    pmids, scores, margins = zip(*columns, strict=True)
    return np.concatenate(pmids), np.concatenate(scores), np.concatenate(margins)


def _find_pairs(order: npt.NDArray[np.int64], threshold: float, folder: Path) -> Pairs:
    """Return pairs of similar questions as (p, 2) ranks, 0 for the best row; the better one comes first.

    ``order`` (n,) lists the rows from the best to the worst. Ranks instead of PMIDs make the best row of a bucket the
    one that all others of the bucket are paired with.
    """
    n = len(order)
    if n < 2:
        return np.zeros((0, 2), np.int64)
    rank = np.empty(n, np.int64)
    rank[order] = np.arange(n)
    buckets = np.memmap(folder / "buckets", np.uint64, "r", shape=(n, 1 + BANDS))
    signatures = np.memmap(folder / "signatures", np.uint32, "r", shape=(n, BANDS * ROWS))
    rows = np.arange(n)
    num_ranges = -(-n * (1 + BANDS) // ENTRIES_AT_ONCE)
    pairs: list[Pairs] = []
    for number in range(num_ranges):
        entries = [
            in_range(rank[start : start + ROWS_AT_ONCE], buckets[start : start + ROWS_AT_ONCE], number, num_ranges)
            for start in range(0, n, ROWS_AT_ONCE)
        ]
        candidates = candidate_pairs(*(np.concatenate(column) for column in zip(*entries, strict=True)))
        similar, _ = verify(order[candidates], rows, buckets, signatures, threshold)
        pairs.append(rank[similar])
    return np.unique(np.concatenate(pairs), axis=0)


def _choose(pairs: Pairs, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the ranks to leave out, and for each the rank that stays in its place.

    From the best row to the worst, a row is left out if it is similar to a better row that stays. So no row is left out
    for one that it resembles only through others.
    """
    kept = np.full(n, -1, np.int64)
    for better, worse in pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))].tolist():
        if kept[better] < 0 and kept[worse] < 0:
            kept[worse] = better
    removed = np.flatnonzero(kept >= 0)
    return removed, kept[removed]


def _fill(values: Floats) -> Floats:
    return np.nan_to_num(values, nan=-np.inf, neginf=-np.inf)
