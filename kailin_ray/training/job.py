"""The ``train`` command: train an adapter or a model on examples, on Ray Train.

While it works, the scratch folder ``.<out>.training`` next to ``out`` holds the examples as token ids, the checkpoints,
and ``job.json``, which records the training's inputs. The same command resumes from the last checkpoint.
"""

import importlib.util
import os
import shutil
import threading
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from datasets import Dataset, disable_progress_bars
from pydantic import TypeAdapter

from kailin_ray.agents.prompts import Message, ask
from kailin_ray.agents.samples import judge_samples, question_samples
from kailin_ray.config import TrainConfig, settings
from kailin_ray.config.renamed import rename_keys
from kailin_ray.distill.identity import flat
from kailin_ray.engines.adapters import Adapter, AdapterManifest, Base, ExampleCounts, TrainingInputs, find_trained
from kailin_ray.engines.chat_template import check_template
from kailin_ray.engines.models import check_files, model_identity, resolve_adapter, resolve_model
from kailin_ray.engines.tokenizer import load_tokenizer
from kailin_ray.errors import STOPPED, ConfigError, StoppedError
from kailin_ray.io.files import atomic_folder, read_json, sha256, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import write_manifest
from kailin_ray.io.storage import log_file
from kailin_ray.io.terminal import progress_bar
from kailin_ray.runtime.faults import discard_if_refused, one_line_faults
from kailin_ray.runtime.signals import stop_requests
from kailin_ray.schema import Json
from kailin_ray.training.examples import Examples, load_examples
from kailin_ray.training.report import card, draw_losses
from kailin_ray.training.tokens import tokenize
from kailin_ray.versions import versions

MANY_ROWS = 20_000
"""Above this number of rows, tokenizing uses several processes."""
MEASURED = 1_000
"""At most this many held-out examples are measured: all of a small set, enough of a large set."""
JOB, AFTER = "job.json", "after.json"
"""Files in the scratch folder. The first marks that the examples are prepared, the second that the training is done."""
STOP = "stop"
"""The file in the scratch folder that asks the workers to stop."""
FREE = ("out", "cluster", "workers", "optimization.save_steps", "min_examples")
"""Keys that may change between two calls of one job."""


def check_training(config: TrainConfig) -> TrainConfig:
    """Return the configuration with its model resolved. Raises ``ConfigError`` if it cannot be trained."""
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("trl is not installed: pip install '.[train]'")
    config = replace(config, model=resolve_model(config.model, "model.path"))
    check_files("model.path", config.model.path)
    if config.model.adapter:
        if not config.lora:
            raise ConfigError("lora: null, but model.adapter is set; set both or neither")
        adapter = resolve_adapter(config.model.adapter, "model.adapter")
        config = replace(config, model=replace(config.model, adapter=adapter))
    if config.optimization.packing and config.task != "pretrain":
        raise ConfigError(f"optimization.packing: true, but task={config.task}; only task=pretrain packs texts")
    if config.merge_adapter and not config.lora:
        raise ConfigError("merge_adapter: true, but lora is null: there is no adapter to merge")
    shared = config.workers.num * config.at_once
    if config.optimization.batch_size % shared:
        raise ConfigError(
            f"optimization.batch_size: {config.optimization.batch_size} is not a multiple of {shared}, which "
            f"{config.workers.num} workers process at once (optimization.per_device_batch_size)"
        )
    return config


def scratch_of(out: Path) -> Path:
    """Return the folder that a training works in."""
    return out.with_name(f".{out.name}.training")


@dataclass(frozen=True)
class TrainResult:
    """What ``train`` wrote, or found finished."""

    adapter: Adapter
    made_already: bool


def train(config: TrainConfig) -> TrainResult:
    """Train an adapter or a model and write it to ``config.out``.

    If ``out`` already holds the result of the same training, return that. Raises ``ConfigError``;
    ``CommandFailedError`` if a worker failed; ``StoppedError`` after SIGTERM, once the current step is in a checkpoint.
    The same call resumes from there.
    """
    config = check_training(config)
    out = config.out.absolute()
    with hold_lock(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            return TrainResult(open_finished(config), made_already=True)
        with discard_if_refused(scratch_of(out)), one_line_faults(log_file(out)):
            return TrainResult(_train(config, out), made_already=False)


def _train(config: TrainConfig, out: Path) -> Adapter:
    from kailin_ray.runtime.session import ray_session  # imported here: refusing does not need Ray

    scratch = scratch_of(out)
    inputs = open_job(config, scratch)
    if not (scratch / JOB).exists():
        _write_job(config, inputs, scratch)
    started = time.monotonic()
    if not (scratch / AFTER).exists():
        (scratch / STOP).unlink(missing_ok=True)
        # Ray installs its own SIGTERM handler when it starts, so the training's handler is installed after it.
        with ray_session(config.cluster, log_file(out)) as terminal, stop_requests(None) as stop:
            _fit(config, scratch, terminal, stop)
    if not (scratch / AFTER).exists():
        raise StoppedError(STOPPED)
    manifest = _manifest(config, scratch, time.monotonic() - started)
    with atomic_folder(out) as folder:
        shutil.copytree(scratch / "result", folder, dirs_exist_ok=True)
        draw_losses(manifest.log, folder / "loss.png")
        (folder / "README.md").write_text(card(manifest, out.name), encoding="utf-8")
        write_manifest(folder, manifest)
    shutil.rmtree(scratch)
    return Adapter(config.out, manifest)


def _manifest(config: TrainConfig, scratch: Path, seconds: float) -> AdapterManifest:
    job, after, before = _read_job(scratch), read_json(scratch / AFTER), scratch / "before.json"
    values = {name: job[name] for name in ("config", "base", "adapter", "data", "examples")} | {
        "kind": "model" if config.merge_adapter or not config.lora else "adapter",
        "task": config.task,
        # The prompts have no worked examples: see model.<agent>.examples.
        "worked_examples": False,
        "steps": after["steps"],
        "before": read_json(before) if before.exists() else None,
        "after": after["figures"],
        "log": after["log"],
        "seconds_of_last_session": round(seconds, 1),
        "versions": versions(),
    }
    return TypeAdapter(AdapterManifest).validate_python(values)


def open_job(config: TrainConfig, scratch: Path) -> TrainingInputs:
    """Return the training's inputs. Raises ``ConfigError`` if the scratch folder holds another job that has begun."""
    inputs = job_of(config)
    note = scratch / JOB
    if note.exists():
        _refuse_another(TypeAdapter(TrainingInputs).validate_python(_read_job(scratch)), inputs, scratch)
    else:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    return inputs


def _write_job(config: TrainConfig, inputs: TrainingInputs, scratch: Path) -> None:
    """Prepare the examples, then record the training's inputs in ``job.json``."""
    disable_progress_bars()
    tokenizer = load_tokenizer(config.model.path, config.model.revision)
    if config.task in ("question", "judge", "dpo"):
        prompts = judge_samples(False) if config.task == "judge" else question_samples("any", False)
        _check_template(config, tokenizer, prompts)
    examples = load_examples(config, scratch / "cache")
    if config.task == "sft" and not isinstance(examples.train[0]["prompt"], str):
        if not tokenizer.chat_template:
            raise ConfigError(
                f"data: the prompts of {config.data.path} are messages, but model.path={config.model.path} has no chat "
                "template; `publish` with sft=text writes plain text"
            )
        _check_template(config, tokenizer, [[ask("user", "Q?")]])
    counts = write_examples(config, tokenizer, examples, scratch)
    write_json(scratch / JOB, asdict(inputs) | {"examples": asdict(counts)})


def _check_template(config: TrainConfig, tokenizer: Any, prompts: list[list[Message]]) -> None:
    check_template(
        f"model.path: {config.model.path}", tokenizer, prompts, tuple(sorted(config.model.chat_template.items()))
    )


def _read_job(scratch: Path) -> Json:
    job = read_json(scratch / JOB)
    return job | {"config": rename_keys(job["config"])}


def job_of(config: TrainConfig) -> TrainingInputs:
    """Return the training's inputs: settings, base model, adapter and data."""
    return TrainingInputs(
        config=settings(config),
        base=Base(name=_name(config.model.path), identity=model_identity(config.model.path, config.model.revision)),
        adapter=sha256(Path(config.model.adapter)) if config.model.adapter else None,
        data=data_identity(config),
    )


def open_finished(config: TrainConfig) -> Adapter:
    """Open the finished folder ``out``. Raises ``ConfigError`` if another training or another command wrote it."""
    adapter = find_trained(config.out, "out")
    if adapter is None:
        raise ConfigError(f"out: {config.out} exists and `train` did not write it; choose another")
    _refuse_another(adapter.manifest, job_of(config), config.out)
    return adapter


def _refuse_another(earlier: TrainingInputs, inputs: TrainingInputs, path: Path) -> None:
    before, now = _matters(earlier), _matters(inputs)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        raise ConfigError(
            f"out: {path} holds a training with another {key.removeprefix('config.')} "
            f"({before.get(key)!r}, now {now.get(key)!r}); choose a new out="
        )


def _matters(job: TrainingInputs) -> Json:
    values = flat({"config": job.config, "base": asdict(job.base), "adapter": job.adapter, "data": job.data})
    path_keys = ("config.model.path", "config.model.adapter", "config.data.path")
    free_keys = tuple(f"config.{name}" for name in FREE)
    return {key: value for key, value in values.items() if not key.startswith(free_keys) and key not in path_keys}


def _name(path: str) -> str:
    return Path(path).name if Path(path).is_dir() else path


def data_identity(config: TrainConfig) -> str:
    """Return what identifies the data: a checksum of local data, or the hub's name and revision."""
    path = Path(config.data.path)
    name = getattr(config.data, "name", None)
    local = path / name if path.is_dir() and name and (path / name).is_dir() else path
    return sha256(local) if local.exists() else f"{config.data.path}@{getattr(config.data, 'revision', None) or 'main'}"


def write_examples(config: TrainConfig, tokenizer: Any, examples: Examples, scratch: Path) -> ExampleCounts:
    """Write the examples as token ids in Parquet; return the counts. Raises ``ConfigError`` if too few fit."""
    left_out = dict(examples.left_out)
    counts: dict[str, int] = {}
    splits: list[tuple[str, Dataset | None]] = [("train", examples.train), ("test", examples.test)]
    for name, rows in splits:
        if rows is None:
            continue
        if name == "test":
            rows = rows.select(range(min(len(rows), MEASURED)))
        num_proc = min(os.cpu_count() or 1, 16) if len(rows) > MANY_ROWS else None
        tokenized, too_long = tokenize(rows, config, tokenizer, num_proc)
        left_out["too_long"] = left_out.get("too_long", 0) + too_long
        counts[name] = len(tokenized)
        if len(tokenized):
            tokenized.to_parquet(str(scratch / f"{name}.parquet"))
            if config.task == "judge" and name == "test":
                rows.to_parquet(str(scratch / "judge-test.parquet"))
    if counts["train"] < config.min_examples:
        raise ConfigError(
            f"optimization.max_length: of {len(examples.train):,} examples {counts['train']:,} fit into "
            f"{config.optimization.max_length:,} tokens, fewer than min_examples={config.min_examples:,}"
        )
    return ExampleCounts(
        train=counts["train"], test=counts.get("test", 0), left_out={k: v for k, v in left_out.items() if v}
    )


def _fit(config: TrainConfig, scratch: Path, terminal: TextIO, stop: threading.Event) -> None:
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from kailin_ray.training.loop import train_worker

    workers = config.workers
    _check_room(config)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"config": config, "scratch": scratch},
        scaling_config=ScalingConfig(
            num_workers=workers.num,
            use_gpu=bool(workers.gpus),
            resources_per_worker={"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})},
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(scratch), failure_config=FailureConfig(max_failures=workers.max_failures)
        ),
    )
    done = threading.Event()
    watch = threading.Thread(target=partial(_watch, scratch, config.task, terminal, stop, done))
    watch.start()
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise RayError(str(error)) from error
    finally:
        done.set()
        watch.join()


def _check_room(config: TrainConfig) -> None:
    """Raise ``ConfigError`` if the cluster lacks resources: the workers would wait for them forever."""
    import ray

    resources, workers = ray.cluster_resources(), config.workers
    for name, key, each in (("GPU", "gpus", workers.gpus), ("CPU", "cpus", workers.cpus)):
        needed, has = workers.num * each, resources.get(name, 0)
        if needed > has:
            raise ConfigError(
                f"workers.{key}: {workers.num} workers of {each:g} need {needed:g} {name}s, the cluster has {has:g}"
            )


def _watch(scratch: Path, task: str, terminal: TextIO, stop: threading.Event, done: threading.Event) -> None:
    """Show the steps and the last loss in a progress bar, and pass a request to stop on to the workers."""
    file = scratch / "progress.json"
    with progress_bar(terminal, f"train {task}", None, unit=" steps") as bar:
        while True:
            ended = done.wait(0.5)
            if stop.is_set():
                (scratch / STOP).touch()
            if file.exists():
                progress = read_json(file)
                bar.total = progress["steps"]
                bar.set_postfix(loss=f"{progress['loss']:.3f}", refresh=False)
                bar.update(progress["step"] - bar.n)
            if ended:
                return
