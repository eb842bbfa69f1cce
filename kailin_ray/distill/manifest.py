"""The manifest of a run. It contains the results, is written last, and marks the run as complete."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from kailin_ray.config import DistillConfig, settings
from kailin_ray.dataset.counts import count_records
from kailin_ray.dataset.run import (
    EvaluationFigures,
    Replay,
    Run,
    RunManifest,
    TokenFigures,
    UsedDocuments,
    UsedIndex,
)
from kailin_ray.dataset.variety import Variety
from kailin_ray.distill.accounting import RunAccount, account, all_sessions
from kailin_ray.distill.identity import MadeFrom, index_versions
from kailin_ray.distill.preflight import Inputs
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.manifests import write_manifest
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.coverage import coverage
from kailin_ray.mesh.figures import Coverage, MeshNote
from kailin_ray.retrieval.search.folder import Index, Structure
from kailin_ray.schema import OK, STATUSES
from kailin_ray.versions import versions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Counted(RunAccount):
    """The counts of a run's records and sessions; fields of ``RunManifest``."""

    num_documents: int
    num_by_status: dict[str, int]
    num_by_reason: dict[str, int]
    evaluation: EvaluationFigures
    tokens: TokenFigures
    variety: Variety
    coverage: Coverage


def close_run(
    config: DistillConfig,
    opened: Inputs,
    made_from: MadeFrom,
    num_resumed: int,
    mesh: MeshHierarchy,
    mesh_figures: MeshNote,
) -> Run:
    """Count a run's records and write the run's manifest."""
    source = opened.source.manifest if opened.source else None
    manifest = RunManifest(
        num_resumed=num_resumed,
        **vars(_count(config.out, mesh, config.cluster.gpu_hour_price)),
        mesh=mesh_figures,
        config=settings(config),
        models=made_from.models,
        sha256={"mesh": made_from.mesh},
        documents=UsedDocuments.of(opened.documents),
        index=_describe_index(opened.index, config.out),
        versions=versions(),
        # Rows that were taken over may come from replays with other settings than the source's.
        replays_of_source=source.replays_of_source + source.replays if source else (),
        replays=_read_replays(config.out, ()),
    )
    write_manifest(config.out, manifest)
    return Run(config.out, manifest)


def add_replay(run: Run, mesh: MeshHierarchy, gpu_hour_price: float | None, replay: Replay) -> Run:
    """Count a run's records again after a replay has replaced some, and add the replay to the manifest."""
    replays = (
        *(earlier for earlier in _read_replays(run.path, run.manifest.replays) if earlier.folder != replay.folder),
        replay,
    )
    # The replays also have a file of their own, because the manifest is removed when the run resumes.
    write_json(run.path / "replays.json", TypeAdapter(tuple[Replay, ...]).dump_python(replays, mode="json"))
    index = replace(run.manifest.index, versions=tuple(index_versions(run.path)))
    manifest = replace(run.manifest, **vars(_count(run.path, mesh, gpu_hour_price)), index=index, replays=replays)
    write_manifest(run.path, manifest)
    return Run(run.path, manifest)


def _read_replays(run: Path, known: tuple[Replay, ...]) -> tuple[Replay, ...]:
    """Return the replays of a run; ``known`` if their file is damaged, as a manifest may list them too."""
    path = run / "replays.json"
    if not path.exists():
        return ()
    try:
        return TypeAdapter(tuple[Replay, ...]).validate_python(read_json(path))
    except ValueError as error:
        logger.warning("%s; the manifest lists %d earlier replays", " ".join(str(error).split()), len(known))
        return known


def _count(run: Path, mesh: MeshHierarchy, gpu_hour_price: float | None) -> Counted:
    counts = count_records(run)
    num_documents = sum(counts["status"].values())
    by_agent = counts["tokens"]
    run_account = account(all_sessions(run), by_agent, num_documents, counts["status"].get(OK, 0), gpu_hour_price)
    return Counted(
        **vars(run_account),
        num_documents=num_documents,
        num_by_status={name: counts["status"].get(name, 0) for name in STATUSES},
        num_by_reason=counts["reason"],
        evaluation={
            "preferred_by": counts["preferred_by"],
            "agreement": counts["agreement"],
            "position_bias": counts["position_bias"],
        },
        tokens={
            "prompt": sum(used["prompt"] for used in by_agent.values()),
            "cached": sum(used["cached"] for used in by_agent.values()),
            "completion": sum(used["completion"] for used in by_agent.values()),
            "by_agent": by_agent,
        },
        variety=counts["variety"],
        coverage=coverage(mesh, **counts["headings"]),
    )


def _describe_index(index: Index, run: Path) -> UsedIndex:
    manifest = index.manifest
    return UsedIndex(
        id=manifest.id,
        num_passages=manifest.num_passages,
        dimension=manifest.dimension,
        search=TypeAdapter(Structure).dump_python(manifest.search, mode="json", exclude_none=True),
        num_updates=len(manifest.updates),
        versions=tuple(index_versions(run)),
        encoder=str(manifest.made_from.encoder["model"]),
    )
