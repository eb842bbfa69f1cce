"""An engine that records its calls, and repeats them without the pipeline when all rows are done."""

import asyncio
import logging
import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import ray

from kailin_ray.distill.actor import StartEngine, start_vllm
from kailin_ray.engines.interface import EngineSpec, Generation, RecordedCall
from kailin_ray.schema import Json

logger = logging.getLogger(__name__)

WARM_UP = ("yes", "no")
"""Words of the choice that warms an engine up."""
UNKNOWN = "unknown"
"""The agent of a call that is in no record: its row failed."""


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


class MeasuredEngine:
    """Hands calls to its engine, and repeats them when the conductor says so."""

    def __init__(self, engine: Any, conductor: Any):
        """Take an engine that has started; its first call warms it up."""
        self._engine, self._conductor = engine, conductor
        self._warm: asyncio.Task[None] | None = None
        # It has no reference to this object, which must go when its actor goes.
        self._starts: list[tuple[asyncio.AbstractEventLoop, float]] = []
        threading.Thread(target=_report, args=(engine, conductor, self._starts), daemon=True).start()

    async def generate(self, messages: Any, sampling: Json, adapter: str | None = None) -> Generation:
        """Call the method of the engine with the same name."""
        await self._warmed_up(messages, sampling)
        generation: Generation = await self._engine.generate(messages, sampling, adapter)
        return generation

    async def choose(self, messages: Any, words: Sequence[str], adapter: str | None = None) -> Generation:
        """Call the method of the engine with the same name."""
        await self._warmed_up(messages, {"max_tokens": 8, "temperature": 0.0})
        generation: Generation = await self._engine.choose(messages, words, adapter)
        return generation

    def shutdown(self) -> None:
        """Stop the engine's processes."""
        self._engine.shutdown()

    async def _warmed_up(self, messages: Any, sampling: Json) -> None:
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
        await self._conductor.warm.remote()


def _report(engine: Any, conductor: Any, starts: list[tuple[asyncio.AbstractEventLoop, float]]) -> None:
    """Wait until all rows are done, repeat the calls, and tell the conductor; in a thread of its own."""
    with suppress(ray.exceptions.RayError):  # the measurement failed, and the conductor is gone
        agents, with_bare, with_prompts = ray.get(conductor.rows_done.remote())
        try:
            report = _make_report(engine, starts, agents, with_bare, with_prompts)
        except Exception as error:  # whatever it is, the measurement must not wait for ever
            logger.exception("the calls were not repeated")
            ray.get(conductor.fail.remote(f"the bare engine failed: {type(error).__name__}: {error}"))
        else:
            ray.get(conductor.report.remote(report))


def _make_report(
    engine: Any,
    starts: list[tuple[asyncio.AbstractEventLoop, float]],
    agents: dict[str, list[str]],
    with_bare: bool,
    with_prompts: bool,
) -> EngineReport:
    calls: list[RecordedCall] = engine.calls or []
    report = describe_calls(calls)
    if not calls:
        return report
    loop, cpu_began = starts[0]
    report["cpu_seconds"] = time.process_time() - cpu_began
    if with_bare:
        engine.calls = None
        waves = _group_by_agent(calls, agents)
        report |= asyncio.run_coroutine_threadsafe(_repeat(engine, waves), loop).result()
        if with_prompts:
            report["prompts"] = {agent: [_prompt_of(call) for call in wave] for agent, wave in waves.items()}
    return report


def describe_calls(calls: Sequence[RecordedCall]) -> EngineReport:
    """Add up the calls of an engine."""
    made = [call.generation for call in calls]
    return {
        "calls": len(calls),
        "prompt_tokens": sum(generation.prompt_tokens for generation in made),
        "cached_tokens": sum(generation.cached_tokens for generation in made),
        "completion_tokens": sum(generation.completion_tokens for generation in made),
        "busy": _covered([(call.began, call.began + call.generation.seconds) for call in calls]),
        "call_seconds": sum(generation.seconds for generation in made),
        "first_token": [generation.first_token_seconds for generation in made],
        "cpu_seconds": 0.0,
        "bare_seconds": None,
        "bare_cpu_seconds": 0.0,
        "bare_cached_tokens": 0,
        "bare_completion_tokens": 0,
        "prompts": {},
    }


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return how long at least one of the spans lasts."""
    covered, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, until))
        until = max(until, end)
    return covered


def _group_by_agent(calls: Sequence[RecordedCall], agents: dict[str, list[str]]) -> dict[str, list[RecordedCall]]:
    """Return the calls by agent, in the order of ``agents``, which has the hashes of the prompts of each."""
    agent_of = {prompt: agent for agent, hashes in agents.items() for prompt in hashes}
    waves: dict[str, list[RecordedCall]] = {agent: [] for agent in (*agents, UNKNOWN)}
    for call in calls:
        waves[agent_of.get(call.generation.prompt_hash, UNKNOWN)].append(call)
    return {agent: wave for agent, wave in waves.items() if wave}


class _Bare(TypedDict):
    """The fields of a report about the repeated calls."""

    bare_seconds: float
    bare_cpu_seconds: float
    bare_cached_tokens: int
    bare_completion_tokens: int


async def _repeat(engine: Any, waves: dict[str, list[RecordedCall]]) -> _Bare:
    """Repeat the calls, all of a wave at once: an answer cannot be asked for before there is a question."""
    await engine.reset_prefix_cache()
    began, cpu_began = time.monotonic(), time.process_time()
    cached = generated = 0
    for wave in _merge_questions(waves):
        for num_cached, num_generated in await asyncio.gather(*(engine.repeat(call) for call in wave)):
            cached, generated = cached + num_cached, generated + num_generated
    return {
        "bare_seconds": time.monotonic() - began,
        "bare_cpu_seconds": time.process_time() - cpu_began,
        "bare_cached_tokens": cached,
        "bare_completion_tokens": generated,
    }


def _merge_questions(waves: dict[str, list[RecordedCall]]) -> list[list[RecordedCall]]:
    """Return the waves with the calls of both question agents in one, as neither needs the other."""
    asking = [call for agent in ("general", "biomedical") for call in waves.get(agent, [])]
    asking.sort(key=lambda call: call.began)  # an abstract's two calls after each other, as it is in the cache then
    others = [wave for agent, wave in waves.items() if agent not in ("general", "biomedical")]
    return [wave for wave in (asking, *others) if wave]


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
