"""A Hugging Face dataset's rows, streamed, and kept as Parquet files that are then read as any table."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.config import HuggingFace
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, read_json, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.terminal import progress_bar
from kailin_ray.schema import Json

ROWS_PER_FILE = 20_000
_BATCH_ROWS = 1_000


class StreamNote(TypedDict):
    """How far a stream has come."""

    asked: Json
    files: int
    rows: int
    next: Json | None
    """The state of the stream where the next file begins, as ``datasets`` gives it."""
    whole: bool


def dataset_files(source: HuggingFace, columns: list[str], folder: Path, terminal: TextIO) -> list[Path]:
    """The files in ``folder`` of a dataset's rows, streamed on from where an earlier stream stopped.

    A note holds the place where the next file begins. Raises ``ConfigError`` where the dataset cannot be had, or has
    not the columns; ``RuntimeError`` where it breaks off.
    """
    revision = source.revision if Path(source.path).is_dir() else _commit(source)
    asked = {"path": source.path, "name": source.name, "split": source.split, "revision": revision, "columns": columns}
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
    path = folder / f"dataset-{digest}.json"
    with hold_lock(path):
        note: StreamNote = {"asked": asked, "files": 0, "rows": 0, "next": None, "whole": False}
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
    """The commit that a hub's revision is now: every session then takes the same rows."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.path, revision=source.revision, timeout=60).sha)
    except Exception as error:  # whatever the hub's client raises, the dataset cannot be had
        raise ConfigError(
            f"source.path: {source.path}: no such folder, and the hub does not give it ({type(error).__name__})"
        ) from error


def _open(source: HuggingFace, revision: str | None, columns: list[str]) -> Any:
    from datasets import load_dataset

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=revision, streaming=True)
        there = rows.column_names or list(next(iter(rows.take(1)), {}))
    except Exception as error:  # whatever the library raises, the dataset cannot be had
        raise ConfigError(f"source.path: {source.path}: {_line(error)}") from error
    wanted = dict.fromkeys(name if name in there else name.partition(".")[0] for name in columns)
    for name in wanted:
        if name not in there:
            raise ConfigError(f"source.columns: {source.path} has no column {name!r}; there are: {', '.join(there)}")
    return rows.select_columns(list(wanted)).with_format("arrow")


def _tables(rows: Any, path: str) -> Iterator[tuple[pa.Table, Any]]:
    """Tables of ``ROWS_PER_FILE``, the last of fewer, and the place behind each."""
    held: list[pa.Table] = []
    try:
        for table in rows.iter(batch_size=_BATCH_ROWS):
            held.append(table)
            if sum(map(len, held)) >= ROWS_PER_FILE:
                yield _join_tables(held), rows.state_dict()
                held = []
    except Exception as error:  # of the network, or of a file of the dataset: all sorts
        raise RuntimeError(f"{path}: {_line(error)}; what came is kept, and the same command goes on") from error
    if held:
        yield _join_tables(held), rows.state_dict()


def _join_tables(tables: list[pa.Table]) -> pa.Table:
    # Files of a dataset may differ in what is null all through.
    return pa.concat_tables(tables, promote_options="permissive").replace_schema_metadata(None)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
