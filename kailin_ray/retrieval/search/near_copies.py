"""Find passages that are nearly the same, because each context of a question should say something else.

Vectors select the candidates and words decide, by the measure that ``select`` uses to compare abstracts.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.corpus.overlap.ngrams import ngrams, split_words, text_hashes
from kailin_ray.retrieval.search.store import Rows, Store

ALIKE = 0.95
"""Two passages' words are compared from this cosine on."""
SHINGLE = 5
"""Consecutive words."""


def near_copies(store: Store, rows: Rows, jaccard: float) -> npt.NDArray[np.bool_]:
    """Return which of rows (q, c) nearly repeat an earlier row of their query that is not such a copy itself.

    Two passages do so if the Jaccard similarity of their sets of five consecutive words is at least ``jaccard``. -1
    means no row and is never a copy.
    """
    copies = np.zeros(rows.shape, dtype=bool)
    pairs = _alike(store, rows)
    if not len(pairs):
        return copies
    rows_to_read = np.unique(np.concatenate([rows[pairs[:, 0], pairs[:, 1]], rows[pairs[:, 0], pairs[:, 2]]]))
    texts = [text for _, _, text, _ in store.passages(rows_to_read)]
    shingles = dict(zip(rows_to_read.tolist(), _shingles(texts), strict=True))
    for query, earlier, later in pairs:
        if not copies[query, earlier] and not copies[query, later]:
            first, second = shingles[int(rows[query, earlier])], shingles[int(rows[query, later])]
            copies[query, later] = len(first & second) >= jaccard * max(1, len(first | second))
    return copies


def _alike(store: Store, rows: Rows) -> npt.NDArray[np.int64]:
    """Return (n, 3) query, place and later place of pairs with similar vectors, in order."""
    # Not torch: its threads would keep spinning for a while on cores that FAISS's threads need.
    vectors = store.vectors(rows.ravel()).astype(np.float32).reshape(*rows.shape, -1)
    products = np.matmul(vectors, vectors.transpose(0, 2, 1))
    lengths = np.sqrt(products.diagonal(axis1=1, axis2=2))
    alike = products >= ALIKE * lengths[:, :, None] * lengths[:, None, :]
    exists = rows >= 0
    return np.argwhere(np.triu(alike & exists[:, :, None] & exists[:, None, :], k=1))


def _shingles(texts: list[str]) -> list[set[int]]:
    """Return hashes of each text's shingles; a text with fewer words is a single shingle."""
    words = split_words(pa.array(texts, pa.string()))
    hashes, offsets = ngrams(words.hashes, words.offsets, SHINGLE)
    all_hashes, bounds = hashes.tolist(), offsets.tolist()
    sets = [set(all_hashes[start:end]) for start, end in pairwise(bounds)]
    return [
        shingles or {whole}
        for shingles, whole in zip(sets, text_hashes(words.hashes, words.offsets).tolist(), strict=True)
    ]
