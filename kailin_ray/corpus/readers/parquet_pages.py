"""Read the headers of a Parquet file's pages: how much memory a page takes, before it is unpacked.

The footer has only sums, which say nothing about a single page, and may be false. A header is a struct in Thrift's
compact protocol: https://parquet.apache.org/docs/file-format/data-pages/.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

DELTA_BYTE_ARRAY = 7
"""The encoding in which a text repeats the beginning of the text before it."""
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_MAX_HEADER_BYTES = 16 << 20
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Page:
    """A page of a column: its size when it is unpacked, and its values; a dictionary has none."""

    num_bytes: int
    num_values: int
    encoding: int
    is_dictionary: bool


def read_pages(stream: BinaryIO, chunk: Any) -> Iterator[Page]:
    """Yield the pages of a column in a row group. ``chunk``: pyarrow's ``ColumnChunkMetaData``.

    Raises ``ValueError`` if a header is damaged, or the pages have fewer values than the footer says.
    """
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < at:
        at = chunk.dictionary_page_offset
    num_values, end = 0, at + chunk.total_compressed_size
    while num_values < chunk.num_values:
        if at >= end:
            raise ValueError(f"its pages have {num_values:,} values, its footer says {chunk.num_values:,}")
        fields, size = _read_header(stream, at)
        kind, num_bytes = _number(fields, 1, at), _number(fields, 2, at)
        details = fields.get({_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(kind, 0), {})
        if kind == _DICTIONARY:
            yield Page(num_bytes, 0, 0, is_dictionary=True)
        elif kind in (_DATA, _DATA_V2):
            count, encoding = _number(details, 1, at), _number(details, 2 if kind == _DATA else 4, at)
            num_values += count
            yield Page(num_bytes, count, encoding, is_dictionary=False)
        at += size + _number(fields, 3, at)


def _number(fields: Any, number: int, at: int) -> int:
    value = fields.get(number) if isinstance(fields, dict) else None
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"a damaged page header at byte {at:,}")
    return value


def _read_header(stream: BinaryIO, at: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the header at a place in the file, by number, and the header's size."""
    size = 1 << 9
    while True:
        stream.seek(at)
        data = stream.read(size)
        reader = _Compact(data)
        try:
            return reader.struct(), reader.at
        except IndexError as error:
            if len(data) < size or size > _MAX_HEADER_BYTES:
                raise ValueError(f"a damaged page header at byte {at:,}") from error
            size *= 16  # a header may hold texts: the smallest and largest value


class _Compact:
    """A reader of Thrift's compact protocol. It raises ``IndexError`` where the data end, ``ValueError`` for no type.

    Texts, lists and floating-point numbers are skipped.
    """

    def __init__(self, data: bytes):
        self._data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise ValueError("a damaged page header")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 12:
            return self.struct(depth + 1)
        if kind in (9, 10):
            self._skip_list(depth)
        else:
            if kind not in (3, 7, 8):
                raise ValueError(f"a damaged page header: type {kind}")
            self._skip(self._varint() if kind == 8 else {3: 1, 7: 8}[kind])
        return None

    def _skip_list(self, depth: int) -> None:
        head = self._byte()
        for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
            if head & 15 in (1, 2):
                self._byte()
            else:
                self._value(head & 15, depth)

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._data):
            raise IndexError

    def _byte(self) -> int:
        self.at += 1
        return self._data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a damaged page header")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
