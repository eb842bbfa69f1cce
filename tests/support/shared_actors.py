"""Engines and retrievers that outlive the run that started them, for the runs of one Ray session.

They are the real ones, and a run asks them as it asks its own. What is left out is their start, which takes longer than
the run of a test.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from unittest.mock import patch

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from kailin_ray.comparison import judging
from kailin_ray.distill import pipeline
from kailin_ray.distill.actor import start_vllm
from kailin_ray.engines.interface import EngineDeadError, EngineSpec, Generation
from kailin_ray.io.terminal import send_output_to
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.service import start_retriever

NAMESPACE = "tests"
CACHE_BYTES = 512 << 20
"""Of each engine at most, whatever a run asks for: several of them live at once."""


class Host:
    """A Ray actor with a real engine, asked by many runs."""

    def __init__(self, spec: EngineSpec, log: Path):
        send_output_to(log)
        self._engine = start_vllm(spec)

    async def begin(self) -> None:
        """Return once the engine can serve; a run begins with an empty prefix cache, as on an engine of its own."""
        await self._engine._llm.reset_prefix_cache()

    async def stop(self) -> None:
        self._engine.shutdown()

    async def generate(self, *arguments: Any) -> Generation:
        return await self._engine.generate(*arguments)

    async def choose(self, *arguments: Any) -> Generation:
        return await self._engine.choose(*arguments)


class Borrowed:
    """An engine's face towards a run; what it raises is what the engine raised."""

    def __init__(self, host: Any):
        self._host = host

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Generation:
        return await self._given(self._host.generate.remote(messages, sampling, adapter))

    async def choose(self, messages: Any, words: Any, adapter: str | None = None) -> Generation:
        return await self._given(self._host.choose.remote(messages, words, adapter))

    def shutdown(self) -> None:
        """The engine lives on, for the next run."""

    async def _given(self, asked: Any) -> Generation:
        try:
            given: Generation = await asked
        except RayTaskError as error:
            if isinstance(error.cause, EngineDeadError):
                ray.kill(self._host)
            raise error.cause from error
        except RayActorError as error:
            raise EngineDeadError(str(error)) from error
        return given


@dataclass(frozen=True)
class SharedEngines:
    """Starts engines as ``start_vllm`` does, each of them once in a Ray session; their logs go to a folder."""

    logs: Path

    def __call__(self, spec: EngineSpec) -> Borrowed:
        cache = min(CACHE_BYTES, spec.args.get("kv_cache_memory_bytes") or CACHE_BYTES)
        spec = replace(spec, args=spec.args | {"kv_cache_memory_bytes": cache})
        asked = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True, default=str).encode()).hexdigest()[:12]
        threads = {
            key: os.environ[key] for key in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND") if key in os.environ
        }
        if "PYTEST_XDIST_WORKER" in os.environ:  # the other process wants a core too
            threads["OMP_NUM_THREADS"] = "1"
        host = ray.remote(Host).options(
            name=f"{spec.path} {asked}", namespace=NAMESPACE, get_if_exists=True, lifetime="detached", num_cpus=0,
            max_concurrency=1_000, runtime_env={"env_vars": threads},
        ).remote(spec, self.logs / f"{asked}.log")  # fmt: skip
        ray.get(host.begin.remote())
        return Borrowed(host)


def stop_engines(path: Path | None = None) -> None:
    """Stop the engines of a model that nobody else will ask for, or all of them."""
    for actor in ray.util.list_named_actors(all_namespaces=True) if ray.is_initialized() else []:
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(f"{path} " if path else ""):
            host = ray.get_actor(actor["name"], NAMESPACE)
            with suppress(RayError):  # it died before
                ray.get(host.stop.remote())
            ray.kill(host)


def end_session() -> None:
    """End this process's Ray session, and with it what its engines hold in memory."""
    stop_engines()
    ray.shutdown()


class SharedRetrievers:
    """Lends retrievers as ``retrieving`` does, each of them started once in a Ray session."""

    def __init__(self) -> None:
        self._started: dict[str, Any] = {}

    @contextmanager
    def __call__(
        self, config: Any, index: Index | None, plan: Any, number: int, given: Sequence[Any] | None
    ) -> Iterator[list[Any]]:
        machines = plan.retrievers[number]
        if given is not None:
            yield list(given) if machines else []
            return
        assert index is not None
        key = f"{config.index.absolute()} {config.retrieval} {index.manifest}"
        yield [self._one(f"{place} {key}", config, index) for place in range(len(machines))]

    def _one(self, key: str, config: Any, index: Index) -> Any:
        key += ray.get_runtime_context().get_node_id()  # another session has none of these, and jobs of the same ids
        if key not in self._started:
            self._started[key] = start_retriever(config, index, None, os.cpu_count() or 1)
        return self._started[key]


def end_session_after(done: CompletedProcess[str]) -> None:
    """End the Ray session if a command failed in it: what its Ray Data actors hold would lack the next one."""
    if done.returncode not in (0, 2):
        end_session()


@contextmanager
def sharing(engines: Callable[[EngineSpec], Any], retrievers: SharedRetrievers) -> Iterator[None]:
    """Inside the block runs of this process take these engines and retrievers."""
    with (
        patch.object(pipeline, "distill", partial(pipeline.distill, start_engine=engines)),
        patch.object(pipeline, "retrieving", retrievers),
        patch.object(judging, "judge_pairs", partial(judging.judge_pairs, start_engine=engines)),
    ):
        yield
