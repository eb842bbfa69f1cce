"""What a configuration names, looked up before Ray or a model starts: models, adapters, encoders, folders."""

import difflib
import importlib.util
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kailin_ray.config import (
    Agent,
    CompareConfig,
    ConfigError,
    DistillConfig,
    Encoder,
    Layout,
    Model,
    QueryModel,
    TrainedModel,
)
from kailin_ray.files import model_identity, read_json, read_manifest
from kailin_ray.retrieval.encoder import check_length
from kailin_ray.schema import REASONS, STEPS
from kailin_ray.stages import Stage, judge_stage, make_stages
from kailin_ray.storage import check_access

M = TypeVar("M", Model, Agent, Encoder, QueryModel, TrainedModel)


def check_run(config: DistillConfig) -> DistillConfig:
    """The configuration with its models found; what cannot be run is refused."""
    for key in ("documents", "out", "from_run"):
        check_access(key.removesuffix("_run"), getattr(config, key))
    documents = read_manifest(config.documents, "documents", "documents", "ingest")
    if config.evaluation.by == "rule" and not documents["num_with_mesh"]:
        raise ConfigError(f"documents: {config.documents} has no document with MeSH headings; the MeSH rule needs them")
    index = read_manifest(config.index, "index", "index", "index")
    _check_index(config, index)
    check_encoder(config, index)
    _check_clean(config, documents, index)
    if not config.mesh.is_file():
        raise ConfigError(f"mesh: {config.mesh} does not exist")
    _check_vllm()
    unknown = sorted(config.max_fraction.keys() - REASONS.keys())
    if unknown:
        raise ConfigError(f"max_fraction: unknown reason {unknown[0]!r}; allowed: {', '.join(REASONS)}")
    if config.from_run is None and len(config.stages) < len(STEPS):
        raise ConfigError(f"stages: {list(config.stages)} need the records of another run; give it as from=")
    config = replace(config, model=found_models(config))
    _check_weights(config.model, make_stages(config))
    return config


def check_judge(config: CompareConfig) -> CompareConfig:
    """The configuration with the judge's model found; what cannot be run is refused."""
    _check_vllm()
    config = replace(config, model=_found(config.model, {"judge"}))
    _check_weights(config.model, [judge_stage(config.model)])
    return config


def _check_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vllm is not installed: pip install '.[cpu]' or, for GPUs, pip install '.[gpu]'")


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


def found_models(config: Layout) -> Model:
    """The same models, checked; local paths are made absolute, as actors have other working folders."""
    return _found(config.model, {agent for stage in make_stages(config) for agent in stage.agents})


def _found(model: Model, used: set[str]) -> Model:
    """The models that these agents use, checked."""
    _check_engine_arguments("model.engine", model.engine)
    if model.path and any(getattr(model, name).path is None for name in used):
        model = found_model(model, "model.path")
    for name in sorted(used):
        agent = getattr(model, name)
        _check_engine_arguments(f"model.{name}.engine", agent.engine)
        if agent.path:
            agent = found_model(agent, f"model.{name}.path")
        if agent.adapter:
            agent = replace(agent, adapter=found_adapter(agent.adapter, f"model.{name}.adapter"))
            _check_trained(agent, name)
        model = replace(model, **{name: agent})
    return model


def _check_weights(model: Model, stages: Iterable[Stage]) -> None:
    for stage in stages:
        if stage.engine.args.get("load_format", "safetensors") == "safetensors":
            own = [name for name in stage.agents if getattr(model, name).path]
            check_files(f"model.{own[0]}.path" if own else "model.path", stage.engine.path)


def check_files(key: str, path: str) -> None:
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


TRAINED_FOR = {
    "general": ("question", "dpo"),
    "biomedical": ("question", "dpo"),
    "judge": ("judge",),
    "answer": (),
}
"""Tasks of ``train`` whose adapters are of use to an agent."""


def _check_trained(agent: Agent, name: str) -> None:
    """Raise ``ConfigError`` if an adapter that ``train`` made was made for another agent, or on other prompts."""
    note = Path(agent.adapter or "", "manifest.json")
    made = read_json(note) if note.is_file() else {}
    if made.get("kind") != "adapter":
        return
    if made["task"] not in TRAINED_FOR[name]:
        allowed = " or ".join(TRAINED_FOR[name]) or "none of train's: they are agents, or models of your own"
        raise ConfigError(f"model.{name}.adapter: {agent.adapter} was trained as {made['task']}; allowed: {allowed}")
    if agent.examples:
        raise ConfigError(
            f"model.{name}.examples: true, but {agent.adapter} was trained without the worked examples; give "
            f"model.{name}.examples=false"
        )


def found_adapter(path: str, key: str) -> str:
    """The absolute path of a LoRA adapter's directory. Raises ``ConfigError`` if it is none."""
    for needed in ("adapter_config.json", "adapter_model.safetensors"):
        if not Path(path, needed).is_file():
            raise ConfigError(f"{key}: {path} is not a LoRA adapter's directory: it has no {needed}")
    return str(Path(path).absolute())


def found_encoder(encoder: Encoder) -> Encoder:
    """The same encoder, its models checked and pinned. Raises ``ConfigError``, also if the two do not fit together."""
    encoder = found_model(encoder, "encoder.path")
    check_files("encoder.path", encoder.path)
    if encoder.query:
        encoder = replace(encoder, query=found_model(encoder.query, "encoder.query.path"))
    asked = encoder.query or encoder
    check_files("encoder.query.path" if encoder.query else "encoder.path", asked.path)
    dimension = _dimension(encoder, encoder, "encoder.max_length", encoder.max_length)
    others = _dimension(encoder, asked, "encoder.query_max_length", encoder.query_max_length)
    if dimension and others and dimension != others:
        raise ConfigError(
            f"encoder.query.path: {asked.path} gives vectors of {others} dimensions, encoder.path {encoder.path} of "
            f"{dimension}; they are compared, so they must be of one model pair"
        )
    return encoder


def _dimension(encoder: Encoder, model: Encoder | QueryModel, key: str, length: int) -> int | None:
    """Of a model's vectors; None where its files do not say. Raises ``ConfigError`` for what it cannot do."""
    config = _model_json(model, "config.json")
    check_length(key, length, model.path, config)
    if encoder.pooling is None:
        modules = _model_json(model, "modules.json")
        if modules is None:
            raise ConfigError(
                f"encoder.pooling: null, but {model.path} has no modules.json that says how; give mean or cls"
            )
        if {str(module.get("type")).rpartition(".")[2] for module in modules} - {"Transformer", "Pooling", "Normalize"}:
            return None
    return next((config[name] for name in ("hidden_size", "d_model", "dim") if name in config), None)


def _model_json(model: Encoder | QueryModel, name: str) -> Any:
    """A JSON file of a model's, None where it has none."""
    file = Path(model.path, name)
    if not Path(model.path).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            file = Path(hf_hub_download(model.path, name, revision=model.revision))
        except EntryNotFoundError:
            return None
    return read_json(file) if file.is_file() else None


def _check_index(config: DistillConfig, index: dict[str, Any]) -> None:
    """Raise ``ConfigError`` for an index of which a file is missing or not as long as it was made, or a part."""
    folder = config.index
    if "files" not in index:
        raise ConfigError(f"index: {folder} was made by an earlier version of kailin_ray; index anew")
    if config.retrieval.lexical_weight and not index["lexical"]:
        raise ConfigError(
            f"retrieval.lexical_weight: {folder} has no index of words; `index` with lexical=true adds one"
        )
    for name, size in index["files"].items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            held = "is missing" if found is None else f"has {found:,} bytes, not {size:,}"
            raise ConfigError(f"index: {file} {held}: the index is damaged; index anew")


def check_encoder(config: DistillConfig, index: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if the index's encoder of questions, which alone is needed, is not at hand any more."""
    from kailin_ray.retrieval.job import recorded_encoder

    encoder = recorded_encoder(index)
    asked, part = (encoder.query, "query") if encoder.query else (encoder, "model")
    _check_model(f"index: {config.index} was made with an encoder that is needed", asked.path, asked.revision)
    check_files("index", asked.path)
    if model_identity(asked.path, asked.revision) != index["made_from"]["encoder"][part]:
        raise ConfigError(f"index: {config.index} was made with {asked.path}, which has changed since; index anew")


def _check_clean(config: DistillConfig, documents: dict[str, Any], index: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if contexts could bring back what the documents were cleaned of."""
    cleaned = index.get("benchmarks", {})
    missing = [Path(name).name for checksum, name in documents.get("benchmarks", {}).items() if checksum not in cleaned]
    if missing:
        raise ConfigError(
            f"index: {config.index} was made of documents that may hold texts of {', '.join(missing)}, of which "
            f"{config.documents} was cleaned; index documents that were cleaned of them too"
        )


def found_model(model: M, key: str) -> M:
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
