"""Find, check and pin the models and adapters that a configuration names."""

import difflib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from kailin_ray.config import Agent, Encoder, Model, QueryModel, TrainedModel
from kailin_ray.engines.weights import find_incomplete
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, sha256
from kailin_ray.schema import Json


def model_identity(path: str, revision: str | None, checksum: Callable[[Path], str] = sha256) -> str:
    """Return what identifies a model at any path: the checksum of a local directory, or a hub id with its revision."""
    return checksum(Path(path)) if Path(path).is_dir() else f"{path}@{revision or 'main'}"


M = TypeVar("M", Model, Agent, Encoder, QueryModel, TrainedModel)


# The common engine arguments of vLLM. Any other is looked up in vLLM itself, whose import takes ten seconds.
_USUAL = frozenset(
    (
        "block_size", "distributed_executor_backend", "dtype", "enable_prefix_caching", "enforce_eager",
        "gpu_memory_utilization", "kv_cache_dtype", "kv_cache_memory_bytes", "language_model_only", "load_format",
        "max_model_len", "max_num_batched_tokens", "max_num_seqs", "pipeline_parallel_size", "quantization", "seed",
        "tensor_parallel_size", "trust_remote_code",
    )
)  # fmt: skip


def check_engine_arguments(key: str, given: Json) -> None:
    """Raise ``ConfigError`` for arguments that vLLM's engine does not have."""
    if given.get("data_parallel_size", 1) != 1:
        raise ConfigError(f"{key}.data_parallel_size: the number of engines is set by cluster.num_engines and the plan")
    unusual = set(given) - _USUAL
    # A plan can be made on a machine without vLLM; vLLM checks the arguments when it starts.
    if not unusual or importlib.util.find_spec("vllm") is None:
        return
    from kailin_ray.engines.vllm_engine import argument_names, reasoning_parsers

    for name in sorted(unusual - argument_names()):
        close = difflib.get_close_matches(name, argument_names() | _USUAL, n=3)
        raise ConfigError(f"{key}.{name}: not an engine argument of vLLM; similar: {', '.join(close) or 'none'}")
    parser = given.get("reasoning_parser")
    if parser and parser not in reasoning_parsers():
        raise ConfigError(f"{key}.reasoning_parser: {parser!r}; allowed: {', '.join(sorted(reasoning_parsers()))}")


def check_files(key: str, path: str) -> None:
    """Raise ``ConfigError`` for a directory without whole safetensors, or with modules that need their own code."""
    if not Path(path).is_dir():
        return  # a hub model, for which the loaders check the same
    if not any(Path(path).rglob("*.safetensors")):
        pickled = sorted(file.name for file in Path(path).iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        only = f", only {', '.join(pickled[:3])}" if pickled else ""
        raise ConfigError(
            f"{key}: {path} has no *.safetensors{only}: pickled weights can run code and are "
            "not loaded; save the model as safetensors"
        )
    if fault := find_incomplete(Path(path)):
        raise ConfigError(f"{key}: {path}: {fault}; download the model again")
    modules = Path(path, "modules.json")  # written by sentence-transformers
    for module in read_json(modules) if modules.is_file() else []:
        if not str(module.get("type")).startswith("sentence_transformers."):
            raise ConfigError(f"{key}: {path} names the module {module.get('type')!r}: a model's own code is not run")


def resolve_adapter(path: str, key: str) -> str:
    """Return the absolute path of a LoRA adapter's directory. Raises ``ConfigError`` if it is not one."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not Path(path, name).is_file():
            raise ConfigError(f"{key}: {path} is not a LoRA adapter's directory: it has no {name}")
    if fault := _find_unserved_feature(path):
        raise ConfigError(f"{key}: {path}: vLLM cannot serve it: {fault}")
    return str(Path(path).absolute())


def _find_unserved_feature(path: str) -> str | None:
    """Return why vLLM cannot serve an adapter (vLLM 0.32, ``lora/peft_helper.py``), None if it can."""
    try:
        config = read_json(Path(path, "adapter_config.json"))
        ranks = adapter_ranks(config)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its adapter_config.json is damaged: {type(error).__name__}: {error}"
    if config.get("peft_type", "LORA") != "LORA":
        return f"it is of the type {config['peft_type']}, not LORA"
    for name, what in _UNSERVED.items():
        if config.get(name) not in (None, False, "none", [], {}):
            return f"{name}={config[name]!r}: {what}"
    if not isinstance(config.get("init_lora_weights", True), bool) and config["init_lora_weights"] not in _PLAIN_INITS:
        return f"init_lora_weights={config['init_lora_weights']!r}: it changes the model's own weights"
    if max(ranks) > MAX_RANK:
        return f"its rank is {max(ranks)}; allowed: up to {MAX_RANK}"
    return None


def adapter_ranks(config: Json) -> list[int]:
    """Return the ranks in the configuration of a LoRA adapter: its own (PEFT's default is 8), and those of layers."""
    return [int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())]


MAX_RANK = 512
"""The highest rank of an adapter that vLLM serves."""
_UNSERVED = {
    "modules_to_save": "it holds whole layers; merge it into the model",
    "use_dora": "DoRA",
    "bias": "it has biases",
    "lora_bias": "it has biases",
    "alora_invocation_tokens": "Activated LoRA",
    "layer_replication": "it repeats layers",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")


def model_json(path: str, revision: str | None, name: str) -> Any:
    """Return the content of a model's JSON file; None if the model has no such file."""
    file = Path(path, name)
    if not Path(path).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            file = Path(hf_hub_download(path, name, revision=revision))
        except EntryNotFoundError:
            return None
    return read_json(file) if file.is_file() else None


def resolve_model(model: M, key: str) -> M:
    """Return the model or encoder, checked and pinned.

    A local path becomes absolute, because actors have other working folders. A hub revision becomes its commit, so that
    every machine and every session uses the same model.
    """
    assert model.path
    commit = check_model(key, model.path, model.revision)
    return replace(model, revision=commit) if commit else replace(model, path=str(Path(model.path).absolute()))


def check_model(key: str, path: str, revision: str | None) -> str | None:
    """Return the commit of a hub model, None for a directory. Raises ``ConfigError`` if it is not available."""
    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            raise ConfigError(f"{key}: {path} is not a model directory: it has no config.json")
        return None
    fault = "not a hub id either (owner/name)"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path):
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(path, "config.json", revision=revision)).parent.name  # snapshots/<commit>/
        except Exception as error:  # whatever the hub's client raises, the model is not available
            fault = f"the hub does not provide it ({type(error).__name__})"
    raise ConfigError(f"{key}: {path}: no such directory, and {fault}; `fetch` downloads the demo's models")
