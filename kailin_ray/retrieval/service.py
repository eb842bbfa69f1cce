"""Start and stop the retriever actors of stages that run at the same time."""

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
    """Yield the retrievers of the stages ``plan.phases[number]`` and stop them after the block.

    Retrievers that are ``given`` are used instead, without ``index``, and are not stopped. The list is empty if these
    stages need no retrievers.
    """
    machines = plan.retrievers[number]
    if given is not None:
        yield list(given) if machines else []
        return
    if index is None:
        raise ValueError("an index or retrievers must be given")
    # They start while the engines start, so they are awaited there (Searcher).
    threads = retriever_threads(plan, number)
    retrievers = [start_retriever(config, index, *placement) for placement in zip(machines, threads, strict=True)]
    try:
        yield retrievers
    finally:
        for retriever in retrievers:
            ray.kill(retriever)  # frees its resources for the next stages


def start_retriever(config: DistillConfig, index: Index, machine: str | None, threads: int) -> Any:
    """Start a retriever actor on the index, with the encoder that built it; ``machine`` is None for any machine."""
    encoder = resolve_recorded_encoder(index)
    gpus = config.cluster.gpus_per_encoder
    # Ray restarts the process but does not retry its calls: a retry would wait for the restart. See Searcher.
    options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "max_concurrency": 1_000, "max_restarts": -1}
    # Ray allows one thread to an actor that holds no CPU; the encoder and the search use more.
    options["runtime_env"] = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    if machine:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine, soft=True)
    absolute_index = replace(index, path=index.path.absolute())
    return ray.remote(**options)(Retriever).remote(absolute_index, encoder, gpus > 0, config.retrieval)
