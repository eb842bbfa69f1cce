"""An opened index: it takes the vectors of questions and returns passages.

``index/`` contains ``shards/`` (see ``store.py``), ``search.faiss`` (the structure, unless it is exact; see
``ann.py``), ``deleted.npy`` (rows of deleted passages) and its manifest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kailin_ray.corpus.overlap.ngrams import places_in
from kailin_ray.retrieval.search.ann import open_search, score_rows
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.search.fusion import reciprocal_rank_fusion
from kailin_ray.retrieval.search.lexical import LexicalIndex
from kailin_ray.retrieval.search.near_copies import near_copies
from kailin_ray.retrieval.search.store import Rows, Store, Vectors

SPARE = 4
"""Extra passages to search for, because some nearly repeat others."""
FUSED = 100
"""Passages of each ranking that are fused."""


class Hit(NamedTuple):
    """A passage found for a query; a tuple, because thousands per second pass between processes."""

    pmid: int
    score: float
    title: str
    text: str
    mesh: list[str]


def load_deleted(folder: Path) -> Rows:
    """Return the sorted rows of deleted passages in an index. Raises ``ValueError`` for a damaged file."""
    path = folder / "deleted.npy"
    if not path.exists():
        return np.zeros(0, np.int64)
    rows: Rows = np.load(path, allow_pickle=False)
    return rows


class PassageIndex:
    """An opened index. One thread may call ``search_rows`` while another calls ``passages``, but no two the same."""

    def __init__(self, index: Index, device: str = "cpu", lexical_weight: float = 0.0):
        """Open the files of ``index`` memory-mapped. Raises ``ValueError`` that names a damaged or unsuitable file.

        ``lexical_weight``: the weight of BM25's ranking, against 1 for the dense one; 0 for dense search alone.
        """
        self.dimension = index.manifest.dimension
        self._store = Store(index.shards(), self.dimension)
        deleted = load_deleted(index.path)
        file = index.path / "search.faiss"
        self._search = open_search(file, index.manifest.search, self._store, deleted, device)
        self._lexical: LexicalShards | None = None
        if lexical_weight:
            folders = [path / "lexical" for path, _ in index.shards()]
            self._lexical = LexicalShards(folders, self._store, deleted)
        self._weights = [1.0, lexical_weight]

    def search(
        self,
        vectors: Vectors,
        k: int,
        exclude: Sequence[int | None],
        jaccard: float | None = None,
        questions: Sequence[str] = (),
    ) -> list[list[Hit]]:
        """Return the ``k`` best passages of each query, best first, without the PMID that ``exclude`` names for it.

        With ``jaccard``, passages that nearly repeat a better one, or the excluded one, are left out too. Lexical
        search needs ``questions``, the texts of ``vectors``. A score is always the inner product.
        """
        return self.passages(*self.search_rows(vectors, k, jaccard, questions), k, exclude, jaccard)

    def search_rows(
        self, vectors: Vectors, k: int, jaccard: float | None = None, questions: Sequence[str] = ()
    ) -> tuple[Vectors, Rows]:
        """Return scores and rows (q, n) for ``passages`` to select from; n is larger than ``k``."""
        depth = k + 1 + (SPARE if jaccard is not None else 0)
        scores, rows = self._search.search(vectors, max(depth, FUSED) if self._lexical else depth)
        if self._lexical:
            rows = self._fuse_rankings(self._lexical, rows, questions, depth)
            scores = score_rows(self._store, vectors, rows)
        return scores, rows

    def passages(
        self, scores: Vectors, rows: Rows, k: int, exclude: Sequence[int | None], jaccard: float | None = None
    ) -> list[list[Hit]]:
        """Return the ``k`` best passages of each query from the result of ``search_rows``; see ``search``."""
        sources = self._store.rows(np.array([-1 if pmid is None else pmid for pmid in exclude], np.int64))
        keep = (rows >= 0) & (rows != sources[:, None])
        if jaccard is not None:
            keep &= ~near_copies(self._store, np.column_stack([sources, rows]), jaccard)[:, 1:]
        keep &= np.cumsum(keep, axis=1) <= k
        passages = iter(self._store.passages(rows[keep]))
        results: list[list[Hit]] = []
        for kept, score in zip(keep, scores, strict=True):
            hits = [(next(passages), float(value)) for value in score[kept]]
            results.append([Hit(pmid, value, title, text, mesh) for (pmid, title, text, mesh), value in hits])
        return results

    def _fuse_rankings(self, lexical: "LexicalShards", rows: Rows, questions: Sequence[str], depth: int) -> Rows:
        """Return (q, depth) rows of both rankings fused into one."""
        fused = np.full((len(rows), depth), -1, np.int64)
        for at, (dense, question) in enumerate(zip(rows, questions, strict=True)):
            rankings = [dense[dense >= 0].tolist(), lexical.search(question, FUSED)]
            best = [row for row, _ in reciprocal_rank_fusion(rankings, self._weights)[:depth]]
            fused[at, : len(best)] = best
        return fused


class LexicalShards:
    """The lexical indexes of all shards."""

    def __init__(self, folders: Sequence[Path], store: Store, deleted: Rows):
        """Open the indexes. Raises ``ValueError`` that names a folder which is not a lexical index."""
        self._shards = [LexicalIndex(folder) for folder in folders]
        self._store, self._deleted = store, set(deleted.tolist())

    def search(self, question: str, k: int) -> list[int]:
        """Return the rows of the ``k`` passages with the best BM25 scores, best first; scores are per shard."""
        scored: list[tuple[float, int]] = []
        for shard, lexical, first in zip(self._store.shards, self._shards, self._store.offsets, strict=False):
            hits = lexical.search(question, k)
            places = places_in(np.array([pmid for pmid, _ in hits], np.int64), shard.pmids)
            rows = (places + first).tolist()
            scored += [(-score, row) for row, (_, score) in zip(rows, hits, strict=True) if row not in self._deleted]
        return [row for _, row in sorted(scored)[:k]]
