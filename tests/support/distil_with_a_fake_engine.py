"""The command ``distill`` with an engine that answers after a moment; run as a module, with ``distill``'s keys."""

import asyncio
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
    async def generate(self, *arguments: Any, **options: Any) -> Generation:
        await asyncio.sleep(0.2)
        return await super().generate(*arguments, **options)


class TwoPassages(FakeRetriever):
    """Another passage for each question agent, so that the rule can prefer."""

    async def search(self, queries: list[Any]) -> list[list[Hit]]:
        headings = ["D003920" if "effect" in question else "D009369" for question, *_ in queries]
        return [[Hit(1, 0.5, "T", "A", [heading])] for heading in headings]


def with_fakes(*arguments: Any, **options: Any) -> None:
    retriever = ray.remote(num_cpus=0)(TwoPassages).remote()
    distill(*arguments, lambda _: SlowEngine(Path(tempfile.mkstemp()[1])), [retriever], **options)


if __name__ == "__main__":
    pipeline.distill = with_fakes
    sys.exit(run_command(["distill", *sys.argv[1:]]))
