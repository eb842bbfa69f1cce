"""A run, from a checked configuration to records, a manifest and a plot."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from kailin_ray.config import DistillConfig, PlanConfig
from kailin_ray.dataset.run import Run
from kailin_ray.distill.preflight import (
    Inputs,
    check_prompts,
    check_run,
    open_inputs,
    open_trained_adapters,
    resolve_models,
)
from kailin_ray.errors import CommandFailedError
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.logs import log_to
from kailin_ray.io.manifests import NAME as MANIFEST
from kailin_ray.io.manifests import has_damaged_manifest, has_manifest, remove_manifest
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
    """The state of a run when a session begins."""

    out: Path
    documents: Path
    num_documents: int
    num_left: int
    """Abstracts that have no record yet."""
    num_dropped: int
    """Records that were removed because their documents were changed or deleted."""
    logs: Path

    def lines(self) -> list[str]:
        """Return the state as lines for a person."""
        lines = [f"{self.out}: {self.num_left:,} of {self.num_documents:,} abstracts to distil; logs in {self.logs}"]
        if self.num_dropped:
            dropped = f"{self.num_dropped:,} records of changed and deleted documents removed"
            lines.insert(0, f"{self.out}: {self.documents} was updated: {dropped}")
        return lines


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of ``run``."""

    run: Run
    was_complete: bool
    """Whether the run was complete already, so that there was nothing to do."""
    num_distilled: int
    """Abstracts that got their record in this session."""
    warnings: tuple[str, ...]
    """Warnings for a person; they are also logged."""
    mesh: "MeshHierarchy"


class RunFailedError(CommandFailedError):
    """More rows of a complete run failed than ``max_failed_fraction`` allows; ``result`` has the complete run."""

    def __init__(self, message: str, result: RunResult):
        super().__init__(message)
        self.result = result


OnStart = Callable[[Start], None]


def ignore_start(_: Start) -> None:
    """Do nothing when a session starts."""


def run(config: DistillConfig, on_start: OnStart = ignore_start) -> RunResult:
    """Complete a run and write its manifest; ``on_start`` is called before the work begins.

    Raises ``ConfigError``; ``StoppedError`` if the run was asked to stop; ``CommandFailedError``, of which
    ``RunFailedError`` means that more rows failed than ``max_failed_fraction`` allows.
    """
    opened = open_inputs(config)
    result = complete_run(check_run(config, opened), opened, on_start)
    manifest = result.run.manifest
    num_failed, total = manifest.num_by_status[FAILED], manifest.num_documents
    if num_failed > config.max_failed_fraction * total:
        limit = f"more than max_failed_fraction={config.max_failed_fraction}"
        raise RunFailedError(f"{num_failed} of {total} rows failed, {limit}; see {log_folder(config.out)}", result)
    return result


def complete_run(
    config: DistillConfig, opened: Inputs, on_start: OnStart = ignore_start, chosen: "PMIDS | None" = None
) -> RunResult:
    """Complete a run whose configuration was checked. ``chosen``: sorted PMIDs of ``from_run``; None for all."""
    from kailin_ray.distill import identity, manifest, pipeline
    from kailin_ray.mesh.load import load_mesh

    mesh, note = load_mesh(config.mesh, config.tolerate_orphans, config.documents, config.index)
    warnings = _warn_of_headings(config.mesh, note)
    with hold_lock(config.out), discard_if_refused(config.out):
        made_from, num_dropped = identity.open_run(config, opened)
        work = pipeline.find_work(config, opened.documents, chosen)
        if has_damaged_manifest(config.out):
            # All of it is counted from the records again, and run.json says that they are this configuration's.
            line = f"{config.out / MANIFEST} is damaged; it is written again from the records"
            logger.warning(line)
            warnings += (line,)
            remove_manifest(config.out)
        if not work.num_left and has_manifest(config.out):
            return RunResult(
                run=Run.open(config.out, "out"), was_complete=True, num_distilled=0, warnings=warnings, mesh=mesh
            )
        if work.num_left:
            identity.check_index(config.out, config, opened)
            identity.note_index(config.out, config, opened)
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
        completed = manifest.close_run(config, opened, made_from, len(work.done), mesh, note)
        with log_to(log):
            warnings += _draw(completed.manifest.coverage, config.out / "coverage.png")
            logger.info("%s: complete", config.out)
    return RunResult(run=completed, was_complete=False, num_distilled=work.num_left, warnings=warnings, mesh=mesh)


def _warn_of_headings(mesh: Path, note: "MeshNote") -> tuple[str, ...]:
    headings = note["headings"]
    if not headings["unknown"]:
        return ()
    names = ", ".join(f"{heading['name']} ({heading['documents']:,})" for heading in headings["most_used_unknown"])
    more = ", ..." if headings["unknown"] > len(headings["most_used_unknown"]) else ""
    line = f"mesh: {headings['unknown']:,} of the corpus' headings are unknown to {mesh.name}: {names}{more}"
    logger.warning(line)
    return (line,)


def _draw(coverage: "Coverage", path: Path) -> tuple[str, ...]:
    """Draw the coverage of MeSH; a fault only causes a warning, which is returned."""
    from kailin_ray.mesh.plots import draw_coverage

    try:
        draw_coverage(coverage, path)
    except Exception as error:  # the run is complete without the plot; the manifest has the numbers
        line = f"{path}: plot not drawn: {type(error).__name__}: {error}"
        logger.warning(line)
        return (line,)
    return ()


def _distil_rest(config: DistillConfig, opened: Inputs, work: "Work", mesh: "MeshHierarchy", log: Path) -> None:
    """Distil the documents that have no record yet, in a Ray session."""
    from kailin_ray.distill import pipeline
    from kailin_ray.planning.plan import make_plan
    from kailin_ray.planning.table import describe
    from kailin_ray.runtime.nodes import cluster_nodes, others_hold
    from kailin_ray.runtime.session import ray_session
    from kailin_ray.runtime.signals import stop_requests

    # Ray installs its own SIGTERM handler when it starts, so the run's handler must be installed afterwards.
    with one_line_faults(log), ray_session(config.cluster, log) as terminal, stop_requests(config.max_hours) as stop:
        layout = make_plan(config, cluster_nodes(config.cluster))
        print(describe(layout, brief=True), file=terminal)
        logger.info("%s", describe(layout))
        if waiting := others_hold(layout):
            print(waiting, file=terminal)
        # A run that resumes, perhaps with a higher limit, is not complete until a new manifest is written.
        remove_manifest(config.out)
        pipeline.distill(config, layout, work, mesh, terminal, stop=stop, index=opened.index)


def plan(config: PlanConfig) -> "Plan":
    """Return the plan of a run, for the machines that the configuration describes, or for those of its cluster."""
    config = replace(config, model=resolve_models(config, open_trained_adapters(config.model, make_stages(config))))
    layout = _plan(config)
    check_prompts(config, make_stages(config))
    return layout


def _plan(config: PlanConfig) -> "Plan":
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
