"""One run, from a checked configuration to records, a manifest and a picture."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kailin_ray.config import DistillConfig, PlanConfig
from kailin_ray.dataset.run import Run
from kailin_ray.distill.preflight import Inputs, check_run, open_inputs, open_trained_adapters, resolve_models
from kailin_ray.errors import CommandFailedError
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.logs import log_to
from kailin_ray.io.manifests import has_manifest, remove_manifest
from kailin_ray.io.storage import log_folder
from kailin_ray.planning.stages import make_stages
from kailin_ray.runtime.faults import discard_if_refused, one_line_faults
from kailin_ray.schema import FAILED

if TYPE_CHECKING:
    from kailin_ray.distill.pipeline import Work
    from kailin_ray.io.pmids import PMIDS
    from kailin_ray.mesh import MeshHierarchy
    from kailin_ray.mesh.figures import Coverage, MeshNote
    from kailin_ray.planning.plan import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is known when a session of a run begins."""

    out: Path
    documents: Path
    num_documents: int
    num_left: int
    """Abstracts that have no record yet."""
    num_dropped: int
    """Records that were taken out, as their documents were changed or deleted."""
    logs: Path

    def lines(self) -> list[str]:
        """The same for a person."""
        told = [f"{self.out}: {self.num_left:,} of {self.num_documents:,} abstracts to distil; logs in {self.logs}"]
        if self.num_dropped:
            dropped = f"{self.num_dropped:,} records of changed and deleted documents taken out"
            told.insert(0, f"{self.out}: {self.documents} was updated: {dropped}")
        return told


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What ``run`` gave."""

    run: Run
    was_complete: bool
    """There was nothing to do."""
    num_distilled: int
    """Abstracts that got their records now."""
    warnings: tuple[str, ...]
    """What a person should know of; logged as warnings too."""
    mesh: "MeshHierarchy"


class RunFailedError(CommandFailedError):
    """More rows of a complete run failed than ``max_failed_fraction`` allows; ``result`` is the run all the same."""

    def __init__(self, message: str, result: RunResult):
        super().__init__(message)
        self.result = result


OnStart = Callable[[Start], None]


def ignore_start(_: Start) -> None:
    """Hear of a start and do nothing."""


def run(config: DistillConfig, on_start: OnStart = ignore_start) -> RunResult:
    """Make a run complete and write its manifest; ``on_start`` hears of it before the work begins.

    Raises ``ConfigError``, ``StoppedError`` where it was asked to stop, ``CommandFailedError``: as ``RunFailedError``
    where more rows failed than ``max_failed_fraction`` allows.
    """
    opened = open_inputs(config)
    result = complete_run(check_run(config, opened), opened, on_start)
    made = result.run.manifest
    failed, total = made.num_by_status[FAILED], made.num_documents
    if failed > config.max_failed_fraction * total:
        allowed = f"more than max_failed_fraction={config.max_failed_fraction}"
        raise RunFailedError(f"{failed} of {total} rows failed, {allowed}; see {log_folder(config.out)}", result)
    return result


def complete_run(
    config: DistillConfig, opened: Inputs, on_start: OnStart = ignore_start, chosen: "PMIDS | None" = None
) -> RunResult:
    """Make a run that was checked complete. ``chosen``: PMIDs of ``from_run``, sorted, for all of them None."""
    from kailin_ray.distill import identity, manifest, pipeline
    from kailin_ray.mesh.load import load_mesh

    mesh, note = load_mesh(config.mesh, config.tolerate_orphans, config.documents, config.index)
    warnings = _warn_of_headings(config.mesh, note)
    with hold_lock(config.out), discard_if_refused(config.out):
        made_from, num_dropped = identity.open_run(config, opened)
        work = pipeline.find_work(config, opened.documents, chosen)
        if not work.num_left and has_manifest(config.out):
            return RunResult(
                run=Run.open(config.out, "out"), was_complete=True, num_distilled=0, warnings=warnings, mesh=mesh
            )
        log = log_folder(config.out) / "driver.log"
        start = Start(
            out=config.out,
            documents=config.documents,
            num_documents=work.num_documents,
            num_left=work.num_left,
            num_dropped=num_dropped,
            logs=log.parent,
        )
        on_start(start)
        with log_to(log):
            for line in (*warnings, *start.lines()):
                logger.info(line)
        if work.num_left:
            _distil_rest(config, opened, work, mesh, log)
        pipeline.check_complete(config, work)
        made = manifest.close_run(config, opened, made_from, len(work.done), mesh, note)
        with log_to(log):
            warnings += _draw(made.manifest.coverage, config.out / "coverage.png")
            logger.info("%s: complete", config.out)
    return RunResult(run=made, was_complete=False, num_distilled=work.num_left, warnings=warnings, mesh=mesh)


def _warn_of_headings(mesh: Path, note: "MeshNote") -> tuple[str, ...]:
    headings = note["headings"]
    if not headings["unknown"]:
        return ()
    names = ", ".join(f"{one['name']} ({one['documents']:,})" for one in headings["most_used_unknown"])
    more = ", ..." if headings["unknown"] > len(headings["most_used_unknown"]) else ""
    line = f"mesh: {headings['unknown']:,} of the corpus' headings are unknown to {mesh.name}: {names}{more}"
    logger.warning(line)
    return (line,)


def _draw(coverage: "Coverage", path: Path) -> tuple[str, ...]:
    """Draw the coverage of MeSH; a fault is a warning and ends nothing."""
    from kailin_ray.mesh.plots import draw_coverage

    try:
        draw_coverage(coverage, path)
    except Exception as error:  # a run is complete without its picture; its numbers stand in the manifest
        line = f"{path}: not drawn: {type(error).__name__}: {error}"
        logger.warning(line)
        return (line,)
    return ()


def _distil_rest(config: DistillConfig, opened: Inputs, work: "Work", mesh: "MeshHierarchy", log: Path) -> None:
    """Distil what has no record yet, in a Ray session."""
    from kailin_ray.distill import pipeline
    from kailin_ray.planning.plan import make_plan
    from kailin_ray.planning.table import describe
    from kailin_ray.runtime.nodes import cluster_nodes, others_hold
    from kailin_ray.runtime.session import ray_session
    from kailin_ray.runtime.signals import stop_requests

    # Ray takes SIGTERM for itself when it starts: the run's own handler comes after.
    with one_line_faults(log), ray_session(config.cluster, log) as terminal, stop_requests(config.max_hours) as stop:
        layout = make_plan(config, cluster_nodes(config.cluster))
        print(describe(layout, brief=True), file=terminal)
        logger.info("%s", describe(layout))
        if waiting := others_hold(layout):
            print(waiting, file=terminal)
        # A run that goes on, perhaps with a higher limit, is not complete until it is again.
        remove_manifest(config.out)
        pipeline.distill(config, layout, work, mesh, terminal, stop=stop, index=opened.index)


def plan(config: PlanConfig) -> "Plan":
    """What would run where: on the machines that the configuration describes, or on those of its cluster."""
    config = replace(config, model=resolve_models(config, open_trained_adapters(config.model, make_stages(config))))
    from kailin_ray.planning.plan import make_plan, nodes_of

    if config.cluster.nodes:
        return make_plan(config, nodes_of(config.cluster.nodes))
    from kailin_ray.runtime.nodes import cluster_nodes
    from kailin_ray.runtime.session import ray_session

    with TemporaryDirectory() as folder:
        log = Path(folder, "ray.log")
        with one_line_faults(log), ray_session(config.cluster, log):
            nodes = cluster_nodes(config.cluster)
    return make_plan(config, nodes)
