"""The record files of a run. Each block is written to a small file, and small files are merged into larger ones.

A block's file is named after its PMIDs: the lowest PMID and a digest of all (``000000007-<digest>.parquet``). A merged
file is named after the files that it replaces (``merged-000000007-<digest>.parquet``), and its footer lists their
names. When a folder is listed, replaced files are left out. So each record counts once at any time between the
appearance of a merged file and the removal of its last original, and also if Ray repeats a write task later.
"""

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, sync
from kailin_ray.io.pmids import PMIDS, READERS, among, num_rows, read_pmids
from kailin_ray.io.storage import for_arrow, is_remote, open_parquet, remove
from kailin_ray.schema import RECORDS

logger = logging.getLogger(__name__)

MERGED = "merged-"
REPLACES = b"replaces"
"""The key in a merged file's footer for the names of the files that it replaces."""
ROWS_PER_FILE = 20_000
"""Approximate number of rows of a merged file."""
ROWS_PER_GROUP = 2_000
"""Rows of a row group: held in memory while files are merged, and read together later. About 30 MB."""
WRITERS = 4
"""Files that are rewritten at the same time; each takes some hundred MB of memory."""
MANY = 4_000
"""Above this number of small files, they are merged while a run is in progress."""
LOOK_S = 60.0
"""Seconds between two checks of the number of small files."""


def records(run: Path) -> ds.Dataset:
    """Return a run's records as an Arrow dataset. In an object store, take all batches (see ``record_batches``)."""
    files, filesystem = for_arrow(record_files(run / "records"))
    return ds.dataset(files, schema=RECORDS, format="parquet", filesystem=filesystem)


def record_batches(run: Path, size: int) -> Iterator[pa.RecordBatch]:
    """Yield a run's records in batches of at most ``size``; the caller may stop early.

    Files are read row group by row group. An Arrow dataset would read ahead in threads, and a process that ends while
    such a thread is inside an object store's client is aborted.
    """
    for path in record_files(run / "records"):
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group).to_batches(max_chunksize=size)


def record_files(folder: Path) -> list[Path]:
    """Return the files of a folder that together contain each record once. Temporary files (dot files) are left out."""
    small, merged = _list_files(folder)
    replaced = _list_replaced(small, merged)
    return [path for path in small if path.name not in replaced] + merged


def load_pmids(*folders: Path) -> PMIDS:
    """Return the sorted PMIDs of the records in folders, as one array with 8 bytes per record."""
    paths = [path for folder in folders for path in record_files(folder)]
    with ThreadPoolExecutor(READERS) as pool:
        offsets = np.cumsum([0, *pool.map(num_rows, paths)])
        pmids = np.empty(offsets[-1], dtype=np.int64)

        def load(number: int) -> None:
            pmids[offsets[number] : offsets[number + 1]] = read_pmids(paths[number])

        for _ in pool.map(load, range(len(paths))):
            pass
    pmids.sort()
    return pmids


def drop(folder: Path, pmids: PMIDS) -> int:
    """Remove the records of ``pmids``, a sorted array, from a folder; return the number of removed records.

    Each file is replaced in one step, so an interrupted call can be repeated. Nothing may be written to the folder
    meanwhile. Files that a merged file replaces are removed, and the merged file's list of them is cleared: the file of
    a block that is distilled again may have one of these names, and it must count.
    """
    small, merged = _list_files(folder)
    replaced = _list_replaced(small, merged)
    remove(path for path in small if path.name in replaced)

    def drop_from(path: Path) -> int:
        is_dropped = among(read_pmids(path), pmids)
        if is_dropped.any():
            _filter_file(path, ~is_dropped, {REPLACES: b""})
        return int(is_dropped.sum())

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(drop_from, record_files(folder)))


def keep_one(folder: Path) -> int:
    """Remove all but the first record of each PMID; return the number of removed records.

    Two processes that wrote into a run at the same time can leave a PMID with two records. Nothing may be written to
    the folder meanwhile.
    """
    pmids = load_pmids(folder)
    repeated = np.unique(pmids[1:][pmids[1:] == pmids[:-1]])
    seen: set[int] = set()
    num_removed = 0
    for path in record_files(folder) if len(repeated) else ():
        of_file = read_pmids(path)
        kept = np.ones(len(of_file), dtype=bool)
        for row in np.flatnonzero(among(of_file, repeated)):
            kept[row] = of_file[row] not in seen
            seen.add(int(of_file[row]))
        if not kept.all():
            _filter_file(path, kept)
            num_removed += int((~kept).sum())
    if num_removed:
        logger.warning("%s: %d records were duplicates; the first of each PMID is kept", folder, num_removed)
    return num_removed


def set_aside_damaged(folder: Path) -> list[Path]:
    """Rename record files that cannot be read, so that their rows are distilled again; return the new names."""
    paths = [] if is_remote(folder) else [path for paths in _list_files(folder) for path in paths]
    with ThreadPoolExecutor(READERS) as pool:
        faults = list(pool.map(_fault_of, paths))
    damaged = []
    for path, fault in zip(paths, faults, strict=True):
        if fault:
            damaged.append(path.replace(path.with_name(f"{path.name}.damaged")))
            logger.warning("%s; it is renamed to *.damaged, and its rows are distilled again", fault)
    return damaged


def _fault_of(path: Path) -> str | None:
    try:
        num_rows(path)
    except ConfigError as error:
        return " ".join(str(error).split())
    return None


def _filter_file(path: Path, kept: npt.NDArray[np.bool_], metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Keep some rows of a file, and its metadata except for ``metadata``."""
    with open_parquet(path) as file:
        table = file.read().filter(pa.array(kept))
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=ROWS_PER_GROUP)


def compact(folder: Path, stop: threading.Event | None = None) -> None:
    """Merge small record files into files of about ``ROWS_PER_FILE`` rows; remove small files that were merged before.

    Only one process at a time may do this. Without ``stop``, nothing may be written meanwhile, and half-written files
    of killed tasks are removed. With ``stop``, a run may be in progress: rows that do not fill a file wait for more
    rows, and no further file is begun once the event is set.
    """
    if stop is None:
        remove(folder.glob(".*.partial"))
    small, merged = _list_files(folder)
    replaced = _list_replaced(small, merged)
    remove(path for path in small if path.name in replaced)
    waiting: list[Path] = []
    rows = 0
    with ThreadPoolExecutor(READERS) as pool:
        for paths in _pieces([path for path in small if path.name not in replaced]):
            for path, path_rows in zip(paths, pool.map(num_rows, paths), strict=True):
                waiting.append(path)
                rows += path_rows
                if rows >= ROWS_PER_FILE:
                    if stop is not None and stop.is_set():
                        return
                    _merge(folder, waiting, pool)
                    waiting, rows = [], 0
        if stop is None:
            _merge(folder, waiting, pool)


@contextmanager
def compacting(folder: Path) -> Iterator[None]:
    """Context manager: while it is open, merge small files whenever there are many.

    The merge runs in a thread of this process, which holds the run's lock. A task could outlive its driver, and a
    second merge of the same files would duplicate their records.
    """
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            try:
                if len(_list_files(folder)[0]) > MANY:
                    compact(folder, stop)
            except Exception as error:  # the run does not need the merge, and the next check tries it again
                logger.warning("%s: small files not merged: %s: %s", folder, type(error).__name__, error)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _list_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return all small record files, and all merged files."""
    paths = sorted(folder.glob("*.parquet"))
    merged = [path for path in paths if path.name.startswith(MERGED)]
    return [path for path in paths if not path.name.startswith(MERGED)], merged


def _list_replaced(small: list[Path], merged: list[Path]) -> set[str]:
    """Return the names of the small files that merged files replace.

    A merged file is never merged again, so its list has at most as many names as the file has rows.
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
    """Write the rows of several files to one file, then remove the files. A single file stays as it is."""
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
    # The new name must be on disk before the only other copy is removed, so that a power failure loses nothing.
    sync(folder)
    remove(paths)


def _groups(paths: list[Path], pool: ThreadPoolExecutor) -> Iterator[pa.Table]:
    """Yield the rows of files in tables of at least one row group; the last table may be smaller."""
    waiting: list[pa.Table] = []
    for piece in _pieces(paths):
        for table in pool.map(read_records, piece):
            waiting.append(table)
            if sum(table.num_rows for table in waiting) >= ROWS_PER_GROUP:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def read_records(path: Path) -> pa.Table:
    """Return the records of a file by today's ``RECORDS``; columns that an earlier version lacked are null."""
    # The whole file is read at once: in an object store that is one request, and one version of the file even if a
    # repeated task writes it again meanwhile.
    with pq.ParquetFile(pa.BufferReader(path.read_bytes())) as file:
        table = file.read()
    for name in set(RECORDS.names) - set(table.column_names):  # of an earlier version
        table = table.append_column(name, pa.nulls(len(table), RECORDS.field(name).type))
    return table.select(RECORDS.names).cast(RECORDS)


def _pieces(paths: list[Path], size: int = 4 * READERS) -> Iterator[list[Path]]:
    """Split a list into pieces, so that reading threads do not run far ahead of the consumer."""
    return (paths[start : start + size] for start in range(0, len(paths), size))
