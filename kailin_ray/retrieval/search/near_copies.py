"""Passages that are nearly the same: of a question's contexts each should say something else.

Their vectors tell which may be, their words which are: ``select`` compares abstracts by the same measure.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.corpus.overlap.ngrams import ngrams, split_words, text_hashes
from kailin_ray.retrieval.search.store import Rows, Store

ALIKE = 0.95
"""Cosine from which on two passages' words are compared."""
SHINGLE = 5
"""Words in a row."""


def near_copies(store: Store, rows: Rows, jaccard: float) -> npt.NDArray[np.bool_]:
    """Which of rows (q, c) nearly repeat an earlier one of their line that is none itself; -1 for no row never does.

    Two do whose sets of five words in a row have at least this Jaccard similarity.
    """
    copies = np.zeros(rows.shape, dtype=bool)
    pairs = _alike(store, rows)
    if not len(pairs):
        return copies
    concerned = np.unique(np.concatenate([rows[pairs[:, 0], pairs[:, 1]], rows[pairs[:, 0], pairs[:, 2]]]))
    texts = [text for _, _, text, _ in store.passages(concerned)]
    shingles = dict(zip(concerned.tolist(), _shingles(texts), strict=True))
    for query, one, other in pairs:
        if not copies[query, one] and not copies[query, other]:
            first, second = shingles[int(rows[query, one])], shingles[int(rows[query, other])]
            copies[query, other] = len(first & second) >= jaccard * max(1, len(first | second))
    return copies


def _alike(store: Store, rows: Rows) -> npt.NDArray[np.int64]:
    """(n, 3) query, place and later place of pairs whose vectors are alike, in their order."""
    # Not torch: its threads would go on spinning for a while, where FAISS's want the cores.
    vectors = store.vectors(rows.ravel()).astype(np.float32).reshape(*rows.shape, -1)
    products = np.matmul(vectors, vectors.transpose(0, 2, 1))
    lengths = np.sqrt(products.diagonal(axis1=1, axis2=2))
    alike = products >= ALIKE * lengths[:, :, None] * lengths[:, None, :]
    there = rows >= 0
    return np.argwhere(np.triu(alike & there[:, :, None] & there[:, None, :], k=1))


def _shingles(texts: list[str]) -> list[set[int]]:
    """Hashes of each text's shingles; a text of fewer words is one."""
    words = split_words(pa.array(texts, pa.string()))
    hashes, offsets = ngrams(words.hashes, words.offsets, SHINGLE)
    every, bounds = hashes.tolist(), offsets.tolist()
    found = [set(every[start:end]) for start, end in pairwise(bounds)]
    return [one or {whole} for one, whole in zip(found, text_hashes(words.hashes, words.offsets).tolist(), strict=True)]
