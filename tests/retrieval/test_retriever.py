"""How the retriever makes batches, with an encoder and an index that only count."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kailin_ray.config import Retrieval
from kailin_ray.retrieval import retriever as module
from kailin_ray.retrieval.retriever import MAX_BATCH, Query, Retriever
from kailin_ray.retrieval.search import folder
from kailin_ray.retrieval.search.index import Hit
from tests.support.manifests import index_manifest

RETRIEVAL = Retrieval(
    top_k=4, exclude_source=True, dedup_threshold=0.8, lexical_weight=0.0, mesh_weight=0.0, max_context_words=None
)

FOLDER = folder.Index(Path("there"), index_manifest())


class Encoder:
    """Vectors of one number; waits before it encodes until it is let."""

    def __init__(self, *_: Any):
        self.batches: list[list[str]] = []
        self.go = threading.Event()

    def encode(self, texts: Any) -> np.ndarray:
        if texts != ["dimension"]:
            self.batches.append(list(texts))
            assert self.go.wait(20)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


class Index:
    dimension = 1

    def __init__(self, _: Any, device: str, lexical_weight: float):
        assert (device, lexical_weight) == ("cpu", 0.0)

    def search_rows(self, vectors: np.ndarray, k: int, jaccard: float | None, questions: list[str]) -> Any:
        assert len(vectors) == len(questions) <= MAX_BATCH
        assert jaccard == 0.8
        return vectors, k

    def passages(self, vectors: np.ndarray, found: int, k: int, exclude: list[int | None], jaccard: float) -> Any:
        assert (found, jaccard) == (k, 0.8)
        return [
            [Hit(number, float(length), "", str(without), []) for number in range(k)]
            for (length,), without in zip(vectors, exclude, strict=True)
        ]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Retriever, Encoder]:
    encoder = Encoder()
    monkeypatch.setattr(module, "QueryEncoder", lambda *_: encoder)
    monkeypatch.setattr(module, "PassageIndex", Index)
    config: Any = None
    return Retriever(FOLDER, config, False, RETRIEVAL), encoder


def query(text: str, k: int = 2, exclude: int | None = None) -> Query:
    return text, k, exclude


async def started(encoder: Encoder, number: int) -> None:
    async with asyncio.timeout(20):
        while len(encoder.batches) < number:
            await asyncio.sleep(0.005)


def test_what_arrives_while_a_batch_is_worked_on_is_the_next(made: tuple[Retriever, Encoder]) -> None:
    retriever, encoder = made

    async def use() -> list[Any]:
        first = asyncio.create_task(retriever.search([query("a", 1, 7)]))
        await started(encoder, 1)
        rest = [asyncio.create_task(retriever.search([query("b" * n, n)])) for n in range(1, MAX_BATCH + 2)]
        await asyncio.sleep(0.05)
        encoder.go.set()
        return [await first, *[await one for one in rest]]

    found = asyncio.run(use())
    assert [len(batch) for batch in encoder.batches] == [1, MAX_BATCH, 1]
    assert found[0] == [[Hit(0, 1.0, "", "7", [])]]
    # To each its own: as many as it asked for, of its own question.
    assert [(len(hits), hits[0].score) for (hits,) in found[1:]] == [(n, n) for n in range(1, MAX_BATCH + 2)]


def test_the_next_batch_is_searched_for_while_passages_are_read(
    made: tuple[Retriever, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever, encoder = made
    encoder.go.set()
    read = Index.passages

    def slow(*arguments: Any) -> Any:
        for _ in range(2_000):
            if len(encoder.batches) == 2:
                return read(*arguments)
            threading.Event().wait(0.01)
        raise AssertionError("the second batch waits for the first one's passages")

    monkeypatch.setattr(Index, "passages", slow)

    async def use() -> list[Any]:
        first = asyncio.create_task(retriever.search([query("a")]))
        await started(encoder, 1)
        return await asyncio.gather(first, retriever.search([query("bb")]))

    found = asyncio.run(use())
    assert [hits[0][0].score for hits in found] == [1, 2]


def test_a_call_of_more_than_a_batch_is_answered_whole(made: tuple[Retriever, Encoder]) -> None:
    retriever, encoder = made
    encoder.go.set()
    found = asyncio.run(retriever.search([query("x" * n, 1) for n in range(1, 2 * MAX_BATCH + 2)]))
    assert [len(batch) for batch in encoder.batches] == [MAX_BATCH, MAX_BATCH, 1]
    assert [hits[0].score for hits in found] == list(range(1, 2 * MAX_BATCH + 2))


def test_an_error_concerns_its_batch_and_a_caller_that_is_gone_nobody(made: tuple[Retriever, Encoder]) -> None:
    retriever, encoder = made

    async def use() -> Any:
        first = asyncio.create_task(retriever.search([query("bad")]))
        await started(encoder, 1)
        gone = asyncio.create_task(retriever.search([query("gone")]))
        second = asyncio.create_task(retriever.search([query("c"), query("d")]))
        await asyncio.sleep(0.01)
        gone.cancel()
        encoder.go.set()
        return await asyncio.gather(first, gone, second, return_exceptions=True)

    bad, gone, good = asyncio.run(asyncio.wait_for(use(), 30))
    assert isinstance(bad, ValueError)
    assert isinstance(gone, asyncio.CancelledError)
    assert [hits[0].score for hits in good] == [1, 1]
    assert encoder.batches[0] == ["bad"]


def test_an_encoder_of_another_dimension_is_refused(
    made: tuple[Retriever, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "dimension", 3)
    config: Any = type("Config", (), {"path": "some/encoder", "query": None})()
    with pytest.raises(ValueError, match="index there has dimension 3, encoder some/encoder 1"):
        Retriever(FOLDER, config, False, RETRIEVAL)
