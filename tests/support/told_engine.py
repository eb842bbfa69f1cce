"""An engine that answers at once and writes down every message that reached it, and a run with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from kailin_ray.distill import pipeline
from kailin_ray.engines.interface import Generation
from tests.distill.test_pipeline import FakeEngine, made

TOLD = ".told"


class ToldEngine(FakeEngine):
    """The first ``too_short`` of its answers are rejected."""

    def __init__(self, note: Path, too_short: int):
        super().__init__(note)
        self._too_short = too_short
        self._told = note.with_suffix(TOLD)

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Generation:
        self._tell(messages)
        content = messages[-1]["content"]
        if "Answer in one sentence" in content:
            self._too_short -= 1
            return made("It did." if self._too_short >= 0 else f"It had an effect in {len(content)} patients.")
        return await super().generate(messages, sampling, adapter)

    async def choose(self, messages: Any, words: Any, adapter: str | None = None) -> Generation:
        self._tell(messages)
        return await super().choose(messages, words, adapter)

    def _tell(self, messages: Any) -> None:
        with self._told.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(messages) + "\n")


@contextmanager
def told_engine(note: Path, too_short: int = 0) -> Iterator[None]:
    """Inside the block, runs have this engine. Retrieval is real."""
    distill = pipeline.distill

    def with_told(*arguments: Any, **options: Any) -> None:
        distill(*arguments, lambda _: ToldEngine(note, too_short), **options)

    with patch.object(pipeline, "distill", with_told):
        yield


def told(note: Path) -> list[list[dict[str, str]]]:
    """The messages of all calls."""
    return [json.loads(line) for line in note.with_suffix(TOLD).read_text(encoding="utf-8").splitlines()]
