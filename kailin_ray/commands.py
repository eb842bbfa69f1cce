"""What each command does, from a checked configuration to an exit code. What can be refused is refused up front."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kailin_ray import assets
from kailin_ray.config import (
    ConfigError,
    DistillConfig,
    FetchConfig,
    IndexConfig,
    IngestConfig,
    PublishConfig,
    ReportConfig,
)
from kailin_ray.files import read_json

# Ray, torch and the rest are imported by the command that needs them: --help and a refusal come at once.


class CommandFailedError(RuntimeError):
    """The command did not do all it was asked; its message is one line."""


def fetch(config: FetchConfig) -> int:
    """Fetch assets by name."""
    for name in config.assets:
        try:
            print(f"{name}: {assets.fetch(name, config.to)}")
        except assets.FetchError as error:
            if name not in assets.ASSETS:
                raise ConfigError(str(error)) from error
            raise CommandFailedError(str(error)) from error
    return 0


def ingest(config: IngestConfig) -> int:
    """PubMed XML to documents."""
    from kailin_ray.ingest import find_files, made_documents, make_documents
    from kailin_ray.plan import ray_session

    files = find_files(config.source.path)
    manifest = made_documents(config, files)
    if manifest is None:
        with _faults(_log(config.out)), ray_session(config.cluster, _log(config.out)) as terminal:
            manifest = make_documents(config, files, terminal)
    else:
        print(f"{config.out}: made already")
    left_out = ", ".join(f"{number:,} {name}" for name, number in manifest["num_left_out"].items() if number)
    print(
        f"{config.out}: {manifest['num_documents']:,} documents ({manifest['num_with_mesh']:,} with MeSH headings) of "
        f"{manifest['num_citations']:,} citations" + (f"; left out: {left_out}" if left_out else "")
    )
    if manifest["num_skipped"]:
        print("records that are no citation: " + json.dumps(manifest["num_skipped"]))
    for fault in manifest["damaged"]:
        print(f"kailin_ray: damaged file, nothing taken from it: {fault}", file=sys.stderr)
    return 1 if manifest["damaged"] and not config.tolerate else 0


def index(config: IndexConfig) -> int:
    """Documents to a dense index."""
    _manifest(config.documents, "documents", "documents", "ingest")
    _check_model("encoder.path", config.encoder.path, config.encoder.revision)
    from kailin_ray.plan import ray_session
    from kailin_ray.retrieval.job import made_index, make_index

    manifest = made_index(config)
    if manifest is None:
        with _faults(_log(config.out)), ray_session(config.cluster, _log(config.out)) as terminal:
            manifest = make_index(config, terminal)
    else:
        print(f"{config.out}: made already")
    print(f"{config.out}: {manifest['num_passages']:,} passages of {manifest['dimension']} dimensions")
    return 0


def distill(config: DistillConfig) -> int:
    """Documents to records, then the run's manifest and its summary."""
    documents = _manifest(config.documents, "documents", "documents", "ingest")
    if not documents["num_with_mesh"]:
        raise ConfigError(f"documents: {config.documents} has no document with MeSH headings; the MeSH rule needs them")
    _manifest(config.index, "index", "index", "index")
    if not config.mesh.is_file():
        raise ConfigError(f"mesh: {config.mesh} does not exist")
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vllm is not installed: pip install '.[cpu]' or, for GPUs, pip install '.[gpu]'")
    _check_model("model.path", config.model.path, config.model.revision)
    from kailin_ray import manifest, pipeline
    from kailin_ray.plan import ray_session
    from kailin_ray.report import report as summary

    mesh = pipeline.load_mesh(config)
    checksums = manifest.open_run(config)
    work = pipeline.find_work(config)
    if work.num_left or not (config.out / "manifest.json").exists():
        log = config.out / "logs" / "driver.log"
        print(f"{config.out}: {work.num_left:,} of {work.num_documents:,} abstracts to distil; logs in {log.parent}")
        seconds = {"total": 0.0, "engine_start": 0.0, "distill": 0.0}
        if work.num_left:
            with _faults(log), ray_session(config.cluster, log) as terminal:
                seconds = pipeline.distill(config, work, mesh, terminal)
        pipeline.check_complete(config, work)
        manifest.write_manifest(config, checksums, seconds, len(work.done))
    else:
        print(f"{config.out}: complete, nothing to do")
    print(summary(config.out, examples=0))
    return 0


def publish(config: PublishConfig) -> int:
    """A run's records to a Hugging Face dataset folder."""
    from kailin_ray.publish import publish as write

    counts = write(config)
    print(f"{config.out}: " + ", ".join(f"{name} {number:,}" for name, number in counts.items()))
    return 0


def report(config: ReportConfig) -> int:
    """What a run gave, and some of its triples."""
    from kailin_ray.report import report as summary

    print(summary(config.run, config.examples))
    return 0


def _log(out: Path) -> Path:
    return out.absolute().with_name(f"{out.name}.log")


def _manifest(folder: Path, kind: str, key: str, command: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise ConfigError(f"{key}: {folder} is not a directory")
    if not (folder / "manifest.json").exists():
        raise ConfigError(f"{key}: {folder} has no manifest.json: not made by `{command}`, or not to its end")
    found: dict[str, Any] = read_json(folder / "manifest.json")
    if found.get("kind") != kind:
        raise ConfigError(f"{key}: {folder} holds {found.get('kind')}, not {kind}")
    return found


def _check_model(key: str, path: str, revision: str | None) -> None:
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            raise ConfigError(f"{key}: {path} is not a model directory: it has no config.json")
        return
    fault = "not a hub id either (owner/name)"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        from huggingface_hub import hf_hub_download

        try:
            hf_hub_download(path, "config.json", revision=revision)
            return
        except Exception as error:  # whatever the hub's client raises, the model cannot be had
            fault = f"the hub does not give it ({type(error).__name__})"
    raise ConfigError(f"{key}: {path}: no such directory, and {fault}; `fetch` gets the demo's models")


@contextmanager
def _faults(log: Path) -> Iterator[None]:
    """Turn what Ray raises into one line that names the log; the traceback goes there."""
    from ray.exceptions import RayError

    from kailin_ray.watch import TooManyFailuresError

    try:
        yield
    except TooManyFailuresError as error:
        raise CommandFailedError(f"{error}; see {log.parent}") from error
    except RayError as error:
        with log.open("a") as sink:
            sink.write(f"{error}\n")
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise CommandFailedError(f"{lines[-1] if lines else type(error).__name__} (more in {log})") from error
