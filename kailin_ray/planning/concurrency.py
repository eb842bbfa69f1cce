"""Compute how many calls an engine runs at once, and how many abstracts it works on, from its KV cache.

Example: a cache of 111.8 GiB, and an answer agent whose call has 1,868 tokens of its own at 128 KiB a token. Nine
tenths of the cache hold 441 such calls: the engine runs 441 calls at once and works on 551 abstracts.
"""

from dataclasses import dataclass

from kailin_ray.config import Cluster
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.model_size import ModelSize

CACHE_SHARE = 0.9
"""Share of the KV cache that calls may fill. vLLM preempts a call if the cache is full, and reads its prompt again. The
rest holds the preamble, and abstracts that are longer than expected; vLLM also takes more memory for more calls."""
MOST_SEQS = 1024
"""vLLM's own limit for offline work on a GPU of 70 GB or more (``EngineArgs.get_batch_defaults``)."""
VLLM_SEQS = 128
"""The calls that an engine of this package runs at once if nothing is set: vLLM's limit for an ``AsyncLLM``."""
ROWS_PER_CALL = 1.25
"""An abstract has one call in the engine most of the time, two while both question agents ask, and none while it waits
for its contexts."""
MOST_ROWS = 1000
"""If an engine dies, it redoes up to one and a half times as many rows. Among fewer than 1,024 rows, a row that kills
engines is found when it has killed four (``distill/progress.py``); among more, five."""


@dataclass(frozen=True, kw_only=True)
class Concurrency:
    """How many calls and abstracts are in one engine at a time, and the numbers behind that."""

    agent: str
    """The agent whose call needs the most cache."""
    call_tokens: int
    """Tokens of that call which no other abstract's call shares."""
    call_bytes: int
    """Cache that these tokens fill, and the states of layers with linear attention."""
    cache_bytes: int
    """The KV cache of a replica, on all its GPUs."""
    num_calls: int
    """How many such calls the cache holds at once."""
    max_num_seqs: int
    """How many calls the engine runs at once."""
    max_concurrent_rows: int
    """How many abstracts the engine works on at once."""


def plan_concurrency(
    cluster: Cluster, engine: EngineSpec, size: ModelSize, cache_bytes: int, agent: str, call_tokens: int
) -> Concurrency:
    """Return the numbers for an engine; those that the configuration sets stay.

    All calls are counted as the largest one, ``call_tokens`` of ``agent``: the rows of a block move together, so at
    times nearly every call in the engine is of the same agent.
    """
    # With prefix caching, vLLM keeps a second state of a call, at the end of what is cached (``MambaSpec``).
    call_bytes = size.kv_bytes(call_tokens) + size.state_bytes
    num_calls = max(1, int(CACHE_SHARE * cache_bytes / max(1, call_bytes)))
    max_num_seqs = _number(engine, "max_num_seqs")
    if max_num_seqs is None and cluster.device == "gpu":
        # vLLM refuses a step that is too small for one token of each call.
        max_num_seqs = min(num_calls, MOST_SEQS, _number(engine, "max_num_batched_tokens") or MOST_SEQS)
    max_num_seqs = max_num_seqs or VLLM_SEQS
    rows = min(MOST_ROWS, int(ROWS_PER_CALL * min(num_calls, max_num_seqs)))
    return Concurrency(
        agent=agent,
        call_tokens=call_tokens,
        call_bytes=call_bytes,
        cache_bytes=cache_bytes,
        num_calls=num_calls,
        max_num_seqs=max_num_seqs,
        max_concurrent_rows=cluster.max_concurrent_rows or rows,
    )


def _number(engine: EngineSpec, argument: str) -> int | None:
    value = engine.args.get(argument)
    return value if isinstance(value, int) and value > 0 else None
