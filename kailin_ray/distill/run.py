"""One run, from a checked configuration to records, a manifest and a picture."""

from pathlib import Path
from typing import Any

from kailin_ray.config import (
    DistillConfig,
)
from kailin_ray.distill.preflight import check_run
from kailin_ray.io.locks import locked
from kailin_ray.io.storage import log_folder
from kailin_ray.runtime.faults import discard_if_refused, one_line_faults


def run(config: DistillConfig, chosen: Any = None) -> Any:
    """Make a run complete and write its manifest; return its MeSH hierarchy. ``chosen``: PMIDs of ``from_run``."""
    config = check_run(config)
    from kailin_ray.distill import identity, manifest, pipeline
    from kailin_ray.mesh.load import load_mesh

    mesh, mesh_note = load_mesh(config.mesh, config.tolerate_orphans, config.documents, config.index)
    headings = mesh_note["headings"]
    if headings["unknown"]:
        names = ", ".join(f"{one['name']} ({one['documents']:,})" for one in headings["most_used_unknown"])
        more = ", ..." if headings["unknown"] > len(headings["most_used_unknown"]) else ""
        print(f"mesh: {headings['unknown']:,} of the corpus' headings are unknown to {config.mesh.name}: {names}{more}")
    with locked(config.out), discard_if_refused(config.out):
        made_from = identity.open_run(config)
        work = pipeline.find_work(config, chosen)
        if work.num_left or not (config.out / "manifest.json").exists():
            distil_work(config, work, mesh)
            pipeline.check_complete(config, work)
            made = manifest.write_manifest(config, made_from, len(work.done), mesh, mesh_note)
            draw(made["coverage"], config.out / "coverage.png")
        else:
            print(f"{config.out}: complete, nothing to do")
    return mesh


def draw(coverage: dict[str, Any], path: Path) -> None:
    """Draw the coverage of MeSH; a fault is printed and ends nothing."""
    from kailin_ray.mesh.plots import draw_coverage

    try:
        draw_coverage(coverage, path)
    except Exception as error:  # a run is complete without its picture; its numbers stand in the manifest
        print(f"{path}: not drawn: {type(error).__name__}: {error}")


def distil_work(config: DistillConfig, work: Any, mesh: Any) -> None:
    """Distil what has no record yet, in a Ray session."""
    from kailin_ray.distill import pipeline
    from kailin_ray.planning.plan import make_plan
    from kailin_ray.planning.table import describe
    from kailin_ray.runtime.nodes import cluster_nodes, others_hold
    from kailin_ray.runtime.session import ray_session
    from kailin_ray.runtime.signals import stop_requests

    log = log_folder(config.out) / "driver.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{config.out}: {work.num_left:,} of {work.num_documents:,} abstracts to distil; logs in {log.parent}")
    if not work.num_left:
        return
    # Ray takes SIGTERM for itself when it starts: the run's own handler comes after.
    with one_line_faults(log), ray_session(config.cluster, log) as terminal, stop_requests(config.max_hours) as stop:
        plan = make_plan(config, cluster_nodes(config.cluster))
        print(describe(plan, brief=True), file=terminal)
        if waiting := others_hold(plan):
            print(waiting, file=terminal)
        # A run that goes on, perhaps with a higher limit, is not complete until it is again.
        (config.out / "manifest.json").unlink(missing_ok=True)
        pipeline.distill(config, plan, work, mesh, terminal, stop=stop)
