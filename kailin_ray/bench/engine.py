"""An engine that records its calls, and repeats them without the pipeline when all rows are finished."""

import asyncio
import logging
import os
import platform
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import ray

from kailin_ray.distill.actor import DistillActor, StartEngine, start_vllm
from kailin_ray.engines.interface import EngineSpec, Generation, RecordedCall
from kailin_ray.planning.stages import AGENTS, QUESTION_AGENTS
from kailin_ray.schema import Json

logger = logging.getLogger(__name__)

WARM_UP = ("yes", "no")
"""Words of the choice that warms an engine up."""
AGENT_ORDER = (*AGENTS, "decision")
"""The agents in the order of their calls about an abstract."""
UNKNOWN = "unknown"
"""The agent of a call that is in no record: its row failed."""


_Start = tuple[asyncio.AbstractEventLoop, float]
"""The loop on which an engine's calls run, and this process's CPU time when it was warm."""


class Machine(TypedDict):
    """The machine of an engine."""

    cpu: str
    cores: int
    memory_gib: int
    gpus: list[str]
    """Name and memory of each GPU of the machine."""
    driver: str | None


class EngineReport(TypedDict):
    """What one engine did in a measurement. Seconds are its own."""

    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    busy: float
    """Seconds with a call in the engine."""
    call_seconds: float
    """Sum over the calls."""
    first_token: list[float]
    """Of each call, seconds to its first token."""
    cpu_seconds: float
    """CPU time of the actor's process: the pipeline's code and vLLM's front end, without the engine's own process."""
    bare_seconds: float | None
    """Seconds of the same calls without the pipeline; None if they were not repeated."""
    bare_cpu_seconds: float
    bare_cached_tokens: int
    bare_completion_tokens: int
    prompts: dict[str, list[tuple[list[int], int]]]
    """By agent, token ids and how many tokens to generate (0 for a choice); empty unless they are wanted."""


@dataclass(frozen=True)
class StartMeasured:
    """Starts the vLLM engine of a stage for a measurement (see ``conductor.Conductor``)."""

    conductor: Any
    start: StartEngine = start_vllm

    def __call__(self, spec: EngineSpec) -> "MeasuredEngine":
        """Start an engine; return when those of all other replicas are ready too."""
        engine = self.start(spec)
        ray.get(self.conductor.arrive.remote(describe_machine()))
        return MeasuredEngine(engine, self.conductor)


class MeasuredActor(DistillActor):
    """Tells the conductor which rows are finished; its engine is a ``MeasuredEngine``."""

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Distil the rows of a block."""
        num_rows = 0
        async for table in super().__call__(batch):
            self._engine.note_agents(table)
            num_rows += table.num_rows
            yield table
        await self._engine.conductor.finish.remote(num_rows)


class MeasuredEngine:
    """Hands calls to its engine, and repeats them when the conductor says so."""

    def __init__(self, engine: Any, conductor: Any):
        """Take an engine that has started; its first call warms it up."""
        self._engine, self.conductor = engine, conductor
        self._agents: dict[str, str] = {}
        self._warm: asyncio.Task[None] | None = None
        # It has no reference to this object, which must go when its actor goes.
        self._starts: list[_Start] = []
        threading.Thread(target=_report, args=(engine, conductor, self._starts, self._agents), daemon=True).start()

    async def generate(self, messages: Any, sampling: Json, adapter: str | None = None) -> Generation:
        """Call the method of the engine with the same name."""
        await self._ensure_warm(messages, sampling)
        generation: Generation = await self._engine.generate(messages, sampling, adapter)
        return generation

    async def choose(self, messages: Any, words: Sequence[str], adapter: str | None = None) -> Generation:
        """Call the method of the engine with the same name."""
        await self._ensure_warm(messages, {"max_tokens": 8, "temperature": 0.0})
        generation: Generation = await self._engine.choose(messages, words, adapter)
        return generation

    def shutdown(self) -> None:
        """Stop the engine's processes."""
        self._engine.shutdown()

    def note_agents(self, records: pa.Table) -> None:
        """Note from records which agent made which call; an engine does not know."""
        for usage in records["usage"].to_pylist():
            self._agents.update((call["prompt_hash"], call["agent"]) for call in usage or [])

    async def _ensure_warm(self, messages: Any, sampling: Json) -> None:
        if self._warm is None:
            self._warm = asyncio.create_task(self._warm_up(messages, sampling))
        await self._warm

    async def _warm_up(self, messages: Any, sampling: Json) -> None:
        """Make a call of each kind before the clock starts: the bare engine would have its kernels already."""
        await self._engine.generate(messages, sampling)
        await self._engine.choose(messages, WARM_UP)
        await self._engine.reset_prefix_cache()
        self._engine.calls = []
        self._starts.append((asyncio.get_running_loop(), time.process_time()))
        await self.conductor.warm.remote()


def _report(engine: Any, conductor: Any, starts: Sequence[_Start], agents: Mapping[str, str]) -> None:
    """Wait until all rows are finished, repeat the calls, and tell the conductor; in a thread of its own."""
    with suppress(ray.exceptions.RayError):  # the measurement failed, and the conductor is gone
        with_bare, with_prompts = ray.get(conductor.rows_done.remote())
        try:
            report = _make_report(engine, starts, agents, with_bare, with_prompts)
        except Exception as error:  # whatever it is, the measurement must not wait for ever
            logger.exception("the calls were not repeated")
            ray.get(conductor.fail.remote(f"the bare engine failed: {type(error).__name__}: {error}"))
        else:
            ray.get(conductor.report.remote(report))


def _make_report(
    engine: Any, starts: Sequence[_Start], agents: Mapping[str, str], with_bare: bool, with_prompts: bool
) -> EngineReport:
    calls: list[RecordedCall] = engine.calls or []
    report = describe_calls(calls)
    if not calls:
        return report
    loop, cpu_began = starts[0]
    report["cpu_seconds"] = time.process_time() - cpu_began
    if with_bare:
        engine.calls = None
        by_agent = _group_by_agent(calls, agents)
        report |= asyncio.run_coroutine_threadsafe(_repeat(engine, by_agent), loop).result()
        if with_prompts:
            report["prompts"] = {agent: [_prompt_of(call) for call in own] for agent, own in by_agent.items()}
    return report


def describe_calls(calls: Sequence[RecordedCall]) -> EngineReport:
    """Add up the calls of an engine."""
    made = [call.generation for call in calls]
    return {
        "calls": len(calls),
        "prompt_tokens": sum(generation.prompt_tokens for generation in made),
        "cached_tokens": sum(generation.cached_tokens for generation in made),
        "completion_tokens": sum(generation.completion_tokens for generation in made),
        "busy": _sum_spans([(call.began, call.began + call.generation.seconds) for call in calls]),
        "call_seconds": sum(generation.seconds for generation in made),
        "first_token": [generation.first_token_seconds for generation in made],
        "cpu_seconds": 0.0,
        "bare_seconds": None,
        "bare_cpu_seconds": 0.0,
        "bare_cached_tokens": 0,
        "bare_completion_tokens": 0,
        "prompts": {},
    }


def _sum_spans(spans: Sequence[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasts."""
    covered, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


def _group_by_agent(calls: Sequence[RecordedCall], agents: Mapping[str, str]) -> dict[str, list[RecordedCall]]:
    """Return the calls by agent, in the order in which the agents have their turns."""
    by_agent: dict[str, list[RecordedCall]] = defaultdict(list)
    for call in calls:
        by_agent[agents.get(call.generation.prompt_hash, UNKNOWN)].append(call)
    return {agent: by_agent[agent] for agent in (*AGENT_ORDER, UNKNOWN) if agent in by_agent}


class _Bare(TypedDict):
    """The fields of a report about the repeated calls."""

    bare_seconds: float | None
    bare_cpu_seconds: float
    bare_cached_tokens: int
    bare_completion_tokens: int


async def _repeat(engine: Any, by_agent: dict[str, list[RecordedCall]]) -> _Bare:
    """Repeat the calls, all of a wave at once: an answer cannot be asked for before there is a question."""
    await engine.reset_prefix_cache()
    began, cpu_began = time.monotonic(), time.process_time()
    cached = generated = 0
    for wave in _waves(by_agent):
        for num_cached, num_generated in await asyncio.gather(*(engine.repeat(call) for call in wave)):
            cached, generated = cached + num_cached, generated + num_generated
    return {
        "bare_seconds": time.monotonic() - began,
        "bare_cpu_seconds": time.process_time() - cpu_began,
        "bare_cached_tokens": cached,
        "bare_completion_tokens": generated,
    }


def _waves(by_agent: dict[str, list[RecordedCall]]) -> list[list[RecordedCall]]:
    """Return the calls of each agent, those of both question agents together, as neither needs the other."""
    asking = [call for agent in QUESTION_AGENTS for call in by_agent.get(agent, [])]
    asking.sort(key=lambda call: call.began)  # an abstract's two calls after each other, as it is in the cache then
    return [asking, *(calls for agent, calls in by_agent.items() if agent not in QUESTION_AGENTS)]


def _prompt_of(call: RecordedCall) -> tuple[list[int], int]:
    return list(call.prompt), 0 if call.words else call.generation.completion_tokens


def describe_machine() -> Machine:
    """Describe this machine, without using a GPU."""
    gpus, driver = [], None
    if tool := shutil.which("nvidia-smi"):
        command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        with suppress(subprocess.SubprocessError):
            output = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
            rows = [line.split(", ") for line in output.splitlines() if line.count(", ") == 2]
            gpus = [f"{name}, {memory}" for name, memory, _ in rows]
            driver = rows[0][2] if rows else None
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpus": gpus,
        "driver": driver,
    }


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
