"""What each command does, from a checked configuration to an exit code. What can be refused is refused up front."""

import importlib.util
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kailin_ray import assets
from kailin_ray.checks import check_judge, check_run, found_encoder, found_models
from kailin_ray.config import (
    BundleConfig,
    CompareConfig,
    ConfigError,
    DistillConfig,
    DownloadConfig,
    FetchConfig,
    IndexConfig,
    IngestConfig,
    PlanConfig,
    PublishConfig,
    RefineConfig,
    ReplayConfig,
    ReportConfig,
    SelectConfig,
    StatusConfig,
    SubmitConfig,
    TrainConfig,
    overridden,
    settings,
    without_secrets,
)
from kailin_ray.files import locked, read_json, read_manifest, remove_folder
from kailin_ray.schema import REASONS
from kailin_ray.storage import check_access, log_folder

# Ray, torch and the rest are imported by the command that needs them: --help and a refusal come at once.


class CommandFailedError(RuntimeError):
    """The command did not do all it was asked; its message is one line."""


class CommandStoppedError(RuntimeError):
    """The command was asked to stop, and did in good order; the same one goes on."""


def fetch(config: FetchConfig) -> int:
    """Fetch assets by name."""
    for name in config.assets:
        if name not in assets.ASSETS:
            raise ConfigError(f"assets: unknown {name!r}; allowed: {', '.join(assets.ASSETS)}")
    for name in config.assets:
        try:
            print(f"{name}: {assets.fetch(name, config.to)}")
        except assets.FetchError as error:
            raise CommandFailedError(str(error)) from error
    return 0


def download(config: DownloadConfig) -> int:
    """PubMed files from NLM."""
    from kailin_ray.download import download as fetch_files

    done = fetch_files(config, sys.stderr)
    print(
        f"{config.to}: {len(done.fetched):,} files fetched ({done.num_bytes / 1e6:,.1f} MB came), "
        f"{done.there_already:,} were there already, {len(done.refused):,} refused"
    )
    for fault in done.refused.values():
        print(f"kailin_ray: refused: {fault}", file=sys.stderr)
    return 1 if done.refused else 0


def ingest(config: IngestConfig) -> int:
    """A source to documents, or into those that are there."""
    from kailin_ray.sources import reading, source_files
    from kailin_ray.updates import opened

    with locked(config.out):
        made = opened(config.out, "ingest")
        files = source_files(config.source, config.out, sys.stderr)
        from kailin_ray.ingest import make_documents, new_files
        from kailin_ray.session import ray_session

        fresh = new_files(files, reading(config.source), made)
        if fresh:
            with _faults(_log(config.out)), ray_session(config.cluster, _log(config.out)) as terminal:
                manifest = make_documents(config, fresh, made, terminal)
        else:
            assert made
            manifest = made | {"damaged": []}
            print(f"{config.out}: made already, of these files and {len(made['files']) - len(files)} others")
    _tell_documents(config.out, manifest, made is not None and len(manifest["updates"]) > len(made["updates"]))
    for fault in manifest["damaged"]:
        print(f"kailin_ray: damaged file, nothing taken from it: {fault}", file=sys.stderr)
    return 1 if manifest["damaged"] and not config.tolerate else 0


def _tell_documents(out: Path, manifest: dict[str, Any], updated: bool) -> None:
    from kailin_ray.updates import told_update

    left_out = ", ".join(f"{number:,} {name}" for name, number in manifest["num_left_out"].items() if number)
    print(
        f"{out}: {manifest['num_documents']:,} documents ({manifest['num_with_mesh']:,} with MeSH headings) of "
        f"{manifest['num_citations']:,} citations" + (f"; left out: {left_out}" if left_out else "")
    )
    if updated:
        print(told_update(manifest))
    if manifest["num_skipped"]:
        print("records that are no citation: " + json.dumps(manifest["num_skipped"]))


def select(config: SelectConfig) -> int:
    """A corpus to the documents that are worked on."""
    corpus = read_manifest(config.corpus, "documents", "corpus", "ingest")
    from kailin_ray import selection
    from kailin_ray.session import ray_session
    from kailin_ray.updates import opened

    with locked(config.out):
        made = opened(config.out, "select")
        if selection.up_to_date(config, corpus, made):
            manifest: Any = made
            print(f"{config.out}: made already")
        else:
            with _faults(_log(config.out)), ray_session(config.cluster, _log(config.out)) as terminal:
                manifest = selection.select(config, corpus, made, terminal)
    print(selection.summary(config.out, manifest))
    return 0


def index(config: IndexConfig) -> int:
    """Documents to a dense index, or to one that is there what changed in them."""
    read_manifest(config.documents, "documents", "documents", "ingest")
    config = replace(config, encoder=found_encoder(config.encoder))
    from kailin_ray.retrieval import job
    from kailin_ray.session import check_encoders, cluster_nodes, ray_session

    with locked(config.out):
        made = job.opened_index(config)
        if job.up_to_date(config, made):
            manifest: Any = made
            print(f"{config.out}: made already")
        else:
            with _faults(_log(config.out)), ray_session(config.cluster, _log(config.out)) as terminal:
                check_encoders(config.cluster, cluster_nodes(config.cluster))
                manifest = job.make_index(config, made, terminal)
    print(job.summary(config.out, manifest))
    return 0


def distill(config: DistillConfig) -> int:
    """Documents to records, then the run's manifest and its summary."""
    _distil(config)
    print(_report(config.out))
    _check_failed(config)
    return 0


def _report(run: Path, examples: int = 0) -> str:
    from kailin_ray.report import report as summary

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
    from kailin_ray import again, manifest

    made = read_manifest(config.run, "run", "run", "distill")
    asked = (config.reason,) if isinstance(config.reason, str) else config.reason
    reasons = again.chosen_reasons(asked)
    # The rows are those that went wrong: limits of a whole run do not suit them.
    unlimited = {"max_failed_fraction": 1.0, "max_fraction": dict.fromkeys(REASONS), "max_hours": None}
    changed = overridden(made["config"] | unlimited, config.overrides)
    with locked(config.run):  # against distill, which merges the run's files
        folder = again.replay_folder(config.run, reasons, config.overrides, manifest.FREE)
        pmids, step = again.rows_of(folder, config.run, reasons)
        # From the step at which they ended, or that a changed key concerns; then only its models and later ones count.
        before, now = manifest.flat(made["config"]), manifest.flat(settings(changed))
        asked_for = again.step_changed(before, now)
        first = again.first([step, asked_for[0] if asked_for else step])
        changed = replace(changed, from_run=config.run, out=folder, limit=None, stages=again.later(first))
        changed = check_run(changed)
        # Prompts, corpora and models may have changed without a key.
        first = again.first([first, manifest.step_changed_since(config.run, changed) or first])
        changed = replace(changed, stages=again.later(first))
        check_run(changed)
        again.open_replay(folder, config.run, pmids, step)
        mesh = _distil(changed, pmids)
        statuses = read_json(folder / "manifest.json")["num_by_status"]
        again.merge(config.run, folder)
        again.keep_accounts(config.run, folder)
        differs = {
            key: now.get(key)
            for key in before.keys() | now.keys()
            if key.partition(".")[0] not in manifest.FREE and before.get(key) != now.get(key)
        }
        note = {"folder": folder.name, "reasons": reasons, "changed": differs, "stages": list(changed.stages)}
        note["rows"] = statuses
        manifest.add_replay(config.run, mesh, changed.cluster.gpu_hour_price, note)
        again.close_replay(folder)
    print(
        f"{config.run}: {len(pmids):,} rows done again: " + ", ".join(f"{name} {statuses[name]:,}" for name in statuses)
    )
    print(_report(config.run))
    return 0


def _distil(config: DistillConfig, chosen: Any = None) -> Any:
    """Make a run complete and write its manifest; return its MeSH hierarchy. ``chosen``: PMIDs of ``from_run``."""
    config = check_run(config)
    from kailin_ray import manifest, pipeline
    from kailin_ray.load_mesh import load_mesh

    mesh, mesh_note = load_mesh(config.mesh, config.tolerate_orphans, config.documents, config.index)
    headings = mesh_note["headings"]
    if headings["unknown"]:
        names = ", ".join(f"{one['name']} ({one['documents']:,})" for one in headings["most_used_unknown"])
        more = ", ..." if headings["unknown"] > len(headings["most_used_unknown"]) else ""
        print(f"mesh: {headings['unknown']:,} of the corpus' headings are unknown to {config.mesh.name}: {names}{more}")
    with locked(config.out), _nothing_left_if_refused(config.out):
        made_from = manifest.open_run(config)
        work = pipeline.find_work(config, chosen)
        if work.num_left or not (config.out / "manifest.json").exists():
            _work(config, work, mesh)
            pipeline.check_complete(config, work)
            made = manifest.write_manifest(config, made_from, len(work.done), mesh, mesh_note)
            _draw(made["coverage"], config.out / "coverage.png")
        else:
            print(f"{config.out}: complete, nothing to do")
    return mesh


@contextmanager
def _nothing_left_if_refused(out: Path) -> Iterator[None]:
    existed = out.exists()
    try:
        yield
    except ConfigError:
        if not existed:
            remove_folder(out)
        raise


def _draw(coverage: dict[str, Any], path: Path) -> None:
    from kailin_ray.picture import draw_coverage

    try:
        draw_coverage(coverage, path)
    except Exception as error:  # a run is complete without its picture; its numbers stand in the manifest
        print(f"{path}: not drawn: {type(error).__name__}: {error}")


def _work(config: DistillConfig, work: Any, mesh: Any) -> None:
    from kailin_ray import pipeline
    from kailin_ray.plan import make_plan
    from kailin_ray.plan_table import describe
    from kailin_ray.session import cluster_nodes, others_hold, ray_session
    from kailin_ray.watch import stop_requests

    log = log_folder(config.out) / "driver.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{config.out}: {work.num_left:,} of {work.num_documents:,} abstracts to distil; logs in {log.parent}")
    if not work.num_left:
        return
    # Ray takes SIGTERM for itself when it starts: the run's own handler comes after.
    with _faults(log), ray_session(config.cluster, log) as terminal, stop_requests(config.max_hours) as stop:
        plan = make_plan(config, cluster_nodes(config.cluster))
        print(describe(plan, brief=True), file=terminal)
        if waiting := others_hold(plan):
            print(waiting, file=terminal)
        # A run that goes on, perhaps with a higher limit, is not complete until it is again.
        (config.out / "manifest.json").unlink(missing_ok=True)
        pipeline.distill(config, plan, work, mesh, terminal, stop=stop)


def plan(config: PlanConfig) -> int:
    """What would run where, with the arithmetic; nothing starts."""
    config = replace(config, model=found_models(config))
    from kailin_ray.plan import make_plan, nodes_of
    from kailin_ray.plan_table import describe
    from kailin_ray.session import cluster_nodes, ray_session

    if config.cluster.nodes:
        nodes = nodes_of(config.cluster.nodes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "ray.log")
            with _faults(log), ray_session(config.cluster, log):
                nodes = cluster_nodes(config.cluster)
    print(describe(make_plan(config, nodes)))
    return 0


def publish(config: PublishConfig) -> int:
    """A run's records to a Hugging Face dataset folder."""
    from kailin_ray.publish import publish as write

    for key in ("run", "out"):
        check_access(key, getattr(config, key))
    counts = write(config)
    print(f"{config.out}: " + ", ".join(f"{name} {number:,}" for name, number in counts.items()))
    return 0


def train(config: TrainConfig) -> int:
    """Examples to an adapter or a model."""
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("trl is not installed: pip install '.[train]'")
    from kailin_ray.training import job
    from kailin_ray.training.report import summary as training_summary

    config = job.checked(config)
    out = config.out.absolute()
    with locked(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            manifest = job.made_already(config)
            print(f"{config.out}: made already")
        else:
            with _nothing_left_if_refused(job.scratch_of(out)), _faults(_log(out)):
                manifest = job.train(config, out, _log(out))
    print(training_summary(config.out, manifest))
    return 0


def refine(config: RefineConfig) -> int:
    """Distil, train on the preferences, distil again, compare."""
    from kailin_ray import refine as loop

    with locked(config.out.absolute()):
        try:
            loop.refine(config)
        except loop.StepFailedError as error:
            goes_on = "" if error.code == 2 else "; the same command goes on from there"
            print(f"kailin_ray: {error}{goes_on}", file=sys.stderr)
            return error.code
    return 0


def compare(config: CompareConfig) -> int:
    """What one run's questions are worth beside another's."""
    for key in ("old", "new"):
        check_access(key, getattr(config, key))
    from kailin_ray.comparison import job

    about = job.check_runs(config)
    if config.judge:
        config = check_judge(config)
    with locked(config.out.absolute()):
        old, new = job.read_both(config)
        judge, judged = _judged(config, about, old, new) if config.judge else (None, None)
        found = job.write_comparison(config, about, old, new, judge, judged)
        remove_folder(job.judging_folder(config.out))
    print(job.summary(config.out, found))
    return 0


def _judged(config: CompareConfig, about: dict[str, Any], old: Any, new: Any) -> tuple[dict[str, Any], Any]:
    """Who judged, and what of each kind of question."""
    from kailin_ray.comparison import job, judging, verdicts

    asked = job.asked_of_judge(config, about)
    with _faults(_log(config.out)):
        found = judging.judged(config, asked, verdicts.wanted(old, new), _log(config.out))
    return asked, verdicts.by_kind(found, old, new, asked["form"] == "pairwise")


def report(config: ReportConfig) -> int:
    """What a run gave, and some of its triples."""
    check_access("run", config.run)
    print(_report(config.run, config.examples))
    return 0


def _log(out: Path) -> Path:
    return out.absolute().with_name(f"{out.name}.log")


@contextmanager
def _faults(log: Path) -> Iterator[None]:
    """Turn what Ray raises into one line that names the log; the traceback goes there."""
    from ray.exceptions import RayError

    from kailin_ray.watch import StoppedError, TooManyFailuresError

    try:
        yield
    except StoppedError as error:
        raise CommandStoppedError(str(error)) from error
    except TooManyFailuresError as error:
        raise CommandFailedError(f"{error}; see {log.parent}") from error
    except RayError as error:
        with log.open("a") as sink:
            sink.write(f"{error}\n")
        raise CommandFailedError(f"{_cause(str(error))} (more in {log})") from error


def _cause(traceback: str) -> str:
    """The line of a traceback that says what was wrong: pydantic's, Ray's of a file, or the last exception's."""
    if unread := re.search(r"^\w+: (.+(?:\n.+)*)\n+Failed to read fragment (.+?) after ", traceback, re.MULTILINE):
        return f"{unread[2]}: cannot be read: {' '.join(unread[1].split())}"
    # pydantic's: the field, then what is wrong with its value.
    if wrong := re.search(r"^(\w+)\n\s+(Input should be .+?) \[type=\w+, input_value=(.+?), ", traceback, re.MULTILINE):
        return f"{wrong[1]}: {wrong[2]} (was {without_secrets(wrong[3], wrong[1])})"
    for pattern in (r"^\s*Value error, (.+)", r"^(?:\w+\.)*\w*(?:Error|Exception): (.+)", r"^\s*(\S.*)"):
        if found := re.findall(pattern, traceback, re.MULTILINE):
            return str(found[-1])
    return "it failed"


def status(config: StatusConfig) -> int:
    """How far a run is."""
    from kailin_ray.status import status as found
    from kailin_ray.status import told

    check_access("run", config.run)
    now = time.time()
    state = found(config.run, now)
    print(json.dumps(state, indent=1) if config.json else told(state, now))
    return 0


def submit(config: SubmitConfig) -> int:
    """One of the commands as a job of a Ray cluster."""
    from kailin_ray.submit import submit as submitted

    return submitted(config)


def bundle(config: BundleConfig) -> int:
    """Wheels, models and assets for machines without internet."""
    from kailin_ray import bundle as packing
    from kailin_ray.wheels import WheelError

    with locked(config.out.absolute()):
        try:
            manifest = packing.bundle(config, sys.stderr)
        except (WheelError, assets.FetchError) as error:
            raise CommandFailedError(str(error)) from error
    print(packing.summary(config.out, manifest))
    return 0
