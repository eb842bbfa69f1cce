"""The command ``distill`` with an engine that answers after a moment; run as a module, with ``distill``'s keys."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray

from kailin_ray.cli.main import run_command
from kailin_ray.distill import pipeline
from kailin_ray.engines.interface import Generation
from kailin_ray.retrieval.search.index import Hit
from tests.distill.test_pipeline import FakeEngine, FakeRetriever

distill = pipeline.distill


class SlowEngine(FakeEngine):
    """Once it has begun ``hold_after`` calls, the others wait until the file ``go`` exists."""

    def __init__(self, hold_after: int | None, go: Path):
        super().__init__(Path(tempfile.mkstemp()[1]))
        self._free_calls = hold_after
        self._go = go

    async def generate(self, *arguments: Any, **options: Any) -> Generation:
        await asyncio.sleep(0.2)
        if self._free_calls is not None:
            self._free_calls -= 1
            while self._free_calls < 0 and not self._go.exists():
                await asyncio.sleep(0.2)
        return await super().generate(*arguments, **options)


class TwoPassages(FakeRetriever):
    """Another passage for each question agent, so that the rule can prefer."""

    async def search(self, queries: list[Any]) -> list[list[Hit]]:
        headings = ["D003920" if "effect" in question else "D009369" for question, *_ in queries]
        return [[Hit(1, 0.5, "T", "A", [heading])] for heading in headings]


def with_fakes(*arguments: Any, **options: Any) -> None:
    retriever = ray.remote(num_cpus=0)(TwoPassages).remote()
    # An engine's process has the environment of the cluster, not of this one.
    hold_after, go = os.environ.get("HOLD_AFTER"), Path(os.environ.get("HOLD_UNTIL", ""))
    distill(*arguments, lambda _: SlowEngine(hold_after and int(hold_after), go), [retriever], **options)


if __name__ == "__main__":
    pipeline.distill = with_fakes
    sys.exit(run_command(["distill", *sys.argv[1:]]))
