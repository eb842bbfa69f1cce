"""Rows of a table in a file (JSON, JSON lines, CSV, Parquet), in a stream, as dictionaries.

A JSON file is an array of rows, an object of rows by their PMIDs (which become the column ``_key``), or rows one after
another; which of them is seen by its first characters, as no field's name is a number.
"""

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.corpus.readers.pubmed_xml import MAX_RECORD_BYTES, DamagedFileError
from kailin_ray.io.compressed import open_unpacked
from kailin_ray.schema import Row

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
KEY = "_key"
ROWS_TO_JUDGE, BYTES_TO_JUDGE = 1_000, 32 << 20
"""A column that none of so many first rows has is missing."""
_BATCH_ROWS = 64
_CHUNK = 1 << 18
_BY_PMID = re.compile(r'\{\s*"\d{1,19}"\s*:\s*\{', re.ASCII)
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder()


class MissingColumnError(DamagedFileError):
    """A table without a column that is asked for; the message says which it has."""


def read_table(path: Path, columns: list[str]) -> Iterator[Any]:
    """Stream the rows, as what they are: not each need be a dictionary.

    ``columns`` are those that are asked for; a field inside another is named by dots. Raises ``DamagedFileError`` where
    the file cannot be read to its end, a row has more than ``MAX_RECORD_BYTES``, or (``MissingColumnError``) a column
    is not there.
    """
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path, columns)
            return
        with open_unpacked(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            rows = _csv_rows(text) if ".csv" in path.suffixes[-2:] else _json_rows(text)
            first: list[Any] = []
            there: dict[str, None] = {}
            for row in rows:
                first.append(row)
                there |= dict.fromkeys(_names(row))
                if there.keys() >= set(columns) or len(first) == ROWS_TO_JUDGE or stream.tell() > BYTES_TO_JUDGE:
                    break
            if first:
                _check(path, columns, there)
            yield from itertools.chain(first, rows)
    except (ValueError, pa.ArrowException, csv.Error, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        if isinstance(error, DamagedFileError):
            raise
        raise DamagedFileError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _check(path: Path, columns: list[str], found: Iterable[str]) -> None:
    there = dict.fromkeys(found)
    for name in columns:
        if name not in there:
            known = ", ".join(list(there)[:40]) or "none"
            raise MissingColumnError(f"{path}: no column {name!r}; there are: {known}")


def _names(row: Any, depth: int = 4) -> Iterator[str]:
    for name, cell in row.items() if isinstance(row, dict) else ():
        if isinstance(name, str):  # cells too many of a row of CSV have none
            yield name
            if depth:
                yield from (f"{name}.{inner}" for inner in _names(cell, depth - 1))


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        _check(path, columns, _fields(file.schema_arrow))
        tops = {name if name in file.schema_arrow.names else name.partition(".")[0]: None for name in columns}
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(tops), use_threads=False):
            yield from batch.to_pylist()


def _fields(fields: Iterable[pa.Field]) -> Iterator[str]:
    for field in fields:
        yield field.name
        if pa.types.is_struct(field.type):
            yield from (f"{field.name}.{inner}" for inner in _fields(field.type))


def _csv_rows(text: io.TextIOBase) -> Iterator[Row]:
    # The limit is the whole process's, in which other files are read too.
    before = csv.field_size_limit(MAX_RECORD_BYTES)
    try:
        yield from csv.DictReader(_lines(text), strict=True)
    finally:
        csv.field_size_limit(before)


def _lines(text: io.TextIOBase) -> Iterator[str]:
    while line := text.readline(MAX_RECORD_BYTES):
        if len(line) == MAX_RECORD_BYTES:
            raise ValueError(f"a line of more than {MAX_RECORD_BYTES:,} characters")
        yield line


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


class _Values:
    """JSON values out of a text, one after another. In memory is one chunk, or a value that is larger."""

    def __init__(self, text: io.TextIOBase):
        self._text, self._buffer, self._at, self._taken = text, "", 0, 0

    def next(self) -> str:
        """The next character that is not white space, which stays; empty at the end."""
        while True:
            self._at = _SPACE.match(self._buffer, self._at).end()  # type: ignore[union-attr]  # it matches "" too
            if self._at < len(self._buffer) or not self._read_on():
                return self._buffer[self._at : self._at + 1]

    def comes(self, pattern: re.Pattern[str]) -> bool:
        """Whether a short ``pattern`` comes next."""
        self.next()
        return bool(pattern.match(self._buffer, self._at))

    def pass_over(self, mark: str) -> bool:
        """Whether ``mark`` came next; then it is passed over."""
        found = self.next() == mark
        self._at += found
        return found

    def expect(self, mark: str) -> None:
        """Raise ``ValueError`` where ``mark`` does not come next."""
        if not self.pass_over(mark):
            raise ValueError(f"after value {self._taken}: {mark!r} expected, found {self.next() or 'the end'!r}")

    def take(self) -> Any:
        """The next value. Raises ``ValueError`` where there is none."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                # An error at the end, or a text without an end, may only be cut there.
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - 16
                if not cut or not self._read_on():
                    raise ValueError(f"value {self._taken + 1}: {error.msg}") from error
                continue
            if end < len(self._buffer) or not self._read_on():  # a number may be cut as well
                self._at = end
                self._taken += 1
                return value

    def _read_on(self) -> bool:
        rest = self._buffer[self._at :]
        if len(rest) > MAX_RECORD_BYTES:
            raise ValueError(f"value {self._taken + 1}: more than {MAX_RECORD_BYTES:,} characters")
        # Twice as much each time, as a value that is cut is read from its start again.
        more = self._text.read(max(_CHUNK, len(rest)))
        if more:
            self._buffer, self._at = rest + more, 0
        return bool(more)
