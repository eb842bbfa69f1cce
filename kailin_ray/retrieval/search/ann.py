"""Approximate nearest neighbours: the structures that search an index's vectors, how to build and how to query them.

| structure | method | bytes per passage, without its vector | for |
|---|---|---|---|
| exact | torch, a product with all vectors (``exact.py``) | 0; on a GPU 2 d | small corpora, or GPUs with the memory |
| ivf_pq | FAISS, inverted lists of product-quantised vectors | d / 6 + 8 | large corpora |
| hnsw | FAISS, a graph over 8-bit vectors | d + 270 | medium corpora; many questions, one at a time |

The last two return candidates, which are rescored with the store's half-precision vectors (Jégou et al. 2011,
https://doi.org/10.1109/TPAMI.2010.57; Malkov and Yashunin 2018, https://doi.org/10.1109/TPAMI.2018.2889473).
Similarity is the inner product.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from kailin_ray.retrieval.search.exact import Exact, ExactOnGpu
from kailin_ray.retrieval.search.folder import Structure
from kailin_ray.retrieval.search.store import Rows, Store, Vectors

EXACT_UP_TO = 100_000
"""``auto`` searches up to this many passages exactly: on two cores, that is faster than encoding the questions."""
GPU_CANDIDATES = 32
"""Candidates that exact search in half precision returns for rescoring."""
FEWEST_TO_TRAIN = 1_000
SAMPLE_A_LIST = 40
"""Training vectors per centroid."""
DIMENSIONS_A_BYTE = 6
HNSW_LINKS, HNSW_CONSTRUCTION = 32, 80
DEALT_OUT = 64
"""Questions that a thread takes at a time."""
REFINED_AT_ONCE = 16_384
"""Candidates that are rescored together: 50 MB at 768 dimensions."""


class Search(Protocol):
    """An opened structure."""

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Return scores and rows, each (q, k), best first, of queries (q, dimension); -1 for a missing row."""


def chosen_kind(kind: Literal["auto", "exact", "ivf_pq", "hnsw"], total: int) -> Literal["exact", "ivf_pq", "hnsw"]:
    """Return ``kind``, or the kind that suits ``total`` passages if it is auto. Raises ``ValueError`` for too few."""
    if kind == "auto":
        return "exact" if total <= EXACT_UP_TO else "ivf_pq"
    if kind in ("ivf_pq", "hnsw") and total < FEWEST_TO_TRAIN:
        raise ValueError(f"{kind} needs {FEWEST_TO_TRAIN:,} passages, there are {total:,}; exact works with any number")
    return kind


def num_lists(total: int) -> int:
    """Return the number of inverted lists for ``total`` passages: about 4 times the square root, a power of two."""
    return int(2 ** round(np.log2(4 * np.sqrt(total))))


def sample_size(total: int) -> int:
    """Return the number of vectors that a structure for ``total`` passages is trained on."""
    return min(total, max(65_536, SAMPLE_A_LIST * num_lists(total)))


def train(kind: str, sample: Vectors, total: int) -> Any:
    """Return an empty FAISS index (ivf_pq, hnsw) for ``total`` passages, trained on ``sample`` (n, dimension)."""
    dimension = sample.shape[1]
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dimension, faiss.ScalarQuantizer.QT_8bit, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_CONSTRUCTION
    else:
        index = faiss.index_factory(dimension, _ivf_pq(total, dimension), faiss.METRIC_INNER_PRODUCT)
    index.train(sample)
    return index


def _ivf_pq(total: int, dimension: int) -> str:
    codes = next(n for n in range(max(1, dimension // DIMENSIONS_A_BYTE), 0, -1) if dimension % n == 0)
    # np: no polysemous training. It took 50 of 56 seconds, and the filter that needs it is not used.
    return f"IVF{num_lists(total)},PQ{codes}np"


def add(index: Any, chunks: Iterable[tuple[int, npt.NDArray[np.float16]]]) -> None:
    """Add vectors to a trained index; each chunk comes with the row of its first vector."""
    for first, chunk in chunks:
        vectors = chunk.astype(np.float32)
        if isinstance(index, faiss.IndexIVF):
            index.add_with_ids(vectors, np.arange(first, first + len(vectors)))
        else:
            assert index.ntotal == first
            index.add(vectors)


def merge(paths: Sequence[Path]) -> Any:
    """Merge several IVF indexes with the same training into one; rows keep their numbers."""
    index = faiss.read_index(str(paths[0]))
    for path in paths[1:]:
        index.merge_from(faiss.read_index(str(path)), 0)
    return index


def open_search(file: Path, choice: Structure, store: Store, deleted: Rows, device: str) -> Search:
    """Open the structure of an index memory-mapped; ``choice`` is its description in the manifest.

    Raises ``ValueError`` that names the file if it is not a FAISS index or does not match the store's vectors.
    """
    if choice.kind == "exact":
        if device == "cuda":
            return Refined(ExactOnGpu(store, deleted), store, GPU_CANDIDATES)
        return Exact(store, deleted)
    try:
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"{file}: damaged: {' '.join(str(error).split())[:200]}") from error
    if index.d != store.dimension or index.ntotal != len(store):
        raise ValueError(
            f"{file}: {index.ntotal:,} vectors of {index.d} dimensions for {len(store):,} passages of {store.dimension}"
        )
    return Refined(Approximate(index, choice, deleted), store, choice.num_candidates or GPU_CANDIDATES)


class Approximate:
    """Searches inverted lists or a graph with FAISS; its scores are approximate.

    Threads take many questions a few at a time. FAISS itself would give each of its threads an equal share in advance,
    and anything that takes a core for a moment, such as reading the last questions' passages, would delay the search.
    Torch finds the lists to probe in a third of the time that FAISS's flat index takes.
    """

    def __init__(self, index: Any, choice: Structure, deleted: Rows):
        self._index = index
        threads = faiss.omp_get_max_threads()
        self._threads = ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,))
        # Kept as an attribute: FAISS holds no reference to what its parameters point to.
        self._live = np.packbits(_live(index.ntotal, deleted), bitorder="little") if len(deleted) else None
        selector = {} if self._live is None else {"sel": faiss.IDSelectorBitmap(self._live)}
        self._centroids: Vectors | None = None
        if choice.kind == "hnsw":
            self._parameters = faiss.SearchParametersHNSW(efSearch=choice.ef_search, **selector)
        else:
            # FAISS checks that the index and the parameters have the same nprobe.
            self._num_probed = index.nprobe = min(choice.nprobe or index.nlist, index.nlist)
            self._parameters = faiss.SearchParametersIVF(nprobe=self._num_probed, **selector)
            self._centroids = index.quantizer.reconstruct_n(0, index.nlist)

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See ``Search``."""
        lists = self._nearest_lists(vectors) if self._centroids is not None else None

        def some(first: int) -> tuple[Vectors, Rows]:
            batch = slice(first, first + size)
            result: tuple[Vectors, Rows]
            if lists is None:
                result = self._index.search(vectors[batch], k, params=self._parameters)
            else:
                result = self._within(vectors[batch], k, lists[0][batch], lists[1][batch])
            return result

        size = DEALT_OUT if len(vectors) > DEALT_OUT else len(vectors)
        firsts = range(0, len(vectors), max(1, size))
        results = [some(0)] if len(firsts) <= 1 else list(self._threads.map(some, firsts))
        return np.concatenate([scores for scores, _ in results]), np.concatenate([rows for _, rows in results])

    def _within(self, vectors: Vectors, k: int, products: Vectors, lists: Rows) -> tuple[Vectors, Rows]:
        """Return scores and rows (q, k) from ``lists`` (q, n); ``products`` are inner products with their centroids."""
        scores, rows = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        pointers = map(faiss.swig_ptr, (lists, products, scores, rows))
        # FAISS's method for arrays, ``search_preassigned``, takes no parameters.
        self._index.search_preassigned_c(len(vectors), faiss.swig_ptr(vectors), k, *pointers, False, self._parameters)
        return scores, rows

    def _nearest_lists(self, vectors: Vectors) -> tuple[Vectors, Rows]:
        """Return inner products with the nearest centroids and the numbers of their lists, each (q, number probed)."""
        import torch

        products = torch.from_numpy(vectors) @ torch.from_numpy(self._centroids).T
        scores, numbers = products.topk(self._num_probed, sorted=False)
        return scores.numpy(), numbers.numpy()


class Refined:
    """Rescores the candidates of another search with the stored vectors."""

    def __init__(self, rough: Search, store: Store, num_candidates: int):
        """``num_candidates``: candidates for up to 16 passages; ``k`` passages need ceil(k / 16) times as many."""
        self._rough, self._store, self._num_candidates = rough, store, num_candidates

    def search(self, vectors: Vectors, k: int) -> tuple[Vectors, Rows]:
        """See ``Search``."""
        number = min(len(self._store), self._num_candidates * -(-k // 16))
        _, rows = self._rough.search(vectors, max(k, number))
        step = max(1, REFINED_AT_ONCE // rows.shape[1])
        batches = [
            self._refine(vectors[start : start + step], rows[start : start + step], k)
            for start in range(0, len(vectors), step)
        ]
        scores, best_rows = zip(*batches, strict=True)
        return np.concatenate(scores), np.concatenate(best_rows)

    def _refine(self, vectors: Vectors, rows: Rows, k: int) -> tuple[Vectors, Rows]:
        import torch

        places = torch.from_numpy(rows)
        scores, order = torch.from_numpy(score_rows(self._store, vectors, rows)).topk(k)
        return scores.numpy(), places.gather(1, order).numpy()


def score_rows(store: Store, vectors: Vectors, rows: Rows) -> Vectors:
    """Return inner products (q, c) of queries (q, d) and stored vectors of rows (q, c); -inf where a row is -1."""
    import torch

    stored = torch.from_numpy(store.vectors(rows.ravel())).view(*rows.shape, -1).float()
    scores = torch.bmm(stored, torch.from_numpy(vectors)[:, :, None])[:, :, 0]
    products: Vectors = scores.masked_fill_(torch.from_numpy(rows) < 0, -torch.inf).numpy()
    return products


def _live(total: int, deleted: Rows) -> npt.NDArray[np.bool_]:
    live = np.ones(total, dtype=bool)
    live[deleted] = False
    return live
