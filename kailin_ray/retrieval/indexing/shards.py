"""Write the shards of an index from encoded parts, and the lexical index of each shard."""

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
"""Uncompressed bytes of the parts of a shard; its task holds about twice this in memory."""


class ShardItem(TypedDict):
    """A shard to write: its name and its parts."""

    name: str
    parts: list[str]


class ShardReport(TypedDict):
    """A written shard."""

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
        reports = []
        for report in each(_write_shard, items, {"folder": str(folder)}):
            bar.update()
            reports.append(report)
    return sorted(reports, key=lambda report: report["name"])


def _write_shard(item: ShardItem, folder: str) -> ShardReport:
    size = write_shard([Path(part) for part in item["parts"]], Path(folder, item["name"]))
    return {"name": item["name"], "rows": size.rows, "dimension": size.dimension}


def write_lexical(shards: Shards, folder: Path, first: int, shown: TextIO) -> None:
    """Build the lexical index of the shards from number ``first`` on, in ``folder``."""
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
    """Yield groups of parts; each group becomes a shard."""
    group: list[Path] = []
    rows = size = 0
    with ThreadPoolExecutor(READERS) as pool:
        for part, (part_rows, part_bytes) in zip(parts, pool.map(_size, parts), strict=True):
            if group and (rows + part_rows > SHARD_ROWS or size + part_bytes > SHARD_BYTES):
                yield group
                group, rows, size = [], 0, 0
            group.append(part)
            rows, size = rows + part_rows, size + part_bytes
    if group:
        yield group


def _size(part: Path) -> tuple[int, int]:
    """Return rows and uncompressed bytes."""
    metadata = pq.read_metadata(part)
    return metadata.num_rows, sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
