"""Redo some rows of a run with changed settings; the new records replace the old ones."""

import hashlib
import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.dataset.records import ROWS_PER_GROUP, WRITERS, record_files
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, read_json, remove_folder, sha256, sync, write_json
from kailin_ray.io.pmids import PMIDS, read_pmids
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import REASONS, STEPS


def chosen_reasons(asked: Iterable[str]) -> list[str]:
    """The reasons that are meant, by their names or the last words of them. Raises ``ConfigError`` for others."""
    found = []
    for word in asked:
        meant = [name for name in REASONS if name == word or name.endswith(f"_{word}")]
        if not meant:
            raise ConfigError(f"reason: unknown {word!r}; allowed: {', '.join(REASONS)}")
        found += meant
    return found


def rows_to_replay(run: Path, reasons: list[str]) -> tuple[PMIDS, str]:
    """The PMIDs of a run's rows that ended for one of the reasons, sorted, and the first step at which one did.

    Raises ``ConfigError`` if there is none.
    """
    pmids: list[PMIDS] = []
    steps: set[str] = set()
    for file in record_files(run / "records"):
        table = _read(file, ["pmid", "stage", "reason"])
        table = table.filter(pc.is_in(table["reason"], pa.array(reasons)))
        pmids.append(table["pmid"].to_numpy())
        steps.update(table["stage"].unique().to_pylist())
    if not steps:
        raise ConfigError(f"reason: {run} has no row that ended with {' or '.join(reasons)}")
    return np.sort(np.concatenate(pmids)), min(steps, key=STEPS.index)


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    with open_parquet(path) as file:
        return file.read(columns=columns)


def merge(run: Path, replay: Path) -> int:
    """Put a replay's records in the place of the run's old ones; return how many.

    File by file, each replaced in one step: whenever it is cut off every PMID has exactly one record, and doing it
    again does the rest.
    """
    fresh = record_files(replay / "records")
    if not fresh:
        return 0
    columns = [read_pmids(file) for file in fresh]
    pmids, sources = np.concatenate(columns), np.repeat(np.arange(len(fresh)), [len(one) for one in columns])
    order = np.argsort(pmids)
    pmids, sources = pmids[order], sources[order]

    def merge_into(path: Path) -> None:
        old = read_pmids(path)
        places = np.minimum(np.searchsorted(pmids, old), len(pmids) - 1)
        replaced = pmids[places] == old
        if not replaced.any():
            return
        table = _read(path)
        wanted = pa.array(old[replaced])
        tables = [table.filter(pa.array(~replaced))]
        for number in np.unique(sources[places[replaced]]):
            part = _read(fresh[number])
            tables.append(part.filter(pc.is_in(part["pmid"], wanted)))
        with atomic_file(path) as partial:
            # A merged file's metadata names the files that it stands for.
            made = pa.concat_tables([one.replace_schema_metadata(table.schema.metadata) for one in tables])
            pq.write_table(made, partial, compression="zstd", row_group_size=ROWS_PER_GROUP)
            sync(partial)

    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(merge_into, record_files(run / "records")):
            pass
    # On the disk before the only other copy goes.
    sync(run / "records")
    return len(pmids)


def replay_folder(run: Path, reasons: list[str], overrides: Iterable[str], free: Collection[str]) -> Path:
    """The folder of a replay: the same command finds it again, whatever it says about the ``free`` settings.

    As long as the run's manifest is the same: once another replay or session has changed the run, what was begun from
    its records as they were is of no use, and is removed.
    """
    made = sha256(run / "manifest.json")
    for note in (run / "replays").glob("*.json"):
        if read_json(note)["manifest"] != made:
            close_replay(note.with_suffix(""))
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0].partition(".")[0] not in free]
    return run / "replays" / hashlib.sha256(json.dumps([made, reasons, *kept]).encode()).hexdigest()[:16]


def rows_of(folder: Path, run: Path, reasons: list[str]) -> tuple[PMIDS, str]:
    """``rows_to_replay`` as they were when the replay in ``folder`` began."""
    note = folder.with_suffix(".json")
    if not note.exists():
        return rows_to_replay(run, reasons)
    found = read_json(note)
    return np.array(found["pmids"], dtype=np.int64), found["step"]


def open_replay(folder: Path, run: Path, pmids: PMIDS, step: str) -> None:
    """Write down which rows a replay does: once some are merged the run no longer tells."""
    made = sha256(run / "manifest.json")
    write_json(folder.with_suffix(".json"), {"manifest": made, "step": step, "pmids": pmids.tolist()})


def close_replay(folder: Path) -> None:
    """Remove what a merged replay leaves; the run has it all."""
    remove_folder(folder)
    folder.with_suffix(".json").unlink()


def keep_accounts(run: Path, replay: Path) -> None:
    """Add what a replay took to the run's account."""
    for path in (replay / "sessions").glob("*.json"):
        write_json(run / "sessions" / path.name, read_json(path))
