"""Compute what one replica of a stage holds, in bytes, and what an abstract costs it, in tokens.

A model that fits nowhere is refused with the arithmetic, before anything starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kailin_ray.config import Agents
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.model_size import ModelSize, model_size
from kailin_ray.errors import ConfigError
from kailin_ray.planning.concurrency import Concurrency, plan_concurrency
from kailin_ray.planning.stages import QUESTION_AGENTS, Stage

GIB = 2**30
GPU_MEMORY_UTILIZATION = 0.92
"""vLLM's default."""
RUNTIME_GIB = 2.0
"""GPU memory besides weights and cache: activations, CUDA graphs, the CUDA context."""

# Expected tokens of an abstract's calls. With SmolLM2's tokenizer the demo has 1.46 tokens a word and 521 tokens of
# preamble. A recent abstract with its title has about 230 words; in the demo, which is from 1979, it has 147.
TOKENS_PER_WORD = 1.5
DOCUMENT_WORDS = 230
PREAMBLE_TOKENS = 550
TASK_TOKENS = 40
COMPLETION_SHARE = 0.4
"""Share of max_tokens that a completion uses; the demo's agents use 0.36 to 0.43."""
DECODE_COST = 4.0
"""A generated token costs as much as this many prompt tokens, which are read at once."""


@dataclass(frozen=True)
class Node:
    """A machine."""

    cpus: float
    memory_gib: float
    gpus: float = 0
    gpu_memory_gib: float = 0.0
    identity: str | None = field(default=None, compare=False)
    """Ray's id of the machine; None for a machine that is only described."""


@dataclass(frozen=True)
class Demand:
    """The resources that one actor holds on one machine."""

    cpus: float
    memory_gib: float = 0.0
    gpus: float = 0
    gpu_memory_gib: float = 0.0
    """Memory that each of its GPUs must have."""


@dataclass(frozen=True)
class Call:
    """Expected tokens of an agent's calls about one abstract."""

    prompt: int
    """Prompt tokens of the longest call."""
    fresh: int
    """Prompt tokens of all calls that no earlier call of the same stage has read."""
    completion: float
    most: int
    """The most tokens that the longest call may write."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The replicas of a stage, and what each replica holds."""

    stage: Stage
    """With the engine's arguments that the plan adds."""
    size: ModelSize
    calls: dict[str, Call]
    max_length: int
    """Tokens of prompt and completion that the engine accepts."""
    weights_gib: float
    """On each GPU, or in a machine's memory."""
    cache_gib: float
    concurrency: Concurrency
    demand: Demand
    replicas: int = 1
    machines: tuple[str | None, ...] = ()
    """The machine of each replica."""

    @property
    def work(self) -> float:
        """GPU time of an abstract, in units for comparing stages: active parameters times tokens, over GPUs."""
        tokens = sum(call.fresh + DECODE_COST * call.completion for call in self.calls.values())
        return self.size.num_active * tokens / max(1, self.demand.gpus)


def make_pool(config: Agents, stage: Stage, nodes: Sequence[Node]) -> Pool:
    """Return a pool of one replica. Raises ``ConfigError`` if no machine can hold it or its prompts are too long."""
    engine, cluster = stage.engine, config.cluster
    key = f"model.{stage.agents[0]}"
    size = _size(engine if cluster.device == "gpu" else _with_cpu_dtype(engine), key)
    calls = estimate_calls(config, stage)
    max_length = _max_length(engine, size, key, calls)
    if cluster.device == "gpu":
        weights, cache, memory = _on_gpus(engine, size, nodes, key, max_length)
        demand = Demand(cluster.cpus_per_engine, gpus=engine.num_gpus, gpu_memory_gib=memory)
    else:
        weights, cache = _on_cpus(engine, size, nodes, key, max_length)
        demand = Demand(cluster.cpus_per_engine, memory_gib=weights + cache)
    cache_bytes = int(cache * GIB * _kv_shards(engine, size))
    concurrency = plan_concurrency(cluster, engine, size, cache_bytes, *_largest_call(calls))
    if cluster.device == "gpu":
        stage = replace(stage, engine=replace(engine, args=engine.args | {"max_num_seqs": concurrency.max_num_seqs}))
    return Pool(
        stage=stage,
        size=size,
        calls=calls,
        max_length=max_length,
        weights_gib=weights,
        cache_gib=cache,
        concurrency=concurrency,
        demand=demand,
    )


def _with_cpu_dtype(engine: EngineSpec) -> EngineSpec:
    """Return the engine with the type of its weights and cache on a CPU like this machine's."""
    from kailin_ray.engines.cpu import choose_dtype  # here, as torch takes seconds to import

    return replace(engine, args=engine.args | {"dtype": choose_dtype(str(engine.args.get("dtype", "auto")))})


def _size(engine: EngineSpec, key: str) -> ModelSize:
    try:
        return model_size(engine)
    except Exception as error:  # whatever a model's own code raises, the model cannot be planned
        message = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{key}: the size of {engine.path} cannot be computed from its config.json: {message}"
        ) from error


def estimate_calls(config: Agents, stage: Stage) -> dict[str, Call]:
    """Return the tokens that a stage's agents are expected to read and write for one abstract."""
    retrieval, evaluation, model = config.retrieval, config.evaluation, config.model
    document = int(DOCUMENT_WORDS * TOKENS_PER_WORD)
    words = min(retrieval.max_context_words or DOCUMENT_WORDS, DOCUMENT_WORDS)
    contexts = int(retrieval.top_k * words * TOKENS_PER_WORD)
    base = PREAMBLE_TOKENS + document + TASK_TOKENS
    calls: dict[str, Call] = {}
    read_by: set[str | None] = set()
    for agent in stage.agents:
        # The cache holds the preamble after the first abstract, and an abstract after its first call here. One
        # adapter cannot use what another adapter has cached.
        adapter = getattr(model, agent).adapter
        abstract = 0 if adapter in read_by else document
        read_by.add(adapter)
        if agent in QUESTION_AGENTS:
            most = getattr(model, agent).sampling.max_tokens
            calls[agent] = Call(base, abstract + TASK_TOKENS, most * COMPLETION_SHARE, most)
        elif agent == "judge":
            pairwise = evaluation.judge.mode == "pairwise"
            shown = 2 * contexts if pairwise else contexts
            calls[agent] = Call(base + shown, abstract + 2 * (shown + TASK_TOKENS), 2, 1)
        else:
            judged = "judge" in calls and evaluation.judge.mode == "pointwise" and not abstract
            most = model.answer.sampling.max_tokens
            completion = most * COMPLETION_SHARE
            fresh = abstract + (0 if judged else contexts) + 2 * TASK_TOKENS
            calls[agent] = Call(base + contexts, int(fresh + completion), completion + 1, most)
    return calls


def _largest_call(calls: dict[str, Call]) -> tuple[str, int]:
    """Return the agent whose call fills the most cache, and the tokens of it that no other abstract's call shares.

    All calls share the preamble. The abstract counts: an earlier call of the same abstract has read it, but no call of
    another abstract has it in the cache.
    """
    own = {agent: int(call.prompt - PREAMBLE_TOKENS + call.completion) for agent, call in calls.items()}
    return max(own.items(), key=lambda item: item[1])


def _max_length(engine: EngineSpec, size: ModelSize, key: str, calls: dict[str, Call]) -> int:
    configured = engine.args.get("max_model_len")
    if isinstance(configured, int) and configured > size.max_length:
        raise ConfigError(
            f"{key}: max_model_len {configured:,} is longer than the {size.max_length:,} tokens of {engine.path} "
            "(max_position_embeddings in its config.json)"
        )
    length = configured if isinstance(configured, int) and configured > 0 else size.max_length
    document = int(DOCUMENT_WORDS * TOKENS_PER_WORD)
    for agent, call in calls.items():
        needed = call.prompt + call.most
        if needed > length:
            contexts = call.prompt - PREAMBLE_TOKENS - TASK_TOKENS - document
            terms = {"preamble": PREAMBLE_TOKENS, "abstract": document, "contexts": contexts, "task": TASK_TOKENS}
            terms["completion"] = call.most
            sums = " + ".join(f"{tokens:,} ({name})" for name, tokens in terms.items())
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
    """Return GiB of weights and of KV cache on each GPU of a replica, and of memory that each GPU must have."""
    gpus = engine.num_gpus
    most_gpus = max(node.gpus for node in nodes)
    if gpus > most_gpus:
        raise ConfigError(
            f"{key}: an engine of {engine.path} takes {gpus} GPU{'s' * (gpus > 1)} of one machine "
            f"(tensor_parallel_size x pipeline_parallel_size); the largest has {most_gpus:g}"
        )
    share = float(engine.args.get("gpu_memory_utilization", GPU_MEMORY_UTILIZATION))
    weights = size.weight_bytes / GIB / gpus
    one_text = size.kv_bytes(max_length) / GIB / _kv_shards(engine, size)
    configured = float(engine.args.get("kv_cache_memory_bytes") or 0) / GIB
    memories = sorted({node.gpu_memory_gib for node in nodes if node.gpus >= gpus})
    for memory in memories:
        cache = configured or memory * share - weights - RUNTIME_GIB
        if cache >= one_text and weights + RUNTIME_GIB + cache <= memory:
            return weights, cache, memory
    memory = memories[-1]
    enough = (n for n in (2, 4, 8) if gpus < n <= most_gpus and _fits(size, memory * share, n, max_length))
    wider = next((f"; tensor_parallel_size={n} would do" for n in enough), "")
    raise ConfigError(
        f"{key}: {engine.path} does not fit: {size.num_parameters / 1e9:.1f} B parameters are "
        f"{size.weight_bytes / GIB:.1f} GiB of weights, on {gpus} GPU{'s' * (gpus > 1)} {weights:.1f} each; with "
        f"{RUNTIME_GIB:g} for activations and {max(one_text, configured):.1f} of KV cache for {max_length:,} tokens "
        f"that is {weights + RUNTIME_GIB + max(one_text, configured):.1f} GiB; "
        f"a GPU has {memory:g} x {share:g} = {memory * share:.1f}{wider}"
    )


def _fits(size: ModelSize, room_gib: float, gpus: int, max_length: int) -> bool:
    cache = size.kv_bytes(max_length) / min(gpus, size.num_kv_heads)
    return size.weight_bytes / gpus + cache <= (room_gib - RUNTIME_GIB) * GIB


def _on_cpus(
    engine: EngineSpec, size: ModelSize, nodes: Sequence[Node], key: str, max_length: int
) -> tuple[float, float]:
    """Return GiB of weights and of KV cache in a machine's memory."""
    weights, one_text = size.weight_bytes / GIB, size.kv_bytes(max_length) / GIB
    configured = engine.args.get("kv_cache_memory_bytes")
    if not configured:
        raise ConfigError(
            f"{key}: on CPUs the engine of {engine.path} needs kv_cache_memory_bytes, such as "
            "+model.engine.kv_cache_memory_bytes=4294967296: without it vLLM takes nearly all of a machine's memory"
        )
    cache = float(configured) / GIB
    memory = max(node.memory_gib for node in nodes)
    if cache < one_text:
        raise ConfigError(
            f"{key}: kv_cache_memory_bytes of {cache:.2f} GiB holds less than one text of max_model_len {max_length:,} "
            f"tokens, which takes {one_text:.2f} GiB"
        )
    if weights + cache > memory:
        raise ConfigError(
            f"{key}: {engine.path} does not fit: {size.num_parameters / 1e9:.1f} B parameters are {weights:.1f} GiB of "
            f"weights, with {cache:.1f} GiB of KV cache {weights + cache:.1f} GiB; the largest machine has {memory:.1f}"
        )
    return weights, cache
