"""What a run is made from: ``run.json``, written first, which a run must match to be resumed."""

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.config import Agents, DistillConfig, Model, settings
from kailin_ray.corpus.changes import ORIGIN, changed_since
from kailin_ray.dataset.records import drop
from kailin_ray.distill.steps import later, step_changed
from kailin_ray.engines.models import model_identity
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, read_manifest, remove_folder, sha256, write_json
from kailin_ray.planning.stages import AGENTS, QUESTION_AGENTS, Stage, make_stages
from kailin_ray.schema import ANSWER, ASKING, CARRIED, EVALUATION, RECORDS

UPDATES = "documents_updates"
"""How many updates of its documents a run has seen; in ``run.json``."""
# What a run may change between two calls into one folder: where and how much, not what.
FREE = (
    "cluster", "limit", "out", "max_failed_fraction", "max_fraction", "max_hours", "grace_seconds", "documents",
    "index", "mesh", "from_run",
)  # fmt: skip


def models(model: Model, stages: Iterable[Stage]) -> dict[str, dict[str, str | None]]:
    """The model of each agent of some stages: ``name``, ``revision`` of a hub model, ``adapter``, and ``identity``.

    The identity says which model and adapter it is, wherever they lie: checksums, or the hub's revision.
    """
    checksum = lru_cache(sha256)
    found: dict[str, dict[str, str | None]] = {}
    for stage in stages:
        for agent in stage.agents:
            path, revision = stage.engine.path, stage.engine.revision
            local, adapter = Path(path).is_dir(), getattr(model, agent).adapter
            identity = model_identity(path, revision, checksum)
            if adapter:
                _check_base(agent, adapter, path, identity)
            found[agent] = {
                "name": Path(path).name if local else path,
                "revision": revision,
                "adapter": Path(adapter).name if adapter else None,
                "identity": identity + (f"+{checksum(Path(adapter))}" if adapter else ""),
            }
    return found


def _check_base(agent: str, adapter: str, path: str, identity: str) -> None:
    """Raise ``ConfigError`` if an adapter that ``train`` made is one of another model."""
    note = Path(adapter, "manifest.json")
    base = read_json(note).get("base", {}) if note.is_file() else {}
    if base.get("identity", identity) != identity:
        raise ConfigError(f"model.{agent}.adapter: {adapter} was trained on {base['name']}, not on {path} as it is now")


def inputs(config: DistillConfig) -> dict[str, Any]:
    """Checksums of what a run reads and says, and the models of its agents.

    With ``config.from_run``, those of its agents that do not work here did so there.
    """
    found = {
        "documents": read_manifest(config.documents, "documents", "documents", "ingest")["id"],
        "index": read_manifest(config.index, "index", "index", "index")["id"],
        "mesh": sha256(config.mesh),
        "models": models(config.model, make_stages(config)),
        "prompts": prompts(config),
        "schema": hashlib.sha256(str(RECORDS).encode()).hexdigest(),
    }
    if config.from_run:
        before = read_manifest(config.from_run, "run", "from", "distill")
        found["models"] = before["models"] | found["models"]
        found["from"] = sha256(config.from_run / "manifest.json")
    return found


def prompts(config: Agents) -> dict[str, str]:
    """A checksum of what each step's agents are told, besides the abstract and what others wrote about it."""
    row, shown = {"title": "T", "abstract": "A"}, ("Q?", ["C"])
    asking = [getattr(config.model, agent) for agent in QUESTION_AGENTS]
    worked = config.model.judge.examples, config.model.answer.examples
    said = {
        ASKING: [question.messages(row, agent.persona, agent.examples) for agent in asking],
        EVALUATION: [
            evaluation.pairwise_messages(row, shown, shown, worked[0]),
            evaluation.pointwise_messages(row, shown, worked[0]),
        ],
        ANSWER: [answer.messages(row, *shown, worked[1]), answer.decision_messages(row, *shown, "A.", worked[1])],
    }
    return {step: hashlib.sha256(json.dumps(messages).encode()).hexdigest() for step, messages in said.items()}


def open_run(config: DistillConfig) -> dict[str, Any]:
    """Start a run's folder, or go on with it; return ``inputs``.

    Of documents that were updated since, the records of those that changed or went are taken out. Raises
    ``ConfigError`` that names what differs if the folder holds a run made from something else.
    """
    found = inputs(config)
    matters = _matters(config, found)
    matters[UPDATES] = len(read_json(config.documents / "manifest.json")["updates"])
    if config.from_run:
        _check_source(config, matters)
    note = config.out / "run.json"
    if not note.exists() and config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not a run's folder; choose another")
    # A start that failed before its first row was worked binds nobody.
    if not any(path for folder in ("records", "parts/*") for path in config.out.glob(f"{folder}/*.parquet")):
        if note.exists() and read_json(note) != matters:
            # What another configuration's starts took is no cost of this run; what its own took is, in vain or not.
            remove_folder(config.out / "sessions")
        write_json(note, matters)
        return found
    before, now = flat(read_json(note)), flat(matters)
    there = now.pop(UPDATES)
    seen = before.pop(UPDATES, there)  # a run of an earlier version had other documents anyway
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        more = f", and {', '.join(changed[1:5])}" if changed[1:] else ""
        raise ConfigError(
            f"out: {config.out} holds a run with another {key} ({before.get(key)!r}, now {now.get(key)!r}){more}; "
            "choose a new out= to start another run"
        )
    if there < seen:
        raise ConfigError(
            f"documents: {config.documents} is at its update {there}, and {config.out} has seen {seen}: an older copy?"
        )
    if there != seen:
        _drop_changed(config, seen)
        write_json(note, matters)
    return found


def _drop_changed(config: DistillConfig, seen: int) -> None:
    """Take the records out whose documents were changed or deleted after the first ``seen`` updates."""
    # A deletion alone leaves nothing to distil, and yet the run's counts are others.
    (config.out / "manifest.json").unlink(missing_ok=True)
    pmids = changed_since(config.documents, seen, [name for name in CARRIED.names if name not in ORIGIN])
    dropped = drop(config.out / "records", pmids)
    for folder in (config.out / "parts").glob("*"):
        drop(folder, pmids)
    print(
        f"{config.out}: {config.documents} was updated: {dropped:,} records of changed and deleted documents taken out"
    )


def _matters(config: DistillConfig, found: dict[str, Any]) -> dict[str, Any]:
    """All that makes a run what it is: ``found`` inputs, and settings."""
    matters = {key: value for key, value in settings(config).items() if key not in FREE}
    identities = {agent: model["identity"] for agent, model in found["models"].items()}
    matters["inputs"] = found | {"models": identities}
    # Which models and adapters they are, their identities say; where they lie may change.
    for one in (matters["model"], *(matters["model"][agent] for agent in AGENTS)):
        for place in ("path", "revision", "adapter"):
            one.pop(place, None)
    return matters


def step_changed_since(run: Path, config: DistillConfig) -> str | None:
    """The first step that would now be done otherwise than in ``run``."""
    changed = step_changed(flat(read_json(run / "run.json")), flat(_matters(config, inputs(config))))
    return changed[0] if changed else None


def _check_source(config: DistillConfig, matters: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if what ``from`` is to be taken from was made otherwise than this configuration says."""
    assert config.from_run
    before, now = flat(read_json(config.from_run / "run.json")), flat(matters)
    if before["inputs.documents"] == now["inputs.documents"] and before.get(UPDATES) != now[UPDATES]:
        raise ConfigError(
            f"from: {config.from_run} has not seen the last updates of {config.documents}; distil into it first"
        )
    changed = step_changed(before, now)
    if changed and changed[0] not in config.stages:
        key = changed[1]
        raise ConfigError(
            f"from: {config.from_run} was made with another {key} ({before[key]!r}, now {now[key]!r}), which concerns "
            f"the {changed[0]}; do it again with stages={list(later(changed[0]))}"
        )


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, by dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{prefix}.{name}".lstrip(".")).items()}
