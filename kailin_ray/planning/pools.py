"""One replica of a stage: what it holds, in bytes, and what an abstract costs it, in tokens.

Raises for a model that fits nowhere, with the arithmetic, before anything starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kailin_ray.config import Agents
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.model_size import ModelSize, model_size
from kailin_ray.errors import ConfigError
from kailin_ray.planning.stages import QUESTION_AGENTS, Stage

GIB = 2**30
GPU_MEMORY_UTILIZATION = 0.92
"""vLLM's default."""
RUNTIME_GIB = 2.0
"""What a GPU holds beside weights and cache: activations, CUDA graphs, the context."""

# Expected tokens of an abstract's calls. Measured with SmolLM2's tokenizer on the demo: 1.46 tokens a word, 521 tokens
# of preamble. Abstracts of today with their titles have about 230 words (those of the demo, of 1979, 147).
TOKENS_PER_WORD = 1.5
DOCUMENT_WORDS = 230
PREAMBLE_TOKENS = 550
TASK_TOKENS = 40
COMPLETION_SHARE = 0.4
"""Of max_tokens; the demo's agents use 0.36 to 0.43."""
DECODE_COST = 4.0
"""A generated token costs as much as so many tokens of a prompt that are read at once."""


@dataclass(frozen=True)
class Node:
    """A machine."""

    cpus: float
    memory_gib: float
    gpus: float = 0
    gpu_memory_gib: float = 0.0
    identity: str | None = field(default=None, compare=False)
    """Ray's id of it; None for one that is only described."""


@dataclass(frozen=True)
class Demand:
    """What one actor holds on one machine."""

    cpus: float
    memory_gib: float = 0.0
    gpus: float = 0
    gpu_memory_gib: float = 0.0
    """That each of its GPUs must have."""


@dataclass(frozen=True)
class Call:
    """Tokens that an agent's calls about one abstract are expected to take."""

    prompt: int
    """Of the longest call."""
    fresh: int
    """Of all calls, what no earlier call of the same stage has read."""
    completion: float
    most: int
    """Tokens that the longest call may write."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A stage's replicas, and what each of them holds."""

    stage: Stage
    size: ModelSize
    calls: dict[str, Call]
    max_length: int
    """Tokens of prompt and completion that the engine takes."""
    weights_gib: float
    """On each GPU, or in a machine's memory."""
    cache_gib: float
    room: int
    """Longest calls whose cache a replica holds at once, none of it shared."""
    demand: Demand
    replicas: int = 1
    machines: tuple[str | None, ...] = ()
    """Of each replica."""

    @property
    def work(self) -> float:
        """GPU time of an abstract, in units that compare stages: parameters met, times tokens, over GPUs."""
        tokens = sum(call.fresh + DECODE_COST * call.completion for call in self.calls.values())
        return self.size.num_active * tokens / max(1, self.demand.gpus)


def make_pool(config: Agents, stage: Stage, nodes: Sequence[Node]) -> Pool:
    """One replica of a stage. Raises ``ConfigError`` if no machine can hold it, or its prompts do not fit its model."""
    engine, cluster = stage.engine, config.cluster
    key = f"model.{stage.agents[0]}"
    size = _size(engine, key)
    calls = estimate_calls(config, stage)
    max_length = _max_length(engine, size, key, calls)
    if cluster.device == "gpu":
        weights, cache, memory = _on_gpus(engine, size, nodes, key, max_length)
        demand = Demand(cluster.cpus_per_engine, gpus=engine.num_gpus, gpu_memory_gib=memory)
    else:
        weights, cache = _on_cpus(engine, size, nodes, key, max_length)
        demand = Demand(cluster.cpus_per_engine, memory_gib=weights + cache)
    longest = size.kv_bytes(max(int(call.prompt + call.completion) for call in calls.values()))
    return Pool(
        stage=stage,
        size=size,
        calls=calls,
        max_length=max_length,
        weights_gib=weights,
        cache_gib=cache,
        room=int(cache * GIB * _kv_shards(engine, size) / max(1, longest)),
        demand=demand,
    )


def _size(engine: EngineSpec, key: str) -> ModelSize:
    try:
        return model_size(engine)
    except Exception as error:  # whatever a model's own code raises, it cannot be planned
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"{key}: the size of {engine.path} cannot be told from its config.json: {said}") from error


def estimate_calls(config: Agents, stage: Stage) -> dict[str, Call]:
    """What the agents of a stage are expected to read and write for one abstract."""
    retrieval, evaluation, model = config.retrieval, config.evaluation, config.model
    document = int(DOCUMENT_WORDS * TOKENS_PER_WORD)
    words = min(retrieval.max_context_words or DOCUMENT_WORDS, DOCUMENT_WORDS)
    contexts = int(retrieval.top_k * words * TOKENS_PER_WORD)
    base = PREAMBLE_TOKENS + document + TASK_TOKENS
    calls: dict[str, Call] = {}
    read_by: set[str | None] = set()
    for agent in stage.agents:
        # The preamble is in the cache once the first abstract was read; the abstract after its first call here. What
        # one adapter has read is of no use to another.
        adapter = getattr(model, agent).adapter
        abstract = 0 if adapter in read_by else document
        read_by.add(adapter)
        if agent in QUESTION_AGENTS:
            most = getattr(model, agent).sampling.max_tokens
            calls[agent] = Call(base, abstract + TASK_TOKENS, most * COMPLETION_SHARE, most)
        elif agent == "judge":
            pairwise = evaluation.judge.form == "pairwise"
            shown = 2 * contexts if pairwise else contexts
            calls[agent] = Call(base + shown, abstract + 2 * (shown + TASK_TOKENS), 2, 1)
        else:
            judged = "judge" in calls and evaluation.judge.form == "pointwise" and not abstract
            most = model.answer.sampling.max_tokens
            asked = most * COMPLETION_SHARE
            fresh = abstract + (0 if judged else contexts) + 2 * TASK_TOKENS
            calls[agent] = Call(base + contexts, int(fresh + asked), asked + 1, most)
    return calls


def _max_length(engine: EngineSpec, size: ModelSize, key: str, calls: dict[str, Call]) -> int:
    given = engine.args.get("max_model_len")
    if isinstance(given, int) and given > size.max_length:
        raise ConfigError(
            f"{key}: max_model_len {given:,} is longer than the {size.max_length:,} tokens of {engine.path} "
            "(max_position_embeddings in its config.json)"
        )
    length = given if isinstance(given, int) and given > 0 else size.max_length
    document = int(DOCUMENT_WORDS * TOKENS_PER_WORD)
    for agent, call in calls.items():
        needed = call.prompt + call.most
        if needed > length:
            contexts = call.prompt - PREAMBLE_TOKENS - TASK_TOKENS - document
            parts = {"preamble": PREAMBLE_TOKENS, "abstract": document, "contexts": contexts, "task": TASK_TOKENS}
            parts["completion"] = call.most
            sums = " + ".join(f"{tokens:,} ({part})" for part, tokens in parts.items())
            raise ConfigError(
                f"{key}: the {agent} agent's prompt of about {sums} = {needed:,} tokens is longer than the {length:,} "
                f"of {engine.path}; lower retrieval.top_k, retrieval.max_context_words or max_tokens, or raise "
                "max_model_len"
            )
    return length


def _kv_shards(engine: EngineSpec, size: ModelSize) -> int:
    tensor, pipeline = (int(engine.args.get(f"{kind}_parallel_size", 1)) for kind in ("tensor", "pipeline"))
    return min(tensor, size.num_kv_heads) * pipeline


def _on_gpus(
    engine: EngineSpec, size: ModelSize, nodes: Sequence[Node], key: str, max_length: int
) -> tuple[float, float, float]:
    """GiB of weights and of KV cache on each GPU of a replica, and of memory that the GPU must have."""
    gpus = engine.num_gpus
    most = max(node.gpus for node in nodes)
    if gpus > most:
        raise ConfigError(
            f"{key}: an engine of {engine.path} takes {gpus} GPU{'s' * (gpus > 1)} of one machine "
            f"(tensor_parallel_size x pipeline_parallel_size); the largest has {most:g}"
        )
    share = float(engine.args.get("gpu_memory_utilization", GPU_MEMORY_UTILIZATION))
    weights = size.weight_bytes / GIB / gpus
    one = size.kv_bytes(max_length) / GIB / _kv_shards(engine, size)
    given = float(engine.args.get("kv_cache_memory_bytes") or 0) / GIB
    memories = sorted({node.gpu_memory_gib for node in nodes if node.gpus >= gpus})
    for memory in memories:
        cache = given or memory * share - weights - RUNTIME_GIB
        if cache >= one and weights + RUNTIME_GIB + cache <= memory:
            return weights, cache, memory
    memory = memories[-1]
    enough = (n for n in (2, 4, 8) if gpus < n <= most and _fits(size, memory * share, n, max_length))
    wider = next((f"; tensor_parallel_size={n} would do" for n in enough), "")
    raise ConfigError(
        f"{key}: {engine.path} does not fit: {size.num_parameters / 1e9:.1f} B parameters are "
        f"{size.weight_bytes / GIB:.1f} GiB of weights, on {gpus} GPU{'s' * (gpus > 1)} {weights:.1f} each; with "
        f"{RUNTIME_GIB:g} for activations and {max(one, given):.1f} of KV cache for {max_length:,} tokens that is "
        f"{weights + RUNTIME_GIB + max(one, given):.1f} GiB; a GPU has {memory:g} x {share:g} = {memory * share:.1f}"
        f"{wider}"
    )


def _fits(size: ModelSize, room_gib: float, gpus: int, max_length: int) -> bool:
    cache = size.kv_bytes(max_length) / min(gpus, size.num_kv_heads)
    return size.weight_bytes / gpus + cache <= (room_gib - RUNTIME_GIB) * GIB


def _on_cpus(
    engine: EngineSpec, size: ModelSize, nodes: Sequence[Node], key: str, max_length: int
) -> tuple[float, float]:
    """GiB of weights and of KV cache in a machine's memory."""
    weights, one = size.weight_bytes / GIB, size.kv_bytes(max_length) / GIB
    given = engine.args.get("kv_cache_memory_bytes")
    if not given:
        raise ConfigError(
            f"{key}: on CPUs the engine of {engine.path} needs kv_cache_memory_bytes, such as "
            "+model.engine.kv_cache_memory_bytes=4294967296: without it vLLM takes nearly all of a machine's memory"
        )
    cache = float(given) / GIB
    most = max(node.memory_gib for node in nodes)
    if cache < one:
        raise ConfigError(
            f"{key}: kv_cache_memory_bytes of {cache:.2f} GiB holds less than one text of max_model_len {max_length:,} "
            f"tokens, which takes {one:.2f} GiB"
        )
    if weights + cache > most:
        raise ConfigError(
            f"{key}: {engine.path} does not fit: {size.num_parameters / 1e9:.1f} B parameters are {weights:.1f} GiB of "
            f"weights, with {cache:.1f} GiB of KV cache {weights + cache:.1f} GiB; the largest machine has {most:.1f}"
        )
    return weights, cache
