"""Write the shards of an index: encoded parts together, and the words of their passages."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.io.pmids import READERS
from kailin_ray.io.terminal import progress_bar
from kailin_ray.retrieval.indexing.structure import Nothing, Shards
from kailin_ray.retrieval.search.lexical import build_lexical
from kailin_ray.retrieval.search.store import SHARD_ROWS, write_shard

SHARD_BYTES = 1 << 30
"""Of the parts of a shard, unpacked: what its task holds in memory, about twice."""


class ShardItem(TypedDict):
    """A shard that is to be written: its name, and the parts that it is made of."""

    name: str
    parts: list[str]


class ShardReport(TypedDict):
    """A shard that was written."""

    name: str
    rows: int
    dimension: int


def write_shards(parts: list[Path], folder: Path, first: int, shown: TextIO) -> list[ShardReport]:
    """Write the parts as shards, numbered from ``first``; return the name, rows and dimension of each."""
    items: list[ShardItem] = [
        {"name": f"shards/{number:05}", "parts": [str(part) for part in group]}
        for number, group in enumerate(_group_parts(parts), start=first)
    ]
    from kailin_ray.runtime.tasks import each

    with progress_bar(shown, "index: written", len(items), unit=" shards") as bar:
        written = []
        for one in each(_write_shard, items, {"folder": str(folder)}):
            bar.update()
            written.append(one)
    return sorted(written, key=lambda one: one["name"])


def _write_shard(item: ShardItem, folder: str) -> ShardReport:
    size = write_shard([Path(part) for part in item["parts"]], Path(folder, item["name"]))
    return {"name": item["name"], "rows": size.rows, "dimension": size.dimension}


def write_lexical(shards: Shards, folder: Path, first: int, shown: TextIO) -> None:
    """Index the words of the shards from the number ``first`` on; what is written takes its place with the rest."""
    items = list(range(first, len(shards.folders)))
    from kailin_ray.runtime.tasks import each

    with progress_bar(shown, "index: words", len(items), unit=" shards") as bar:
        for _ in each(_write_words, items, {"shards": shards.folders, "folder": str(folder)}):
            bar.update()


def _write_words(number: int, shards: Sequence[tuple[str, int]], folder: str) -> Nothing:
    with pa.memory_map(str(Path(shards[number][0], "passages.arrow"))) as source:
        passages = pa.ipc.open_file(source).read_all()
    build_lexical([passages], Path(folder, "shards", f"{number:05}", "lexical"))
    return {}


def _group_parts(parts: list[Path]) -> Iterator[list[Path]]:
    """Parts that make a shard together."""
    group: list[Path] = []
    rows = size = 0
    with ThreadPoolExecutor(READERS) as pool:
        for part, (more, bytes_more) in zip(parts, pool.map(_size, parts), strict=True):
            if group and (rows + more > SHARD_ROWS or size + bytes_more > SHARD_BYTES):
                yield group
                group, rows, size = [], 0, 0
            group.append(part)
            rows, size = rows + more, size + bytes_more
    if group:
        yield group


def _size(part: Path) -> tuple[int, int]:
    """Rows, and bytes unpacked."""
    metadata = pq.read_metadata(part)
    return metadata.num_rows, sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
