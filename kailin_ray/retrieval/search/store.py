"""The passages of an index with their vectors, in shards that are written once and never changed.

::

    shards/00000/passages.arrow   pmid, title, text, mesh: sorted by PMID, one batch
    shards/00000/vectors.f16      row i: the vector of passage i, half precision

All files are opened memory-mapped, so the processes of a node share one copy and only what is used is read. A
passage's row is its place in the concatenated shards.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.corpus.overlap.ngrams import places_in

PASSAGES = pa.schema(
    [("pmid", pa.int64()), ("title", pa.string()), ("text", pa.string()), ("mesh", pa.list_(pa.string()))]
)
SHARD_ROWS = 200_000
"""Passages per shard: about 300 MB of text and 300 MB of vectors of 768 dimensions."""
ROWS_AT_ONCE = 8_192
"""Vectors that are widened to single precision together."""

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
HALF = np.dtype("<f2")


class ShardSize(NamedTuple):
    """The number of passages in a shard and their dimension."""

    rows: int
    dimension: int


def write_shard(parts: Sequence[Path], folder: Path) -> ShardSize:
    """Write the passages of Parquet parts, which also have a column ``embedding``, as a shard; return its size.

    If there are no passages, the size has 0 rows and nothing is written.
    """
    table = pa.concat_tables(pq.read_table(part) for part in parts).sort_by("pmid").combine_chunks()
    if not len(table):
        return ShardSize(0, 0)
    embedding = table["embedding"].combine_chunks()
    dimension = embedding.type.list_size
    folder.mkdir(parents=True, exist_ok=True)  # Ray may run the task again
    vectors = embedding.flatten().to_numpy(zero_copy_only=False).astype(HALF, copy=False)
    vectors.tofile(folder / "vectors.f16")
    passages = table.select(PASSAGES.names).cast(PASSAGES)
    with pa.OSFile(str(folder / "passages.arrow"), "wb") as sink, pa.ipc.new_file(sink, PASSAGES) as writer:
        writer.write_table(passages)
    return ShardSize(len(table), dimension)


class Shard:
    """One shard, opened."""

    def __init__(self, folder: Path, rows: int, dimension: int):
        """Open the files. Raises ``ValueError`` that names a file which does not match ``rows`` and ``dimension``."""
        expected, actual = rows * dimension * HALF.itemsize, (folder / "vectors.f16").stat().st_size
        if expected != actual:
            raise ValueError(f"{folder / 'vectors.f16'} has {actual:,} bytes, not {rows:,} x {dimension} x 2: damaged")
        # "c" (copy on write): torch wants writable arrays, though nothing writes to them.
        self.vectors = np.memmap(folder / "vectors.f16", HALF, "c", shape=(rows, dimension))
        try:
            self.passages = pa.ipc.open_file(pa.memory_map(str(folder / "passages.arrow"))).get_batch(0)
        except (pa.ArrowInvalid, IndexError) as error:
            raise ValueError(f"{folder / 'passages.arrow'}: damaged: {error}") from error
        if len(self.passages) != rows or self.passages.schema != PASSAGES:
            raise ValueError(f"{folder / 'passages.arrow'} has {len(self.passages):,} passages, not {rows:,}: damaged")
        self.pmids = self.passages["pmid"].to_numpy()


class Store:
    """The passages of an index, read-only."""

    def __init__(self, shards: Sequence[tuple[Path, int]], dimension: int):
        """``shards``: the folder of each with its number of rows, in order."""
        self.shards = [Shard(folder, rows, dimension) for folder, rows in shards]
        self.offsets = np.cumsum([0, *(rows for _, rows in shards)])
        self.dimension = dimension

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def _by_shard(self, rows: Rows) -> Iterator[tuple[Shard, Rows, Rows]]:
        """Yield each shard that has some of ``rows`` (n,), with their places in it, ascending, and in ``rows``."""
        order = np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], self.offsets)
        for number in np.flatnonzero(np.diff(bounds)):
            at = order[bounds[number] : bounds[number + 1]]
            yield self.shards[number], rows[at] - self.offsets[number], at

    def vectors(self, rows: Rows) -> npt.NDArray[np.float16]:
        """Return vectors (n, dimension) of rows (n,); zeros where a row is -1."""
        vectors = np.zeros((len(rows), self.dimension), HALF)
        for shard, places, at in self._by_shard(rows):
            vectors[at] = shard.vectors[places]
        return vectors

    def pmids(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return PMIDs (n,) of rows (n,); -1 where a row is -1."""
        pmids = np.full(len(rows), -1, np.int64)
        for shard, places, at in self._by_shard(rows):
            pmids[at] = shard.pmids[places]
        return pmids

    def rows(self, pmids: npt.NDArray[np.int64]) -> Rows:
        """Return the row (n,) of each PMID, in the newest shard that has it; -1 if no shard has it."""
        rows = np.full(len(pmids), -1, np.int64)
        for shard, offset in zip(self.shards, self.offsets, strict=False):
            places = places_in(pmids, shard.pmids)
            rows = np.where(places >= 0, places + offset, rows)
        return rows

    def passages(self, rows: Rows) -> list[tuple[int, str, str, list[str]]]:
        """Return PMID, title, text and MeSH UIs of rows (n,), none of which may be -1."""
        passages: list[Any] = [None] * len(rows)
        for shard, places, at in self._by_shard(rows):
            columns = [column.to_pylist() for column in shard.passages.take(pa.array(places)).columns]
            for place, values in zip(at, zip(*columns, strict=True), strict=True):
                passages[place] = values
        return passages

    def chunks(self, only: Sequence[int] | None = None) -> Iterator[tuple[int, npt.NDArray[np.float16]]]:
        """Yield all vectors, or those of some shards, in chunks; each chunk comes with the row of its first vector."""
        for number in range(len(self.shards)) if only is None else only:
            vectors = self.shards[number].vectors
            for start in range(0, len(vectors), ROWS_AT_ONCE):
                yield int(self.offsets[number]) + start, vectors[start : start + ROWS_AT_ONCE]
