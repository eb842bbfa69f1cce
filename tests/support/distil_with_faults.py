"""The command ``distill`` with an engine that answers after a moment and can be made to die, and its own retriever.

Run as a module with ``distill``'s keys. ``FAULTS`` (JSON) says what happens: ``latency`` in seconds; ``deadly``, words
of abstracts that end the actor with the engine, as an engine's death does; ``silent``, words with which the engine
neither answers nor dies, and no other call after; ``broken``, words that make it answer with a lone surrogate;
``short``, whether answers are cut; ``real``: the engine is vLLM, and the words kill its process.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import replace
from typing import Any

import psutil

from kailin_ray.cli.main import run_command
from kailin_ray.distill import pipeline
from kailin_ray.distill.actor import start_vllm
from kailin_ray.engines.interface import EngineDeadError, EngineSpec, Generation

distill = pipeline.distill


class FaultyEngine:
    """Asks and answers what passes the checks, the same for the same prompt."""

    def __init__(self, faults: dict[str, Any]):
        self.latency, self.deadly = faults.get("latency", 0.0), faults.get("deadly", [])
        self.silent, self.broken = faults.get("silent", []), faults.get("broken", [])
        self.reason = "length" if faults.get("short") else "stop"
        self.dead = False

    def shutdown(self) -> None:
        """Nothing to stop."""

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Generation:
        content = messages[-1]["content"]
        await self.work(messages)
        if "Evidence from" in content:
            broken = " \ud800" if holds(messages, self.broken) else ""
            return replace(made(f"It had an effect in the{broken} patients."), finish_reason=self.reason)
        words = [word for word in content.split() if word.isalpha() and len(word) > 5][1:6]
        return made(f"Does {' '.join(words)} have an {'effect' if 'yes/no' in content else 'mechanism'}?")

    async def choose(self, messages: Any, words: Any, adapter: str | None = None) -> Generation:
        await self.work(messages)
        shares = {word: (2 if word == words[0] else 1) / (len(words) + 1) for word in words}
        return replace(made(words[0]), probabilities=shares)

    async def work(self, messages: Any) -> None:
        if holds(messages, self.silent):
            time.sleep(10_000)
        if holds(messages, self.deadly):
            self.dead = True
        await asyncio.sleep(self.latency)
        if self.dead:
            raise EngineDeadError("dead")


class KilledEngine:
    """vLLM, whose process is killed once it is to read one of some words."""

    def __init__(self, spec: EngineSpec, deadly: list[str]):
        self.engine, self.deadly = start_vllm(spec), deadly
        self.shutdown, self.choose = self.engine.shutdown, self.engine.choose

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Generation:
        if holds(messages, self.deadly):
            for child in psutil.Process().children(recursive=True):
                if "EngineCore" in " ".join(child.cmdline()):
                    child.kill()
        return await self.engine.generate(messages, sampling, adapter)


def holds(messages: Any, words: list[str]) -> bool:
    return any(word in message["content"] for word in words for message in messages)


def made(text: str) -> Generation:
    return Generation(
        text=text, finish_reason="stop", prompt_tokens=9, cached_tokens=4, completion_tokens=3, probabilities={},
        prompt_hash="0f",
    )  # fmt: skip


def with_faults(*arguments: Any, **options: Any) -> None:
    faults = json.loads(os.environ.get("FAULTS", "{}"))

    def start(spec: EngineSpec) -> Any:
        return KilledEngine(spec, faults["deadly"]) if faults.get("real") else FaultyEngine(faults)

    distill(*arguments, start_engine=start, **options)


if __name__ == "__main__":
    pipeline.distill = with_faults
    sys.exit(run_command(sys.argv[1:]))
