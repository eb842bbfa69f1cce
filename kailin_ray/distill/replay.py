"""Distil some rows of a run again with changed settings; the new records replace the old ones."""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.config import DistillConfig, ReplayConfig, overridden, settings
from kailin_ray.dataset.records import ROWS_PER_GROUP, WRITERS, read_records, record_files
from kailin_ray.dataset.run import Replay, Run
from kailin_ray.distill import identity, manifest, steps
from kailin_ray.distill.preflight import Inputs, check_run, open_inputs
from kailin_ray.distill.run import OnStart, complete_run, ignore_start
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, read_json, remove_folder, sync, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import manifest_checksum
from kailin_ray.io.pmids import PMIDS, read_pmids
from kailin_ray.io.storage import check_access, open_parquet
from kailin_ray.schema import REASONS, STEPS, Json

logger = logging.getLogger(__name__)

UNLIMITED = {
    "max_failed_fraction": 1.0, "max_fraction": dict.fromkeys(REASONS), "max_hours": None, "accept_updated_index": False
}  # fmt: skip
"""Settings that a replay does not take from its run. Replayed rows were not accepted before, so the limits of a whole
run do not fit."""


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """The result of ``replay``."""

    run: Run
    """The run after the replay."""
    num_rows: int
    """Number of rows that were distilled again."""
    num_by_status: dict[str, int]
    """Number of these rows by their new status."""
    warnings: tuple[str, ...]


def replay(config: ReplayConfig, on_start: OnStart = ignore_start) -> ReplayResult:
    """Distil some rows of a run again, with another configuration; the new records replace the old ones.

    ``on_start`` is called before the work begins. Raises the same errors as ``run``.
    """
    check_access("run", config.run)
    run = Run.open(config.run)
    reasons = chosen_reasons((config.reason,) if isinstance(config.reason, str) else config.reason)
    new_config = overridden(run.manifest.config | UNLIMITED, config.overrides)
    with hold_lock(config.run):  # distill must not merge the run's files meanwhile
        folder = replay_folder(config.run, reasons, config.overrides, identity.FREE)
        pmids, step = rows_of(folder, config.run, reasons)
        new_config, opened, changed = _prepare(run, new_config, folder, step)
        identity.check_index(config.run, new_config, opened)
        open_replay(folder, config.run, pmids, step)
        result = complete_run(new_config, opened, on_start, pmids)
        num_by_status = result.run.manifest.num_by_status
        merge(config.run, folder)
        keep_accounts(config.run, folder)
        identity.note_index(config.run, new_config, opened)
        note = Replay(
            folder=folder.name,
            reasons=tuple(reasons),
            changed=changed,
            stages=new_config.stages,
            rows=num_by_status,
        )
        run = manifest.add_replay(run, result.mesh, new_config.cluster.gpu_hour_price, note)
        close_replay(folder)
    return ReplayResult(run=run, num_rows=len(pmids), num_by_status=num_by_status, warnings=result.warnings)


def _prepare(run: Run, config: DistillConfig, folder: Path, step: str) -> tuple[DistillConfig, Inputs, Json]:
    """Return the checked configuration of a replay, its inputs, and the settings that differ from the run's.

    The replay starts at ``step``, or at the first step that a change affects if that is earlier. Only the models of the
    steps from there on count.
    """
    before, now = identity.flat(run.manifest.config), identity.flat(settings(config))
    changed = steps.step_changed(before, now)
    first = steps.first([step, changed[0] if changed else step])
    config = replace(config, from_run=run.path, out=folder, limit=None, stages=steps.later(first))
    opened = open_inputs(config, run)
    config = check_run(config, opened)
    # Prompts, corpora and models may have changed although no key has.
    first = steps.first([first, identity.step_changed_since(run.path, config, opened) or first])
    config = replace(config, stages=steps.later(first))
    check_run(config, opened)
    differences = {
        key: now.get(key)
        for key in before.keys() | now.keys()
        if key.partition(".")[0] not in identity.FREE and before.get(key) != now.get(key)
    }
    return config, opened, differences


def chosen_reasons(asked: Iterable[str]) -> list[str]:
    """Return the reasons that ``asked`` names, in full or by their last words. Raises ``ConfigError`` if unknown."""
    reasons = []
    for word in asked:
        matches = [name for name in REASONS if name == word or name.endswith(f"_{word}")]
        if not matches:
            raise ConfigError(f"reason: unknown {word!r}; allowed: {', '.join(REASONS)}")
        reasons += matches
    return reasons


def rows_to_replay(run: Path, reasons: list[str]) -> tuple[PMIDS, str]:
    """Return the sorted PMIDs of a run's rows with one of the reasons, and the earliest step at which one ended.

    Raises ``ConfigError`` if there is no such row.
    """
    pmids: list[PMIDS] = []
    steps: set[str] = set()
    for file in record_files(run / "records"):
        table = _read_columns(file, ["pmid", "stage", "reason"])
        table = table.filter(pc.is_in(table["reason"], pa.array(reasons)))
        pmids.append(table["pmid"].to_numpy())
        steps.update(table["stage"].unique().to_pylist())
    if not steps:
        raise ConfigError(f"reason: {run} has no row that ended with {' or '.join(reasons)}")
    return np.sort(np.concatenate(pmids)), min(steps, key=STEPS.index)


def _read_columns(path: Path, columns: list[str]) -> pa.Table:
    with open_parquet(path) as file:
        return file.read(columns=columns)


def _read_metadata(path: Path) -> dict[bytes, bytes]:
    with open_parquet(path) as file:
        return {key: value for key, value in (file.metadata.metadata or {}).items() if key != b"ARROW:schema"}


def merge(run: Path, replay: Path) -> int:
    """Replace the run's old records by those of a replay; return the number of new records.

    Each file is replaced in one step. If the merge is interrupted, every PMID still has exactly one record, and
    repeating the merge completes it.
    """
    new_files = record_files(replay / "records")
    if not new_files:
        return 0
    columns = [read_pmids(file) for file in new_files]
    pmids, sources = np.concatenate(columns), np.repeat(np.arange(len(new_files)), [len(column) for column in columns])
    order = np.argsort(pmids)
    pmids, sources = pmids[order], sources[order]

    def merge_into(path: Path) -> None:
        old_pmids = read_pmids(path)
        places = np.minimum(np.searchsorted(pmids, old_pmids), len(pmids) - 1)
        is_replaced = pmids[places] == old_pmids
        if not is_replaced.any():
            return
        replaced_pmids = pa.array(old_pmids[is_replaced])
        # The run may be of an earlier version, with fewer columns.
        tables = [read_records(path).filter(pa.array(~is_replaced))]
        for number in np.unique(sources[places[is_replaced]]):
            new_table = read_records(new_files[number])
            tables.append(new_table.filter(pc.is_in(new_table["pmid"], replaced_pmids)))
        with atomic_file(path) as partial:
            # The metadata is kept: in a merged file it lists the files that the merged file replaces.
            merged = pa.concat_tables(tables).replace_schema_metadata(_read_metadata(path))
            pq.write_table(merged, partial, compression="zstd", row_group_size=ROWS_PER_GROUP)
            sync(partial)

    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(merge_into, record_files(run / "records")):
            pass
    # The files must be on disk before the only other copy is removed.
    sync(run / "records")
    return len(pmids)


def replay_folder(run: Path, reasons: list[str], overrides: Iterable[str], free: Collection[str]) -> Path:
    """Return the folder of a replay. It does not depend on ``free`` settings, so the same command finds it again.

    It depends on the run's manifest. Once another replay or session has changed the run, unfinished replays of the old
    records are of no use, and their folders are removed.
    """
    checksum = manifest_checksum(run)
    for note in (run / "replays").glob("*.json"):
        try:
            is_of_now = read_json(note)["manifest"] == checksum
        except (ConfigError, KeyError, TypeError) as error:
            logger.warning("%s: this unfinished replay begins again (%s)", note, error)
            is_of_now = False
        if not is_of_now:
            close_replay(note.with_suffix(""))
    kept = [text for text in overrides if text.lstrip("+").partition("=")[0].partition(".")[0] not in free]
    return run / "replays" / hashlib.sha256(json.dumps([checksum, reasons, *kept]).encode()).hexdigest()[:16]


def rows_of(folder: Path, run: Path, reasons: list[str]) -> tuple[PMIDS, str]:
    """Return ``rows_to_replay``, or its result when the replay in ``folder`` began, if it has begun."""
    note = folder.with_suffix(".json")
    if not note.exists():
        return rows_to_replay(run, reasons)
    values = read_json(note)
    return np.array(values["pmids"], dtype=np.int64), values["step"]


def open_replay(folder: Path, run: Path, pmids: PMIDS, step: str) -> None:
    """Save the rows of a replay: once some are merged, they can no longer be found in the run's records."""
    checksum = manifest_checksum(run)
    write_json(folder.with_suffix(".json"), {"manifest": checksum, "step": step, "pmids": pmids.tolist()})


def close_replay(folder: Path) -> None:
    """Remove the files of a replay that has been merged or is of no use any more."""
    remove_folder(folder)
    folder.with_suffix(".json").unlink()


def keep_accounts(run: Path, replay: Path) -> None:
    """Add the sessions of a replay to the run's sessions."""
    for path in (replay / "sessions").glob("*.json"):
        write_json(run / "sessions" / path.name, read_json(path))
