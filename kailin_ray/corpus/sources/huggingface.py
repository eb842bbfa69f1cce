"""Stream the rows of a Hugging Face dataset into Parquet files, which are then read like any table."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.config import HuggingFace
from kailin_ray.corpus.readers.parquet_rows import TooLargeError, check_rows, measure_rows
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, read_json, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.terminal import progress_bar
from kailin_ray.schema import Json

ROWS_PER_FILE, BYTES_PER_FILE = 20_000, 128 << 20
_BATCH_ROWS = 64
"""Rows that ``datasets`` reads at once: it bounds no bytes, and one row may have ``MAX_ROW_BYTES``."""


class StreamNote(TypedDict):
    """The progress of a stream."""

    asked: Json
    files: int
    rows: int
    next: Json | None
    """The state of the stream at the start of the next file, as ``datasets`` returns it."""
    whole: bool


def dataset_files(source: HuggingFace, columns: list[str], folder: Path, terminal: TextIO) -> list[Path]:
    """Return the files in ``folder`` with the dataset's rows; resume where an earlier stream stopped.

    A note records where the next file begins. Raises ``ConfigError`` if the dataset is not available or does not have
    the columns, and ``RuntimeError`` if the stream breaks off.
    """
    revision = source.revision if Path(source.path).is_dir() else _commit(source)
    request = {
        "path": source.path,
        "name": source.name,
        "split": source.split,
        "revision": revision,
        "columns": columns,
    }
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:8]
    path = folder / f"dataset-{digest}.json"
    with hold_lock(path):
        note: StreamNote = {"asked": request, "files": 0, "rows": 0, "next": None, "whole": False}
        if path.exists():
            note = read_json(path)
        if not note["whole"]:
            rows = _open(source, revision, columns)
            if note["next"]:
                rows.load_state_dict(note["next"])
            with progress_bar(terminal, "ingest: streamed", None, unit=" rows", initial=note["rows"]) as bar:
                for table, state in _tables(rows, source.path):
                    note["files"], note["rows"], note["next"] = note["files"] + 1, note["rows"] + len(table), state
                    with atomic_file(_file(folder, digest, note["files"])) as partial:
                        pq.write_table(table, partial, compression="zstd")
                    write_json(path, note)
                    bar.update(len(table))
            note["whole"] = True
            write_json(path, note)
    if not note["files"]:
        raise ConfigError(f"source.path: {source.path}: the split {source.split} has no rows")
    return [_file(folder, digest, number) for number in range(1, note["files"] + 1)]


def _file(folder: Path, digest: str, number: int) -> Path:
    return folder / f"dataset-{digest}-{number:06}.parquet"


def _commit(source: HuggingFace) -> str:
    """Return the current commit of a hub revision, so that every session reads the same rows."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.path, revision=source.revision, timeout=60).sha)
    except Exception as error:  # whatever the hub's client raises, the dataset is not available
        raise ConfigError(
            f"source.path: {source.path}: no such folder, and not available from the hub ({type(error).__name__})"
        ) from error


def _open(source: HuggingFace, revision: str | None, columns: list[str]) -> Any:
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(source.path, source.name, revision=revision)
        if hasattr(builder.config, "batch_size"):  # of Parquet files, which are otherwise read by row groups
            builder.config.batch_size = _BATCH_ROWS
        _check_parquet(builder, source.split, columns)
        rows = builder.as_streaming_dataset(split=source.split)
        names = rows.column_names or list(next(iter(rows.take(1)), {}))
    except Exception as error:  # whatever the library raises, the dataset is not available
        raise ConfigError(f"source.path: {source.path}: {_line(error)}") from error
    needed = dict.fromkeys(name if name in names else name.partition(".")[0] for name in columns)
    for name in needed:
        if name not in names:
            raise ConfigError(f"source.columns: {source.path} has no column {name!r}; there are: {', '.join(names)}")
    return rows.select_columns(list(needed)).with_format("arrow")


def _check_parquet(builder: Any, split: str, columns: list[str]) -> None:
    """Raise ``ValueError`` if a row of the Parquet files in a folder is too large: ``datasets`` would unpack it."""
    for file in (builder.config.data_files or {}).get(split, ()):
        path = Path(file)
        if path.suffix == ".parquet" and path.is_file():  # a file of the hub would be fetched twice
            schema = pq.read_schema(path)
            names = {name if name in schema.names else name.partition(".")[0] for name in columns}
            try:
                check_rows(path, names.intersection(schema.names))
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from error


def _tables(rows: Any, path: str) -> Iterator[tuple[pa.Table, Any]]:
    """Yield tables and the stream's state after each: of ``ROWS_PER_FILE`` rows or ``BYTES_PER_FILE``, or the last.

    Raises ``ConfigError`` if a row is too large.
    """
    pending: list[pa.Table] = []
    number = num_rows = num_bytes = 0
    try:
        for table in rows.iter(batch_size=_BATCH_ROWS):
            for batch in table.to_batches():
                num_bytes += int(measure_rows(batch, number).sum())
                number += len(batch)
            pending.append(table)
            num_rows += len(table)
            if num_rows >= ROWS_PER_FILE or num_bytes >= BYTES_PER_FILE:
                yield _join_tables(pending), rows.state_dict()
                pending, num_rows, num_bytes = [], 0, 0
    except TooLargeError as error:
        raise ConfigError(f"source.path: {path}: {error}, counted from where this session began") from error
    except Exception as error:  # the network or a file of the dataset may raise errors of any kind
        raise RuntimeError(f"{path}: {_line(error)}; rows received are kept, and the same command resumes") from error
    if pending:
        yield _join_tables(pending), rows.state_dict()


def _join_tables(tables: list[pa.Table]) -> pa.Table:
    # Files of a dataset may differ in which columns are null throughout.
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
