"""Commands that make, show and publish a run."""

import json
import time
from dataclasses import replace
from pathlib import Path

from kailin_ray.config import (
    DistillConfig,
    PublishConfig,
    ReplayConfig,
    ReportConfig,
    StatusConfig,
    overridden,
    settings,
)
from kailin_ray.distill.preflight import check_run
from kailin_ray.distill.run import run
from kailin_ray.errors import CommandFailedError
from kailin_ray.io.files import read_json, read_manifest
from kailin_ray.io.locks import locked
from kailin_ray.io.storage import check_access, log_folder
from kailin_ray.schema import REASONS


def distill(config: DistillConfig) -> int:
    """Documents to records, then the run's manifest and its summary."""
    run(config)
    print(_report(config.out))
    _check_failed(config)
    return 0


def _report(run: Path, examples: int = 0) -> str:
    from kailin_ray.dataset.summary import report as summary

    return summary(run, examples)


def _check_failed(config: DistillConfig) -> None:
    made = read_json(config.out / "manifest.json")
    failed, total = made["num_by_status"]["failed"], made["num_documents"]
    if failed > config.max_failed_fraction * total:
        allowed = f"more than max_failed_fraction={config.max_failed_fraction}"
        raise CommandFailedError(f"{failed} of {total} rows failed, {allowed}; see {log_folder(config.out)}")


def replay(config: ReplayConfig) -> int:
    """Some rows of a run again, with another configuration; the new records take the place of the old ones."""
    check_access("run", config.run)
    from kailin_ray.distill import identity, manifest, replay, steps

    made = read_manifest(config.run, "run", "run", "distill")
    asked = (config.reason,) if isinstance(config.reason, str) else config.reason
    reasons = replay.chosen_reasons(asked)
    # The rows are those that went wrong: limits of a whole run do not suit them.
    unlimited = {"max_failed_fraction": 1.0, "max_fraction": dict.fromkeys(REASONS), "max_hours": None}
    changed = overridden(made["config"] | unlimited, config.overrides)
    with locked(config.run):  # against distill, which merges the run's files
        folder = replay.replay_folder(config.run, reasons, config.overrides, identity.FREE)
        pmids, step = replay.rows_of(folder, config.run, reasons)
        # From the step at which they ended, or that a changed key concerns; then only its models and later ones count.
        before, now = identity.flat(made["config"]), identity.flat(settings(changed))
        asked_for = steps.step_changed(before, now)
        first = steps.first([step, asked_for[0] if asked_for else step])
        changed = replace(changed, from_run=config.run, out=folder, limit=None, stages=steps.later(first))
        changed = check_run(changed)
        # Prompts, corpora and models may have changed without a key.
        first = steps.first([first, identity.step_changed_since(config.run, changed) or first])
        changed = replace(changed, stages=steps.later(first))
        check_run(changed)
        replay.open_replay(folder, config.run, pmids, step)
        mesh = run(changed, pmids)
        statuses = read_json(folder / "manifest.json")["num_by_status"]
        replay.merge(config.run, folder)
        replay.keep_accounts(config.run, folder)
        differs = {
            key: now.get(key)
            for key in before.keys() | now.keys()
            if key.partition(".")[0] not in identity.FREE and before.get(key) != now.get(key)
        }
        note = {"folder": folder.name, "reasons": reasons, "changed": differs, "stages": list(changed.stages)}
        note["rows"] = statuses
        manifest.add_replay(config.run, mesh, changed.cluster.gpu_hour_price, note)
        replay.close_replay(folder)
    print(
        f"{config.run}: {len(pmids):,} rows done again: " + ", ".join(f"{name} {statuses[name]:,}" for name in statuses)
    )
    print(_report(config.run))
    return 0


def publish(config: PublishConfig) -> int:
    """A run's records to a Hugging Face dataset folder."""
    from kailin_ray.dataset.publish import publish as write

    for key in ("run", "out"):
        check_access(key, getattr(config, key))
    counts = write(config)
    print(f"{config.out}: " + ", ".join(f"{name} {number:,}" for name, number in counts.items()))
    return 0


def report(config: ReportConfig) -> int:
    """What a run gave, and some of its triples."""
    check_access("run", config.run)
    print(_report(config.run, config.examples))
    return 0


def status(config: StatusConfig) -> int:
    """How far a run is."""
    from kailin_ray.distill.status import status as found
    from kailin_ray.distill.status import told

    check_access("run", config.run)
    now = time.time()
    state = found(config.run, now)
    print(json.dumps(state, indent=1) if config.json else told(state, now))
    return 0
