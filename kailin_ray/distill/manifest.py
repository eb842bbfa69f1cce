"""What a run gave: ``manifest.json``, written last, which marks the run complete."""

from pathlib import Path
from typing import Any

from kailin_ray.config import DistillConfig, settings
from kailin_ray.dataset.counts import count_records
from kailin_ray.distill.accounting import account, all_sessions
from kailin_ray.io.files import read_json, write_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.coverage import coverage
from kailin_ray.schema import OK, STATUSES
from kailin_ray.versions import versions


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
