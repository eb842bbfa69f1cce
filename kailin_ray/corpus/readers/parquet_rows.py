"""Read the rows of a Parquet file within bounds of memory.

A small file can be large in memory: pages are compressed, and a text that a dictionary holds once may stand in each
row. So the sizes of pages are read before the pages (``parquet_pages.py``), texts are read as dictionaries, which stay
shared, and each row is measured before it becomes Python objects.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.corpus.readers.parquet_pages import DELTA_BYTE_ARRAY, Page, read_pages
from kailin_ray.schema import Row

MAX_ROW_BYTES = 16 << 20
"""Maximum size of a row, as of a record in other files."""
MAX_OPEN_BYTES = 256 << 20
"""Maximum size of the pages that are in memory at the same time, and of a batch."""
MAX_LIST_BYTES = 1 << 30
"""Maximum size of the lists of a row group. One row may hold them all, and nothing but reading it tells."""
BATCH_ROWS = 1_024
_VALUE_BYTES = 24
"""Memory of a value besides its text: places, levels."""

Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Chunk:
    """A column in a row group."""

    path: str
    is_list: bool
    is_copied: bool
    """Its texts are not read as a dictionary: each value may be a copy of all of it."""
    width: int
    """Bytes of a value; 0 for texts."""
    dictionary: int
    """Bytes of its dictionary."""
    pages: list[Page]


class TooLargeError(ValueError):
    """A row, or all rows together, take more memory than is allowed; the message names the row."""


def parquet_rows(
    source: Path | BinaryIO, columns: Iterable[str] | None = None, most: int | None = None
) -> Iterator[Row]:
    """Stream the rows of a Parquet file: of all columns, or of these, which are names at the top level.

    Raises ``ValueError`` or Arrow's errors if the file is damaged, a row or page is too large, or all rows together
    take more than ``most`` bytes.
    """
    num_bytes = 0
    for batch, sizes in _batches(source, columns):
        num_bytes += int(sizes.sum())
        if most is not None and num_bytes > most:
            raise TooLargeError(f"the rows take more than {most:,} bytes")
        yield from _rows(batch, sizes)


def check_rows(path: Path, columns: Iterable[str]) -> None:
    """Read these columns of a file to its end, without copying a text. Raises the same errors as ``parquet_rows``."""
    for _ in _batches(path, columns):
        pass


def _batches(source: Path | BinaryIO, columns: Iterable[str] | None) -> Iterator[tuple[pa.RecordBatch, Sizes]]:
    """Yield batches, with texts as dictionaries, and the sizes of their rows."""
    with pq.ParquetFile(source) as file:
        texts = _list_shareable_texts(file)
    number = 0
    stream = source.open("rb") if isinstance(source, Path) else source
    try:
        # Only the pages that are read are in memory, not the whole row group.
        options: dict[str, Any] = {"buffer_size": 1 << 20, "pre_buffer": False, "page_checksum_verification": True}
        with pq.ParquetFile(source, read_dictionary=texts, **options) as file:
            names = list(file.schema_arrow.names if columns is None else columns)
            for group in range(file.num_row_groups):
                before = number
                num_rows = _batch_rows(_chunks(file, group, names, texts, stream), group)
                for batch in file.iter_batches(num_rows, [group], names, use_threads=False):
                    batch.validate()
                    yield batch, measure_rows(batch, number)
                    number += len(batch)
                expected = file.metadata.row_group(group).num_rows
                if number - before != expected:
                    raise ValueError(f"row group {group + 1}: {number - before:,} rows, its footer says {expected:,}")
    finally:
        if isinstance(source, Path):
            stream.close()


def _list_shareable_texts(file: pq.ParquetFile) -> list[str]:
    """Return the paths of the columns of texts that Arrow can read as dictionaries: those without a delta encoding.

    The encodings are those that the footer names. If it does not name one, Arrow refuses the column.
    """
    groups = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
    columns = [(at, file.schema.column(at)) for at in range(len(file.schema))]
    return [
        column.path
        for at, column in columns
        if column.physical_type == "BYTE_ARRAY"
        and not any("DELTA" in encoding for group in groups for encoding in group.column(at).encodings)
    ]


def _chunks(
    file: pq.ParquetFile, group: int, names: list[str], shared: list[str], stream: BinaryIO
) -> Iterator[_Chunk]:
    metadata = file.metadata.row_group(group)
    for at in range(metadata.num_columns):
        column, chunk = file.schema.column(at), metadata.column(at)
        if column.path in names or column.path.partition(".")[0] in names:
            try:
                pages = list(read_pages(stream, chunk))
            except ValueError as error:
                raise ValueError(f"row group {group + 1}, column {column.path!r}: {error}") from error
            dictionary = sum(page.num_bytes for page in pages if page.is_dictionary)
            is_text = column.physical_type == "BYTE_ARRAY"
            width = 0 if is_text else column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else 8
            yield _Chunk(
                column.path,
                column.max_repetition_level > 0,
                is_text and column.path not in shared,
                width,
                dictionary,
                [page for page in pages if not page.is_dictionary],
            )


def _batch_rows(chunks: Iterable[_Chunk], group: int) -> int:
    """Return how many rows of a row group can be read at once. Raises ``ValueError`` if one is too much."""
    chunks = list(chunks)
    open_bytes = {c.path: c.dictionary + max((page.num_bytes for page in c.pages), default=0) for c in chunks}
    _check(open_bytes, MAX_OPEN_BYTES, group, "pages")
    for chunk in chunks:
        if chunk.is_list and any(page.encoding == DELTA_BYTE_ARRAY for page in chunk.pages):
            raise ValueError(f"row group {group + 1}, column {chunk.path!r}: lists in DELTA_BYTE_ARRAY are not read")
    lists = {
        c.path: sum(page.num_bytes + page.num_values * (_copy_size(c) + _VALUE_BYTES) for page in c.pages)
        for c in chunks
        if c.is_list
    }
    _check(lists, MAX_LIST_BYTES, group, "lists")
    flat = [chunk for chunk in chunks if not chunk.is_list]
    num_rows = BATCH_ROWS
    while num_rows > 1 and sum(_most_bytes(chunk, num_rows) for chunk in flat) > MAX_OPEN_BYTES:
        num_rows //= 2
    _check({chunk.path: _most_bytes(chunk, num_rows) for chunk in flat}, MAX_OPEN_BYTES, group, "values")
    return num_rows


def _check(sizes: dict[str, int], most: int, group: int, what: str) -> None:
    if sum(sizes.values()) > most:
        path = max(sizes, key=lambda path: sizes[path])
        raise ValueError(
            f"row group {group + 1}: {what} of {sum(sizes.values()):,} bytes ({sizes[path]:,} in column {path!r}); "
            f"allowed: {most:,}; write smaller row groups or pages"
        )


def _most_bytes(chunk: _Chunk, num_rows: int) -> int:
    """Return the most bytes that any ``num_rows`` values of a column can take: those of the pages they are in."""
    if any(page.encoding == DELTA_BYTE_ARRAY for page in chunk.pages):
        return num_rows * max(max(page.num_bytes for page in chunk.pages), _copy_size(chunk))
    ends = [0, *accumulate(page.num_values for page in chunk.pages)]
    sums = [0, *accumulate(page.num_bytes for page in chunk.pages)]
    # The values begin with the last value of a page.
    lasts = np.searchsorted(ends, np.array(ends[1:]) - 1 + num_rows)
    spans = [sums[min(last, len(chunk.pages))] - sums[first] for first, last in enumerate(lasts)]
    return max(spans, default=0) + num_rows * _copy_size(chunk)


def _copy_size(chunk: _Chunk) -> int:
    """Return the bytes of a value that does not stand in a page itself."""
    return chunk.dictionary if chunk.is_copied else chunk.width


def measure_rows(batch: pa.RecordBatch, start: int) -> Sizes:
    """Return the size of each row. Raises ``TooLargeError`` if one is too large. ``start``: the rows before these."""
    sizes = {name: row_sizes(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    total: Sizes = np.sum([*sizes.values(), np.full(len(batch), 64, np.int64)], axis=0)
    if len(large := np.flatnonzero(total > MAX_ROW_BYTES)):
        name = max(sizes, key=lambda name: int(sizes[name][large[0]]))
        raise TooLargeError(
            f"row {start + large[0] + 1:,}: {total[large[0]]:,} bytes ({sizes[name][large[0]]:,} in column {name!r}); "
            f"allowed: {MAX_ROW_BYTES:,}"
        )
    return total


def _rows(batch: pa.RecordBatch, sizes: Sizes) -> Iterator[Row]:
    """Yield the rows of a batch, as many at a time as fit into twice ``MAX_ROW_BYTES``."""
    ends = [*np.flatnonzero(np.diff(np.cumsum(sizes) // MAX_ROW_BYTES)) + 1, len(batch)]
    at = 0
    for end in ends:
        # Taken, not sliced: a cast would unpack all items of a sliced list.
        piece = batch if len(ends) == 1 else batch.take(pa.array(np.arange(at, end)))
        yield from _unpack(piece).to_pylist()
        at = end


def _unpack(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without dictionaries, of which Python objects are made ten times as fast."""
    try:
        return batch.cast(pa.schema([field.with_type(_plain_type(field.type)) for field in batch.schema]))
    except pa.ArrowNotImplementedError:
        return batch


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return kind.value_type
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind


def row_sizes(array: pa.Array) -> Sizes:
    """Return the bytes of each value of a column: of its texts, and of what Python needs besides, roughly."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return row_sizes(array.storage)
    if pa.types.is_dictionary(kind):
        return (
            row_sizes(array.dictionary)[np.asarray(array.indices.fill_null(0))]
            if len(array.dictionary)
            else (np.full(len(array), 8, np.int64))
        )
    if pa.types.is_struct(kind):
        fields = [row_sizes(array.field(at)) for at in range(kind.num_fields)]
        return np.sum([*fields, np.full(len(array), 8, np.int64)], axis=0)
    if pa.types.is_map(kind):
        return _list_sizes(np.asarray(array.offsets), row_sizes(array.keys) + row_sizes(array.items))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list_sizes(np.asarray(array.offsets), row_sizes(array.values))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        starts, lengths = np.asarray(array.offsets), np.asarray(array.sizes)
        sums = _sums(row_sizes(array.values))
        return np.where(np.asarray(array.is_valid()), sums[starts + lengths] - sums[starts], 0) + 8
    if pa.types.is_fixed_size_list(kind):
        places = (array.offset + np.arange(len(array) + 1)) * kind.list_size
        return _list_sizes(places, row_sizes(array.values))
    if pa.types.is_fixed_size_binary(kind):
        return np.full(len(array), kind.byte_width, np.int64)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return row_sizes(array.cast(pa.large_binary()))
    if any(test(kind) for test in _TEXTS):
        return np.asarray(pc.binary_length(array).fill_null(0)).astype(np.int64) + 8
    if not (pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        raise ValueError(f"values of type {kind} are not read")
    return np.full(len(array), 8, np.int64)


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def _list_sizes(offsets: Any, values: Sizes) -> Sizes:
    sums = _sums(values)
    return sums[offsets[1:]] - sums[offsets[:-1]] + 8


def _sums(values: Sizes) -> Sizes:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
