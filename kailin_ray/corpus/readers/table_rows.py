"""Read the rows of a table file (JSON, JSON lines, CSV, Parquet) as a stream of dictionaries.

A JSON file is an array of rows, an object of rows by PMID (the PMIDs become the column ``_key``), or a sequence of
rows. The first characters show which, because no field name is a number.
"""

import csv
import io
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.corpus.readers.parquet_rows import TooLargeError, parquet_rows
from kailin_ray.corpus.readers.pubmed_xml import MAX_RECORD_BYTES, DamagedFileError
from kailin_ray.io.compressed import open_unpacked, read_lines
from kailin_ray.schema import Row

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
KEY = "_key"
ROWS_TO_JUDGE, BYTES_TO_JUDGE = 1_000, 32 << 20
"""A column is missing if none of the first rows has it; this many rows or bytes are checked."""
MAX_MESSAGE = 300
_FAULTS = (
    ValueError,
    OverflowError,
    OSError,
    EOFError,
    LookupError,
    RecursionError,
    csv.Error,
    zlib.error,
    pa.ArrowException,
)
_CHUNK = 1 << 18
_BY_PMID = re.compile(r'\{\s*"\d{1,19}"\s*:\s*\{', re.ASCII)
_SPACE = re.compile(r"[ \t\n\r]*")  # JSON's white space; Python's has more, also the first byte of gzip
_DECODER = json.JSONDecoder()


class MissingColumnError(DamagedFileError):
    """A table without a required column; the message lists the columns that it has."""


def read_table(path: Path, columns: list[str]) -> Iterator[Any]:
    """Stream the rows of a table. A row is usually a dictionary, but is returned as it is in the file.

    ``columns`` are the required columns; dots name a field inside another. Raises ``DamagedFileError`` if the file
    cannot be read to its end or a row has more than ``MAX_RECORD_BYTES``, and ``MissingColumnError`` if a column is
    missing.
    """
    try:
        yield from _parquet_rows(path, columns) if path.suffix == ".parquet" else _text_rows(path, columns)
    except _FAULTS as error:
        if isinstance(error, DamagedFileError) or _is_of_the_file_system(error):
            raise
        raise DamagedFileError(f"{path}: {_line(error)}") from error


def _name_place(rows: Iterator[Any]) -> Iterator[Any]:
    """Yield the rows. Raises ``ValueError`` with the number of rows before a fault that does not name its place."""
    number = 0
    try:
        for row in rows:
            yield row
            number += 1
    except _FAULTS as error:
        if type(error) in (ValueError, TooLargeError) or _is_of_the_file_system(error):
            raise
        raise ValueError(f"after row {number:,}: {_line(error)}") from error


def _is_of_the_file_system(error: BaseException) -> bool:
    return getattr(error, "errno", None) is not None  # an OSError of Arrow, for a damaged page, has none


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:MAX_MESSAGE] or type(error).__name__


def _text_rows(path: Path, columns: list[str]) -> Iterator[Any]:
    with open_unpacked(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
        rows = _name_place(_csv_rows(text, columns) if ".csv" in path.suffixes[-2:] else _json_rows(text))
        first: list[Any] = []
        names: dict[str, None] = {}
        for row in rows:
            first.append(row)
            names |= dict.fromkeys(_names(row))
            if names.keys() >= set(columns) or len(first) == ROWS_TO_JUDGE or stream.tell() > BYTES_TO_JUDGE:
                break
        if first:
            _check(path, columns, names)
        yield from itertools.chain(first, rows)


def _check(path: Path, columns: list[str], available: Iterable[str]) -> None:
    names = dict.fromkeys(available)
    for name in columns:
        if name not in names:
            shown = [known if known == known.strip() else repr(known) for known in names]
            known = ", ".join(shown[:40]) or "none"
            raise MissingColumnError(f"{path}: no column {name!r}; there are: {known}")


def _check_single(columns: Iterable[str], available: Iterable[str]) -> None:
    """Raise ``ValueError`` for a required column that a table has more than once: any choice may be wrong."""
    numbers = Counter(available)
    for name in columns:
        if numbers[name] > 1:
            raise ValueError(f"{numbers[name]} columns have the name {name!r}; rename all but one")


def _names(row: Any, depth: int = 4) -> Iterator[str]:
    for name, cell in row.items() if isinstance(row, dict) else ():
        yield name
        if depth:
            yield from (f"{name}.{inner}" for inner in _names(cell, depth - 1))


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Any]:
    schema = pq.read_schema(path)
    _check(path, columns, _fields(schema))
    _check_single(columns, _fields(schema))
    names = dict.fromkeys(name if name in schema.names else name.partition(".")[0] for name in columns)
    yield from _name_place(parquet_rows(path, names))


def _fields(fields: Iterable[pa.Field]) -> Iterator[str]:
    for field in fields:
        yield field.name
        if pa.types.is_struct(field.type):
            yield from (f"{field.name}.{inner}" for inner in _fields(field.type))


def _csv_rows(text: io.TextIOBase, columns: Iterable[str]) -> Iterator[Row]:
    # The limit applies to the whole process, which reads other files too.
    before = csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        rows = csv.reader(read_lines(text, MAX_RECORD_BYTES), strict=True)
        header: list[str] = []
        for row in filter(None, rows):
            if header and len(row) != len(header):
                raise ValueError(f"line {rows.line_num:,}: {len(row)} cells, but the header has {len(header)}")
            if header:
                yield dict(zip(header, row, strict=True))
            else:
                header = row
                _check_single(columns, header)
    finally:
        csv.field_size_limit(before)


def _json_rows(text: io.TextIOBase) -> Iterator[Any]:
    values = _Values(text)
    keyed = values.comes(_BY_PMID)
    if not keyed and values.next() != "[":
        while values.next():
            yield values.take()
        return
    closing = "}" if keyed else "]"
    values.expect("{" if keyed else "[")
    while not values.pass_over(closing):
        key = None
        if keyed:
            key = values.take()
            values.expect(":")
        row = values.take()
        yield {KEY: key} | row if keyed and isinstance(row, dict) else row
        if values.next() != closing:
            values.expect(",")
    values.expect_end()


class _Values:
    """A reader of JSON values from a text, one at a time. It holds one chunk in memory, or one larger value."""

    def __init__(self, text: io.TextIOBase):
        self._text, self._buffer, self._at, self._taken = text, "", 0, 0

    def next(self) -> str:
        """Return the next character that is not white space, without consuming it; empty at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]  # it matches "" too
            if self._at < len(self._buffer) or not self._read_on():
                return self._buffer[self._at : self._at + 1]

    def comes(self, pattern: re.Pattern[str]) -> bool:
        """Return whether a short ``pattern`` comes next."""
        self.next()
        return bool(pattern.match(self._buffer, self._at))

    def pass_over(self, mark: str) -> bool:
        """Consume ``mark`` if it comes next; return whether it did."""
        matches = self.next() == mark
        self._at += matches
        return matches

    def expect(self, mark: str) -> None:
        """Consume ``mark``. Raises ``ValueError`` if it does not come next."""
        if not self.pass_over(mark):
            raise ValueError(f"after value {self._taken}: {mark!r} expected, found {self.next() or 'the end'!r}")

    def expect_end(self) -> None:
        """Raise ``ValueError`` if anything is left: two files put together would lose the second."""
        if left := self.next():
            raise ValueError(f"after value {self._taken}: the end expected, found {left!r}")

    def take(self) -> Any:
        """Return the next value. Raises ``ValueError`` if there is none."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # An error near the end of the buffer, or an unterminated text, may only mean that the buffer is cut.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 16
                if not cut or not self._read_on():
                    raise ValueError(f"value {self._taken + 1}: {error.msg}") from error
                continue
            if end < len(self._buffer) or not self._read_on():  # a number may be cut off as well
                self._at = end
                self._taken += 1
                return value

    def _read_on(self) -> bool:
        rest = self._buffer[self._at :]
        if len(rest) > MAX_RECORD_BYTES:
            raise ValueError(f"value {self._taken + 1}: more than {MAX_RECORD_BYTES:,} characters")
        # Double the buffer each time, because an incomplete value is parsed from its start again.
        more = self._text.read(max(_CHUNK, len(rest)))
        if more:
            self._buffer, self._at = rest + more, 0
        return bool(more)
