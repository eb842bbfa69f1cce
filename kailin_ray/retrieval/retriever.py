"""The retriever actor: encodes questions and finds their passages, in batches."""

import asyncio
import gc
from collections.abc import Iterator
from itertools import islice

import ray

from kailin_ray.config import Encoder, Retrieval
from kailin_ray.retrieval.encoder import QueryEncoder
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.search.index import Hit, PassageIndex
from kailin_ray.retrieval.search.store import Rows, Vectors

MAX_BATCH = 256
"""Questions that are encoded and searched together. A round takes whole calls until it has this many or more."""

Query = tuple[str, int, int | None]
"""A question, its number of passages, and the PMID whose passage is left out, or None."""

_Call = tuple[list[Query], asyncio.Future[list[list[Hit]]]]


class Retriever:
    """Async actor. While a thread searches one batch, calls gather for the next one: no call waits for a timer.

    A second thread reads the passages of a batch on one core while the search for the next batch uses all cores.
    """

    def __init__(self, index: Index, encoder: Encoder, on_gpu: bool, retrieval: Retrieval):
        """Open the index and load the encoder. Raises ``ValueError`` if their dimensions differ."""
        # The encoder first: an index on a GPU checks how much memory is free.
        self._encoder = QueryEncoder(encoder, on_gpu)
        self._index = PassageIndex(index, "cuda" if on_gpu else "cpu", retrieval.lexical_weight)
        self._jaccard = retrieval.dedup_threshold
        dimension = self._encoder.encode(["dimension"]).shape[1]
        if dimension != self._index.dimension:
            path = (encoder.query or encoder).path
            raise ValueError(f"index {index.path} has dimension {self._index.dimension}, encoder {path} {dimension}")
        self._queue: asyncio.Queue[_Call] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        gc.freeze()  # else the collector scans the libraries' objects every few hundred passages, for 30 ms

    async def ready(self) -> str:
        """Return Ray's id of the machine, once the actor is up."""
        machine: str = ray.get_runtime_context().get_node_id()
        return machine

    async def search(self, queries: list[Query]) -> list[list[Hit]]:
        """Return the passages nearest to each question, best first."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        answer: asyncio.Future[list[list[Hit]]] = asyncio.get_running_loop().create_future()
        await self._queue.put((queries, answer))
        return await answer

    async def _work(self) -> None:
        reading: asyncio.Task[None] | None = None
        while True:
            batch = [await self._queue.get()]
            while sum(len(queries) for queries, _ in batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            queries = [query for queries, _ in batch for query in queries]
            try:
                results = await asyncio.to_thread(self._search_batches, queries)
            except Exception as error:
                _fail(batch, error)
                continue
            if reading:
                await reading
            reading = asyncio.create_task(self._answer(batch, queries, results))

    async def _answer(self, batch: list[_Call], queries: list[Query], results: list[tuple[Vectors, Rows]]) -> None:
        try:
            all_hits = iter(await asyncio.to_thread(self._passages, queries, results))
        except Exception as error:
            _fail(batch, error)
            return
        for call_queries, answer in batch:
            hits = list(islice(all_hits, len(call_queries)))
            if not answer.done():
                answer.set_result(hits)

    def _search_batches(self, queries: list[Query]) -> list[tuple[Vectors, Rows]]:
        return [
            self._index.search_rows(self._encoder.encode(questions), max(numbers), self._jaccard, questions)
            for questions, numbers, _ in _batches(queries)
        ]

    def _passages(self, queries: list[Query], results: list[tuple[Vectors, Rows]]) -> list[list[Hit]]:
        hits: list[list[Hit]] = []
        for (_, numbers, excluded), (scores, rows) in zip(_batches(queries), results, strict=True):
            ranked = self._index.passages(scores, rows, max(numbers), excluded, self._jaccard)
            hits += [passages[:k] for passages, k in zip(ranked, numbers, strict=True)]
        return hits


def _batches(queries: list[Query]) -> Iterator[tuple[tuple[str, ...], tuple[int, ...], tuple[int | None, ...]]]:
    for start in range(0, len(queries), MAX_BATCH):
        questions, numbers, excluded = zip(*queries[start : start + MAX_BATCH], strict=True)
        yield questions, numbers, excluded


def _fail(batch: list[_Call], error: Exception) -> None:
    """Pass the error to the callers of the batch; the next batch may succeed."""
    for _, answer in batch:
        if not answer.done():  # cancelled with its caller, which must not end the shared worker
            answer.set_exception(error)
