"""Checks of what a configuration names, before Ray or a model starts: models, adapters, encoders, folders."""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kailin_ray.agents.prompts import Message
from kailin_ray.agents.samples import answer_samples, judge_samples, question_samples
from kailin_ray.config import Agent, Agents, CompareConfig, DistillConfig, Layout, Model
from kailin_ray.corpus.documents import Documents
from kailin_ray.dataset.run import Run
from kailin_ray.engines.adapters import Adapter, find_trained
from kailin_ray.engines.models import (
    check_engine_arguments,
    check_files,
    check_model,
    model_identity,
    resolve_adapter,
    resolve_model,
)
from kailin_ray.errors import ConfigError
from kailin_ray.io.storage import check_access
from kailin_ray.planning.stages import Stage, judge_stage, make_stages
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.schema import REASONS, STEPS


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of a run. They are opened once and passed on."""

    documents: Documents
    index: Index
    source: Run | None
    """The run of ``from``, whose records are the start of this run."""
    trained: Mapping[str, Adapter]
    """See ``open_trained_adapters``."""


def open_inputs(config: DistillConfig, source: Run | None = None) -> Inputs:
    """Open the inputs of a run; ``source`` is the run of ``from`` if it is open already.

    Raises ``ConfigError`` for an input that does not exist or is of the wrong kind.
    """
    for key in ("documents", "out", "from_run"):
        check_access(key.removesuffix("_run"), getattr(config, key))
    return Inputs(
        documents=Documents.open(config.documents),
        index=Index.open(config.index),
        source=Run.open(config.from_run, "from") if config.from_run and not source else source,
        trained=open_trained_adapters(config.model, make_stages(config)),
    )


def check_run(config: DistillConfig, opened: Inputs) -> DistillConfig:
    """Return the configuration with its models resolved. Raises ``ConfigError`` for what cannot be run."""
    if config.evaluation.method == "rule" and not opened.documents.manifest.num_with_mesh:
        raise ConfigError(f"documents: {config.documents} has no document with MeSH headings; the MeSH rule needs them")
    if "source" not in config.answer.shown and config.retrieval.exclude_source:
        raise ConfigError(
            "answer.shown: [contexts] shows the source abstract only if retrieval finds it, but "
            "retrieval.exclude_source=true leaves it out; set retrieval.exclude_source=false"
        )
    _check_index(config, opened.index)
    check_encoder(opened.index)
    _check_clean(opened.documents, opened.index)
    if not config.mesh.is_file():
        raise ConfigError(f"mesh: {config.mesh} does not exist")
    _check_vllm()
    unknown = sorted(config.max_fraction.keys() - REASONS.keys())
    if unknown:
        raise ConfigError(f"max_fraction: unknown reason {unknown[0]!r}; allowed: {', '.join(REASONS)}")
    if config.from_run is None and len(config.stages) < len(STEPS):
        raise ConfigError(f"stages: {list(config.stages)} need the records of another run; name it with from=")
    config = replace(config, model=resolve_models(config, opened.trained))
    _check_weights(config.model, make_stages(config))
    check_prompts(config, make_stages(config))
    return config


def check_judge(config: CompareConfig) -> CompareConfig:
    """Return the configuration with the judge's model resolved. Raises ``ConfigError`` for what cannot be run."""
    _check_vllm()
    stages = [judge_stage(config.model)]
    config = replace(
        config, model=_resolve_agents(config.model, {"judge"}, open_trained_adapters(config.model, stages))
    )
    _check_weights(config.model, stages)
    check_prompts(config, stages)
    return config


def _check_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError("vllm is not installed: pip install '.[cpu]' or, for GPUs, pip install '.[gpu]'")


def open_trained_adapters(model: Model, stages: Iterable[Stage]) -> dict[str, Adapter]:
    """Return the adapters that ``train`` created and that the stages use, by agent."""
    paths = {agent: getattr(model, agent).adapter for stage in stages for agent in stage.agents}
    adapters = {agent: find_trained(Path(path), f"model.{agent}.adapter") for agent, path in paths.items() if path}
    return {agent: adapter for agent, adapter in adapters.items() if adapter}


def resolve_models(config: Layout, trained: Mapping[str, Adapter]) -> Model:
    """Return the models, checked. Local paths become absolute, because actors have other working folders."""
    return _resolve_agents(config.model, {agent for stage in make_stages(config) for agent in stage.agents}, trained)


def _resolve_agents(model: Model, used: set[str], trained: Mapping[str, Adapter]) -> Model:
    """Return the models, with those that the agents ``used`` need checked and pinned."""
    check_engine_arguments("model.engine", model.engine)
    if model.path and any(getattr(model, name).path is None for name in used):
        model = resolve_model(model, "model.path")
    for name in sorted(used):
        agent = getattr(model, name)
        check_engine_arguments(f"model.{name}.engine", agent.engine)
        if agent.path:
            agent = resolve_model(agent, f"model.{name}.path")
        if agent.adapter:
            agent = replace(agent, adapter=resolve_adapter(agent.adapter, f"model.{name}.adapter"))
            if name in trained:
                _check_trained(agent, name, trained[name])
        model = replace(model, **{name: agent})
    return model


def _check_weights(model: Model, stages: Iterable[Stage]) -> None:
    for stage in stages:
        if stage.engine.args.get("load_format", "safetensors") == "safetensors":
            check_files(_path_key(model, stage), stage.engine.path)


def _path_key(model: Model, stage: Stage) -> str:
    """Return the key that names the model of a stage."""
    with_own_path = [name for name in stage.agents if getattr(model, name).path]
    return f"model.{with_own_path[0]}.path" if with_own_path else "model.path"


def check_prompts(config: Agents, stages: Iterable[Stage]) -> None:
    """Raise ``ConfigError`` for a model whose tokenizer or chat template cannot make the prompts of its agents."""
    from kailin_ray.engines.tokenizer import check_tokenizer  # here, as transformers takes seconds to import

    for stage in stages:
        prompts = [messages for agent in stage.agents for messages in sample_prompts(config, agent)]
        check_tokenizer(_path_key(config.model, stage), stage.engine, prompts)


def sample_prompts(config: Agents, agent: str) -> list[list[Message]]:
    """Return a sample of each prompt of an agent, as it is configured."""
    settings = getattr(config.model, agent)
    if agent == "judge":
        return judge_samples(settings.examples)
    if agent == "answer":
        return answer_samples(config.answer.shown, settings.examples)
    return question_samples(settings.persona, settings.examples)


TRAINED_FOR = {
    "general": ("question", "dpo"),
    "biomedical": ("question", "dpo"),
    "judge": ("judge",),
    "answer": (),
}
"""Tasks of ``train`` whose adapters an agent can use."""


def _check_trained(agent: Agent, name: str, trained: Adapter) -> None:
    """Raise ``ConfigError`` if an adapter was trained for another agent, or on other prompts."""
    task = trained.manifest.task
    if task not in TRAINED_FOR[name]:
        allowed = " or ".join(TRAINED_FOR[name]) or "none; train has no task for this agent"
        raise ConfigError(f"model.{name}.adapter: {agent.adapter} was trained as {task}; allowed: {allowed}")
    if agent.examples:
        raise ConfigError(
            f"model.{name}.examples: true, but {agent.adapter} was trained without the worked examples; set "
            f"model.{name}.examples=false"
        )


def _check_index(config: DistillConfig, index: Index) -> None:
    """Raise ``ConfigError`` if files of the index are missing or damaged, or if it lacks a needed lexical index."""
    if config.retrieval.lexical_weight and not index.manifest.lexical:
        raise ConfigError(
            f"retrieval.lexical_weight: {index.path} has no lexical index; `index` with lexical=true adds one"
        )
    for name, size in index.manifest.files.items():
        file = index.path / name
        actual_size = file.stat().st_size if file.is_file() else None
        if actual_size != size:
            problem = "is missing" if actual_size is None else f"has {actual_size:,} bytes, not {size:,}"
            raise ConfigError(f"index: {file} {problem}: the index is damaged; rebuild it")


def check_encoder(index: Index) -> None:
    """Raise ``ConfigError`` if the index's question encoder is missing or has changed. No other encoder is needed."""
    from kailin_ray.retrieval.indexing.job import resolve_recorded_encoder

    encoder = resolve_recorded_encoder(index)
    model, key = (encoder.query, "query") if encoder.query else (encoder, "model")
    check_model(f"index: {index.path} needs its encoder", model.path, model.revision)
    check_files("index", model.path)
    if model_identity(model.path, model.revision) != index.manifest.made_from.encoder[key]:
        raise ConfigError(f"index: {index.path} was made with {model.path}, which has changed since; rebuild the index")


def _check_clean(documents: Documents, index: Index) -> None:
    """Raise ``ConfigError`` if contexts may contain benchmark text that the documents were cleaned of."""
    cleaned_of, cleaned = documents.manifest.benchmarks, index.manifest.benchmarks
    missing = [Path(name).name for checksum, name in cleaned_of.items() if checksum not in cleaned]
    if missing:
        raise ConfigError(
            f"index: {index.path} was made from documents that may contain text of {', '.join(missing)}, but "
            f"{documents.path} was cleaned of it; index documents that were cleaned of it too"
        )
