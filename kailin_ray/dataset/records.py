"""A run's record files: written one a block, merged into larger ones, read as a dataset or as their PMIDs.

A block's file is named by its PMIDs (``000000007-<digest>.parquet``, the lowest first), a merged file by the files that
it replaces (``merged-000000007-<digest>.parquet``), whose names stand in its footer. Whoever lists a folder leaves
those out, so each record counts once at every moment between a merged file's appearance and its last original's
removal; and where Ray repeats a write task later, too.
"""

import hashlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from kailin_ray.io.files import atomic_file, sync
from kailin_ray.io.pmids import PMIDS, READERS, among, num_rows, read_pmids
from kailin_ray.io.storage import for_arrow, open_parquet, remove
from kailin_ray.schema import RECORDS

logger = logging.getLogger(__name__)

MERGED = "merged-"
REPLACES = b"replaces"
"""Key of a merged file's footer."""
ROWS_PER_FILE = 20_000
"""Of a merged file, about."""
ROWS_PER_GROUP = 2_000
"""Rows that are held in memory while files are merged, and read at once later: about 30 MB."""
WRITERS = 4
"""Files that are written anew at the same time: some hundred MB of memory each."""
MANY = 4_000
"""Small files from which on they are merged while a run goes on."""
LOOK_S = 60.0
"""Seconds between two looks at how many there are."""


def records(run: Path) -> ds.Dataset:
    """A run's records as an Arrow dataset; of one in an object store take all batches (see ``record_batches``)."""
    files, filesystem = for_arrow(record_files(run / "records"))
    return ds.dataset(files, schema=RECORDS, format="parquet", filesystem=filesystem)


def record_batches(run: Path, size: int) -> Iterator[pa.RecordBatch]:
    """A run's records, at most ``size`` of them at once; whoever takes them may stop early.

    Row group by row group: a dataset reads ahead in Arrow's threads, and a process that ends while these are inside an
    object store's client is aborted.
    """
    for path in record_files(run / "records"):
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches(max_chunksize=size)


def record_files(folder: Path) -> list[Path]:
    """The files that hold a folder's records, each record once. Temporary names start with a dot and are left out."""
    small, merged = _list_files(folder)
    replaced = _list_replaced(small, merged)
    return [path for path in small if path.name not in replaced] + merged


def load_pmids(*folders: Path) -> PMIDS:
    """The PMIDs of the records in folders, sorted: one array of 8 bytes a record, whatever the records hold."""
    paths = [path for folder in folders for path in record_files(folder)]
    with ThreadPoolExecutor(READERS) as pool:
        ends = np.cumsum([0, *pool.map(num_rows, paths)])
        pmids = np.empty(ends[-1], dtype=np.int64)

        def load(number: int) -> None:
            pmids[ends[number] : ends[number + 1]] = read_pmids(paths[number])

        for _ in pool.map(load, range(len(paths))):
            pass
    pmids.sort()
    return pmids


def drop(folder: Path, pmids: PMIDS) -> int:
    """Take the records of ``pmids``, a sorted array, out of a folder; return how many there were.

    File by file, each replaced in one step: cut off and done again, it does the rest. Nothing may be written meanwhile.
    Files that a merged one replaced are removed, and it forgets their names: a block that is distilled again may have
    one of these, and counts.
    """
    small, merged = _list_files(folder)
    replaced = _list_replaced(small, merged)
    remove(path for path in small if path.name in replaced)

    def without(path: Path) -> int:
        gone = among(read_pmids(path), pmids)
        if gone.any():
            with open_parquet(path) as file:
                table = file.read().filter(pa.array(~gone))
            kept = table.replace_schema_metadata({**(table.schema.metadata or {}), REPLACES: b""})
            with atomic_file(path) as partial:
                pq.write_table(kept, partial, compression="zstd", row_group_size=ROWS_PER_GROUP)
                sync(partial)
        return int(gone.sum())

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(without, record_files(folder)))


def compact(folder: Path, stop: threading.Event | None = None) -> None:
    """Merge small files of records into files of about ``ROWS_PER_FILE`` rows; remove those that were merged before.

    One process at a time may do so. Without ``stop`` nothing may be written meanwhile, and what a killed task left half
    written is removed. With it, while a run goes on: what is too little for a whole file waits for more, and no further
    file is begun once the event is set.
    """
    if stop is None:
        remove(folder.glob(".*.partial"))
    small, merged = _list_files(folder)
    replaced = _list_replaced(small, merged)
    remove(path for path in small if path.name in replaced)
    waiting: list[Path] = []
    rows = 0
    with ThreadPoolExecutor(READERS) as pool:
        for some in _pieces([path for path in small if path.name not in replaced]):
            for path, number in zip(some, pool.map(num_rows, some), strict=True):
                waiting.append(path)
                rows += number
                if rows >= ROWS_PER_FILE:
                    if stop is not None and stop.is_set():
                        return
                    _merge(folder, waiting, pool)
                    waiting, rows = [], 0
        if stop is None:
            _merge(folder, waiting, pool)


@contextmanager
def compacting(folder: Path) -> Iterator[None]:
    """Merge small files whenever there are many, while the block runs.

    In a thread of this process, which holds the run's lock and ends with it: another merge of the same files, by a
    task that outlives its driver, would double them.
    """
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            try:
                if len(_list_files(folder)[0]) > MANY:
                    compact(folder, stop)
            except Exception as error:  # the run can go on without, and the next look tries again
                logger.warning("%s: not merged: %s: %s", folder, type(error).__name__, error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All small files of records, and all merged ones."""
    paths = sorted(folder.glob("*.parquet"))
    merged = [path for path in paths if path.name.startswith(MERGED)]
    return [path for path in paths if not path.name.startswith(MERGED)], merged


def _list_replaced(small: list[Path], merged: list[Path]) -> set[str]:
    """Names of the small files that merged ones stand for.

    A merged file is never merged again, so it names at most as many as it has rows.
    """
    names = {path.name for path in small}
    if not names:
        return set()

    def read_replaced(path: Path) -> set[str]:
        with open_parquet(path) as file:
            return names.intersection(file.metadata.metadata[REPLACES].decode().split("\n"))

    with ThreadPoolExecutor(READERS) as pool:
        return set().union(*pool.map(read_replaced, merged))


def _merge(folder: Path, paths: list[Path], pool: ThreadPoolExecutor) -> None:
    """Write the rows of files as one file, then remove them; a single file stays."""
    if len(paths) < 2:
        return
    names = "\n".join(path.name for path in paths).encode()
    first, digest = paths[0].name.partition("-")[0], hashlib.sha256(names).hexdigest()[:16]
    with atomic_file(folder / f"{MERGED}{first}-{digest}.parquet") as partial:
        with pq.ParquetWriter(partial, RECORDS, compression="zstd") as writer:
            for group in _groups(paths, pool):
                writer.write_table(group)
            writer.add_key_value_metadata({REPLACES: names})
        sync(partial)
    # On the disk under its name before the only other copy goes, that a power failure may lose nothing either.
    sync(folder)
    remove(paths)


def _groups(paths: list[Path], pool: ThreadPoolExecutor) -> Iterator[pa.Table]:
    """The rows of files, so many at once as a row group has."""
    waiting: list[pa.Table] = []
    for some in _pieces(paths):
        for table in pool.map(_read_records, some):
            waiting.append(table)
            if sum(one.num_rows for one in waiting) >= ROWS_PER_GROUP:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _read_records(path: Path) -> pa.Table:
    # Whole: in an object store that is one request, and one version of a file that a task may be writing again.
    with pq.ParquetFile(pa.BufferReader(path.read_bytes())) as file:
        return file.read().cast(RECORDS)


def _pieces(paths: list[Path], size: int = 4 * READERS) -> Iterator[list[Path]]:
    """Parts of a list, so that threads do not run far ahead of who takes what they read."""
    return (paths[start : start + size] for start in range(0, len(paths), size))
