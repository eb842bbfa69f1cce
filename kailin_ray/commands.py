"""What each command does, from a checked configuration to an exit code. What can be refused is refused up front."""

import difflib
import importlib.util
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kailin_ray import assets
from kailin_ray.config import (
    Agent,
    ConfigError,
    DistillConfig,
    DownloadConfig,
    Encoder,
    FetchConfig,
    IndexConfig,
    IngestConfig,
    Layout,
    Model,
    PlanConfig,
    PublishConfig,
    ReplayConfig,
    ReportConfig,
    SelectConfig,
    overridden,
    settings,
    without_secrets,
)
from kailin_ray.files import locked, read_json, read_manifest, remove_folder
from kailin_ray.schema import REASONS, STEPS
from kailin_ray.storage import check_access, log_folder

# Ray, torch and the rest are imported by the command that needs them: --help and a refusal come at once.


M = TypeVar("M", Model, Agent, Encoder)


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
        made = opened(config.out)
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
        made = opened(config.out)
        if selection.up_to_date(config, corpus, made):
            manifest: Any = made
            print(f"{config.out}: made already")
        else:
            with _faults(_log(config.out)), ray_session(config.cluster, _log(config.out)) as terminal:
                manifest = selection.select(config, corpus, made, terminal)
    print(selection.summary(config.out, manifest))
    return 0


def index(config: IndexConfig) -> int:
    """Documents to a dense index."""
    read_manifest(config.documents, "documents", "documents", "ingest")
    config = replace(config, encoder=_found(config.encoder, "encoder.path"))
    _check_files("encoder.path", config.encoder.path)
    from kailin_ray.retrieval.job import made_index, make_index
    from kailin_ray.session import check_encoders, cluster_nodes, ray_session

    manifest = made_index(config)
    if manifest is None:
        session = ray_session(config.cluster, _log(config.out))
        with locked(config.out), _faults(_log(config.out)), session as terminal:
            check_encoders(config.cluster, cluster_nodes(config.cluster))
            manifest = make_index(config, terminal)
    else:
        print(f"{config.out}: made already")
    print(f"{config.out}: {manifest['num_passages']:,} passages of {manifest['dimension']} dimensions")
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
        changed = _checked(changed)
        # Prompts, corpora and models may have changed without a key.
        first = again.first([first, manifest.step_changed_since(config.run, changed) or first])
        changed = replace(changed, stages=again.later(first))
        _checked(changed)
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


def _checked(config: DistillConfig) -> DistillConfig:
    """The configuration with its models found; what cannot be run is refused."""
    for key in ("documents", "out", "from_run"):
        check_access(key.removesuffix("_run"), getattr(config, key))
    documents = read_manifest(config.documents, "documents", "documents", "ingest")
    if config.evaluation.by == "rule" and not documents["num_with_mesh"]:
        raise ConfigError(f"documents: {config.documents} has no document with MeSH headings; the MeSH rule needs them")
    index = read_manifest(config.index, "index", "index", "index")
    _check_encoder(config, index)
    _check_clean(config, documents, index)
    if not config.mesh.is_file():
        raise ConfigError(f"mesh: {config.mesh} does not exist")
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vllm is not installed: pip install '.[cpu]' or, for GPUs, pip install '.[gpu]'")
    unknown = sorted(config.max_fraction.keys() - REASONS.keys())
    if unknown:
        raise ConfigError(f"max_fraction: unknown reason {unknown[0]!r}; allowed: {', '.join(REASONS)}")
    if config.from_run is None and len(config.stages) < len(STEPS):
        raise ConfigError(f"stages: {list(config.stages)} need the records of another run; give it as from=")
    config = replace(config, model=_found_models(config))
    _check_weights(config)
    return config


def _distil(config: DistillConfig, chosen: Any = None) -> Any:
    """Make a run complete and write its manifest; return its MeSH hierarchy. ``chosen``: PMIDs of ``from_run``."""
    config = _checked(config)
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
    config = replace(config, model=_found_models(config))
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


def report(config: ReportConfig) -> int:
    """What a run gave, and some of its triples."""
    check_access("run", config.run)
    print(_report(config.run, config.examples))
    return 0


def _log(out: Path) -> Path:
    return out.absolute().with_name(f"{out.name}.log")


# Of vLLM's engine arguments those that everybody uses. Any other is looked up in vLLM, whose import takes ten seconds.
_USUAL = frozenset(
    (
        "block_size", "distributed_executor_backend", "dtype", "enable_prefix_caching", "enforce_eager",
        "gpu_memory_utilization", "kv_cache_dtype", "kv_cache_memory_bytes", "language_model_only", "load_format",
        "max_model_len", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size", "quantization", "seed",
        "tensor_parallel_size", "trust_remote_code",
    )
)  # fmt: skip


def _check_engine_arguments(key: str, given: dict[str, Any]) -> None:
    if given.get("data_parallel_size", 1) != 1:
        raise ConfigError(f"{key}.data_parallel_size: engines are multiplied by cluster.num_engines and the plan")
    unusual = set(given) - _USUAL
    # A plan may be made where there is no vLLM; it will look when it starts.
    if not unusual or importlib.util.find_spec("vllm") is None:
        return
    from kailin_ray.engine import argument_names

    for name in sorted(unusual - argument_names()):
        close = difflib.get_close_matches(name, argument_names() | _USUAL, n=3)
        raise ConfigError(f"{key}.{name}: not an engine argument of vLLM; like it: {', '.join(close) or 'none'}")


def _found_models(config: Layout) -> Model:
    """The same models, checked; local paths are made absolute, as actors have other working folders."""
    from kailin_ray.stages import make_stages

    model = config.model
    used = {agent for stage in make_stages(config) for agent in stage.agents}
    _check_engine_arguments("model.engine", model.engine)
    if model.path and any(getattr(model, name).path is None for name in used):
        model = _found(model, "model.path")
    for name in sorted(used):
        agent = getattr(model, name)
        _check_engine_arguments(f"model.{name}.engine", agent.engine)
        if agent.path:
            agent = _found(agent, f"model.{name}.path")
        if agent.adapter:
            agent = replace(agent, adapter=_found_adapter(agent.adapter, f"model.{name}.adapter"))
        model = replace(model, **{name: agent})
    return model


def _check_weights(config: Layout) -> None:
    from kailin_ray.stages import make_stages

    for stage in make_stages(config):
        if stage.engine.args.get("load_format", "safetensors") == "safetensors":
            own = [name for name in stage.agents if getattr(config.model, name).path]
            _check_files(f"model.{own[0]}.path" if own else "model.path", stage.engine.path)


def _check_files(key: str, path: str) -> None:
    """Raise ``ConfigError`` for a model's directory without safetensors, or with modules of its own code."""
    if not Path(path).is_dir():
        return  # of the hub, where the loaders look for the same
    if not any(Path(path).rglob("*.safetensors")):
        pickled = sorted(file.name for file in Path(path).iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        held = f", only {', '.join(pickled[:3])}" if pickled else ""
        raise ConfigError(
            f"{key}: {path} has no *.safetensors{held}: pickled weights can run code and are "
            "not loaded; save the model as safetensors"
        )
    modules = Path(path, "modules.json")  # of sentence-transformers
    for module in read_json(modules) if modules.is_file() else []:
        if not str(module.get("type")).startswith("sentence_transformers."):
            raise ConfigError(f"{key}: {path} names the module {module.get('type')!r}: a model's own code is not run")


def _found_adapter(path: str, key: str) -> str:
    for needed in ("adapter_config.json", "adapter_model.safetensors"):
        if not Path(path, needed).is_file():
            raise ConfigError(f"{key}: {path} is not a LoRA adapter's directory: it has no {needed}")
    return str(Path(path).absolute())


def _check_encoder(config: DistillConfig, index: dict[str, Any]) -> None:
    from kailin_ray.retrieval.job import encoder_identity, recorded_encoder

    encoder = recorded_encoder(index)
    _check_model(f"index: {config.index} was made with an encoder that is needed", encoder.path, encoder.revision)
    _check_files("index", encoder.path)
    if encoder_identity(encoder).items() - index["made_from"]["encoder"].items():
        raise ConfigError(f"index: {config.index} was made with {encoder.path}, which has changed since; index anew")


def _check_clean(config: DistillConfig, documents: dict[str, Any], index: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if contexts could bring back what the documents were cleaned of."""
    cleaned = index.get("benchmarks", {})
    missing = [Path(name).name for checksum, name in documents.get("benchmarks", {}).items() if checksum not in cleaned]
    if missing:
        raise ConfigError(
            f"index: {config.index} was made of documents that may hold texts of {', '.join(missing)}, of which "
            f"{config.documents} was cleaned; index documents that were cleaned of them too"
        )


def _found(model: M, key: str) -> M:
    """The same model or encoder, checked and pinned.

    A local path is made absolute, as actors have other working folders; a hub revision becomes its commit, so that
    every machine and every session takes the same.
    """
    assert model.path
    commit = _check_model(key, model.path, model.revision)
    return replace(model, revision=commit) if commit else replace(model, path=str(Path(model.path).absolute()))


def _check_model(key: str, path: str, revision: str | None) -> str | None:
    """The commit of a hub model, None for a directory. Raises ``ConfigError`` if it cannot be had."""
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            raise ConfigError(f"{key}: {path} is not a model directory: it has no config.json")
        return None
    fault = "not a hub id either (owner/name)"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(path, "config.json", revision=revision)).parent.name  # snapshots/<commit>/
        except Exception as error:  # whatever the hub's client raises, the model cannot be had
            fault = f"the hub does not give it ({type(error).__name__})"
    raise ConfigError(f"{key}: {path}: no such directory, and {fault}; `fetch` gets the demo's models")


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
