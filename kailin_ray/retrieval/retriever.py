"""The retriever actor: encodes the questions that arrive and finds their passages, many at a time."""

import asyncio
from pathlib import Path

from kailin_ray.config import Encoder
from kailin_ray.retrieval.encoder import QueryEncoder
from kailin_ray.retrieval.index import Hit, PassageIndex

MAX_BATCH = 256

Query = tuple[str, int, int | None]
"""A question, how many passages, and the PMID whose passage is left out, or None."""

_Request = tuple[Query, asyncio.Future[list[Hit]]]


class Retriever:
    """Async actor. While one batch is worked on in a thread, the next gathers: no timer, no waiting for company."""

    def __init__(self, index: str, encoder: Encoder, on_gpu: bool):
        """Open the index and load the encoder. Raises ``ValueError`` if their dimensions differ."""
        self._index = PassageIndex(Path(index))
        self._encoder = QueryEncoder(encoder, on_gpu)
        dimension = self._encoder.encode(["dimension"]).shape[1]
        if dimension != self._index.dimension:
            path = (encoder.query or encoder).path
            raise ValueError(f"index {index} has dimension {self._index.dimension}, encoder {path} {dimension}")
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def ready(self) -> bool:
        """Answer once the actor is up."""
        return True

    async def search(self, queries: list[Query]) -> list[list[Hit]]:
        """The passages nearest to each question, best first."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        loop = asyncio.get_running_loop()
        requests = [(query, loop.create_future()) for query in queries]
        for request in requests:
            await self._queue.put(request)
        return await asyncio.gather(*(answer for _, answer in requests))

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                hits = await asyncio.to_thread(self._search, batch)
            except Exception as error:  # the batch's callers get it; the next batch may fare better
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, answer), found in zip(batch, hits, strict=True):
                answer.set_result(found)

    def _search(self, batch: list[_Request]) -> list[list[Hit]]:
        questions, numbers, excluded = zip(*(query for query, _ in batch), strict=True)
        found = self._index.search(self._encoder.encode(questions), max(numbers), list(excluded))
        return [hits[:k] for hits, k in zip(found, numbers, strict=True)]
