"""Start the retriever actors of a part and stop them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kailin_ray.config import DistillConfig
from kailin_ray.planning.plan import Plan, retriever_threads
from kailin_ray.retrieval.indexing.job import resolve_recorded_encoder
from kailin_ray.retrieval.retriever import Retriever
from kailin_ray.retrieval.search.folder import Index


@contextmanager
def retrieving(
    config: DistillConfig, index: Index | None, plan: Plan, number: int, given: Sequence[Any] | None
) -> Iterator[list[Any]]:
    """The retrievers of the part ``number``, from 0, ended with the block; or those given, if it has any.

    ``index`` is not needed where some are given.
    """
    machines = plan.retrievers[number]
    if given is not None:
        yield list(given) if machines else []
        return
    if index is None:
        raise ValueError("an index or retrievers must be given")
    # Not waited for here: they start while the engines do, and these wait for them (Searcher).
    threads = retriever_threads(plan, number)
    started = [start_retriever(config, index, *one) for one in zip(machines, threads, strict=True)]
    try:
        yield started
    finally:
        for one in started:
            ray.kill(one)  # so that the next part has what it held


def start_retriever(config: DistillConfig, index: Index, machine: str | None, threads: int) -> Any:
    """A retriever actor on the index, with the encoder that the index was made with; ``machine``: None for any."""
    encoder = resolve_recorded_encoder(index)
    gpus = config.cluster.gpus_per_encoder
    # Its process is started again; its calls are not repeated by Ray, which would wait for that: see Searcher.
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "max_concurrency": 1_000, "max_restarts": -1}
    # Of an actor that holds no CPU Ray says one thread, for the encoder and for the search.
    options["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    if machine:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine, soft=True)
    here = replace(index, path=index.path.absolute())
    return ray.remote(**options)(Retriever).remote(here, encoder, gpus > 0, config.retrieval)
