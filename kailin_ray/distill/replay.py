"""Redo some rows of a run with changed settings; the new records replace the old ones."""

import hashlib
import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.config import DistillConfig, ReplayConfig, overridden, settings
from kailin_ray.dataset.records import ROWS_PER_GROUP, WRITERS, record_files
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

UNLIMITED = {"max_failed_fraction": 1.0, "max_fraction": dict.fromkeys(REASONS), "max_hours": None}
"""The rows are those that went wrong: limits of a whole run do not suit them."""


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """What ``replay`` gave."""

    run: Run
    """As it is now."""
    num_rows: int
    """That were done again."""
    num_by_status: dict[str, int]
    """What became of them."""
    warnings: tuple[str, ...]


def replay(config: ReplayConfig, on_start: OnStart = ignore_start) -> ReplayResult:
    """Do some rows of a run again, with another configuration; the new records take the place of the old ones.

    ``on_start`` hears of it before the work begins. Raises as ``run`` does.
    """
    check_access("run", config.run)
    run = Run.open(config.run)
    reasons = chosen_reasons((config.reason,) if isinstance(config.reason, str) else config.reason)
    changed = overridden(run.manifest.config | UNLIMITED, config.overrides)
    with hold_lock(config.run):  # against distill, which merges the run's files
        folder = replay_folder(config.run, reasons, config.overrides, identity.FREE)
        pmids, step = rows_of(folder, config.run, reasons)
        changed, opened, differs = _prepare(run, changed, folder, step)
        open_replay(folder, config.run, pmids, step)
        result = complete_run(changed, opened, on_start, pmids)
        statuses = result.run.manifest.num_by_status
        merge(config.run, folder)
        keep_accounts(config.run, folder)
        note = Replay(folder=folder.name, reasons=tuple(reasons), changed=differs, stages=changed.stages, rows=statuses)
        run = manifest.add_replay(run, result.mesh, changed.cluster.gpu_hour_price, note)
        close_replay(folder)
    return ReplayResult(run=run, num_rows=len(pmids), num_by_status=statuses, warnings=result.warnings)


def _prepare(run: Run, changed: DistillConfig, folder: Path, step: str) -> tuple[DistillConfig, Inputs, Json]:
    """The checked configuration of a replay, what it is made from, and the settings that differ from the run's.

    It begins at the step at which rows ended, or that something concerns that changed; only the models of that step
    and of later ones count.
    """
    before, now = identity.flat(run.manifest.config), identity.flat(settings(changed))
    asked_for = steps.step_changed(before, now)
    first = steps.first([step, asked_for[0] if asked_for else step])
    changed = replace(changed, from_run=run.path, out=folder, limit=None, stages=steps.later(first))
    opened = open_inputs(changed, run)
    changed = check_run(changed, opened)
    # Prompts, corpora and models may have changed without a key.
    first = steps.first([first, identity.step_changed_since(run.path, changed, opened) or first])
    changed = replace(changed, stages=steps.later(first))
    check_run(changed, opened)
    differs = {
        key: now.get(key)
        for key in before.keys() | now.keys()
        if key.partition(".")[0] not in identity.FREE and before.get(key) != now.get(key)
    }
    return changed, opened, differs


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
        table = _read_columns(file, ["pmid", "stage", "reason"])
        table = table.filter(pc.is_in(table["reason"], pa.array(reasons)))
        pmids.append(table["pmid"].to_numpy())
        steps.update(table["stage"].unique().to_pylist())
    if not steps:
        raise ConfigError(f"reason: {run} has no row that ended with {' or '.join(reasons)}")
    return np.sort(np.concatenate(pmids)), min(steps, key=STEPS.index)


def _read_columns(path: Path, columns: list[str] | None = None) -> pa.Table:
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
        table = _read_columns(path)
        wanted = pa.array(old[replaced])
        tables = [table.filter(pa.array(~replaced))]
        for number in np.unique(sources[places[replaced]]):
            part = _read_columns(fresh[number])
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
    made = manifest_checksum(run)
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
    made = manifest_checksum(run)
    write_json(folder.with_suffix(".json"), {"manifest": made, "step": step, "pmids": pmids.tolist()})


def close_replay(folder: Path) -> None:
    """Remove what a merged replay leaves; the run has it all."""
    remove_folder(folder)
    folder.with_suffix(".json").unlink()


def keep_accounts(run: Path, replay: Path) -> None:
    """Add what a replay took to the run's account."""
    for path in (replay / "sessions").glob("*.json"):
        write_json(run / "sessions" / path.name, read_json(path))
