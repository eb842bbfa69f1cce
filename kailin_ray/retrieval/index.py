"""The dense index on disk: a FAISS index and the passages it stands for.

``index/``: ``vectors.faiss`` (vector i), ``passages.arrow`` (row i: pmid, title, text, mesh), ``manifest.json``. Both
files open memory-mapped, so the processes of a node share one copy and nothing is read that is not used.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

PASSAGES = pa.schema(
    [("pmid", pa.int64()), ("title", pa.string()), ("text", pa.string()), ("mesh", pa.list_(pa.string()))]
)
ROWS_AT_ONCE = 4_000


@dataclass(frozen=True)
class Hit:
    """One passage found for a query."""

    pmid: int
    score: float
    title: str
    text: str
    mesh: list[str]


def build(parts: list[Path], folder: Path) -> dict[str, Any]:
    """Build the index in ``folder`` from Parquet parts of passages with embeddings, part by part.

    Exact search by inner product. Returns the counts for the manifest.
    """
    index: Any = None
    total = 0
    with pa.OSFile(str(folder / "passages.arrow"), "wb") as sink, pa.ipc.new_file(sink, PASSAGES) as store:
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(ROWS_AT_ONCE):
                vectors = np.stack(batch["embedding"].to_numpy(zero_copy_only=False)).astype(np.float32)
                index = index or faiss.IndexFlatIP(vectors.shape[1])
                index.add(vectors)
                store.write_batch(pa.RecordBatch.from_arrays([batch[name] for name in PASSAGES.names], schema=PASSAGES))
                total += batch.num_rows
    faiss.write_index(index, str(folder / "vectors.faiss"))
    return {"num_passages": total, "dimension": index.d, "index": "IndexFlatIP"}


class PassageIndex:
    """An opened index. Not for use by two threads at once."""

    def __init__(self, folder: Path):
        """Open ``folder`` memory-mapped. Raises ``ValueError`` if index and passages do not belong together."""
        self._index = faiss.read_index(str(folder / "vectors.faiss"), faiss.IO_FLAG_MMAP_IFC)
        self._passages = pa.ipc.open_file(pa.memory_map(str(folder / "passages.arrow"))).read_all()
        self._pmids = self._passages["pmid"].to_numpy()
        if self._index.ntotal != len(self._pmids):
            raise ValueError(f"{folder}: {self._index.ntotal} vectors for {len(self._pmids)} passages")
        self.dimension = int(self._index.d)

    def search(self, vectors: npt.NDArray[np.float32], k: int, exclude: list[int | None]) -> list[list[Hit]]:
        """The ``k`` best passages of each query, best first, without the PMID that ``exclude`` names for it."""
        scores, rows = self._index.search(vectors, k + 1)
        found = []
        for score, row, without in zip(scores, rows, exclude, strict=True):
            kept = [(int(r), float(s)) for r, s in zip(row, score, strict=True) if r >= 0 and self._pmids[r] != without]
            found.append([self._hit(r, s) for r, s in kept[:k]])
        return found

    def _hit(self, row: int, score: float) -> Hit:
        passage = self._passages.slice(row, 1).to_pylist()[0]
        return Hit(passage["pmid"], score, passage["title"], passage["text"], passage["mesh"])
