"""Write the rows of one split of a config: Parquet shards, or one file of JSON lines. No rows make no file."""

import json
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.dataset.rows import Record

ROWS_AT_ONCE = 1_000
ROWS_PER_FILE = 200_000


def file_pattern(name: str, split: str, is_parquet: bool) -> str:
    """Return the pattern of a split's files in the dataset's folder."""
    return f"{name}/{split}-*.parquet" if is_parquet else f"{name}/{split}.jsonl"


class ParquetWriter:
    """Writes Parquet shards, in row groups of a useful size."""

    def __init__(self, folder: Path, name: str, split: str, schema: pa.Schema):
        self._folder, self._split, self._schema = folder / name, split, schema
        self._waiting: list[Record] = []
        self._total = 0
        self._file: pq.ParquetWriter | None = None

    def write(self, rows: list[Record]) -> None:
        """Add rows."""
        self._waiting += rows
        if len(self._waiting) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> int:
        """Complete the files; return the number of rows."""
        if self._waiting:
            self._flush()
        if self._file is not None:
            self._file.close()
        return self._total

    def _flush(self) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"{self._split}-{self._total // ROWS_PER_FILE:05}.parquet"
            self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._file.write_table(pa.Table.from_pylist(self._waiting, self._schema))
        before, self._total = self._total, self._total + len(self._waiting)
        self._waiting = []
        if before // ROWS_PER_FILE != self._total // ROWS_PER_FILE:
            self._file.close()
            self._file = None


class JsonLinesWriter:
    """Writes one file of JSON lines: other trainers name one file, not shards."""

    def __init__(self, folder: Path, name: str, split: str, schema: pa.Schema):
        self._path, self._schema = folder / file_pattern(name, split, is_parquet=False), schema
        self._total = 0
        self._file: TextIO | None = None

    def write(self, rows: list[Record]) -> None:
        """Add rows."""
        if rows and self._file is None:
            self._path.parent.mkdir(exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        # Through Arrow: the values are those of the Parquet files, and a value of another type is an error.
        for row in pa.Table.from_pylist(rows, self._schema).to_pylist():
            assert self._file
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._total += len(rows)

    def close(self) -> int:
        """Complete the file; return the number of rows."""
        if self._file is not None:
            self._file.close()
        return self._total


Writer = ParquetWriter | JsonLinesWriter
