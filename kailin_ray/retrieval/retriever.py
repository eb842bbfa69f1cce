"""The retriever actor: encodes the questions that arrive and finds their passages, many at a time."""

import asyncio
from pathlib import Path

from kailin_ray.config import Encoder
from kailin_ray.retrieval.encoder import TextEncoder
from kailin_ray.retrieval.index import Hit, PassageIndex

MAX_BATCH = 256

_Request = tuple[str, int, int | None, asyncio.Future[list[Hit]]]


class Retriever:
    """Async actor. While one batch is worked on in a thread, the next gathers: no timer, no waiting for company."""

    def __init__(self, index: str, encoder: Encoder, on_gpu: bool):
        """Open the index and load the encoder. Raises ``ValueError`` if their dimensions differ."""
        self._index = PassageIndex(Path(index))
        self._encoder = TextEncoder(encoder, on_gpu)
        dimension = self._encoder.encode(["dimension"]).shape[1]
        if dimension != self._index.dimension:
            raise ValueError(f"index {index} has dimension {self._index.dimension}, encoder {encoder.path} {dimension}")
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def ready(self) -> bool:
        """Answer once the actor is up."""
        return True

    async def search(self, question: str, k: int, exclude: int | None) -> list[Hit]:
        """The ``k`` passages nearest to ``question``, without the passage of PMID ``exclude``."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        answer: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        await self._queue.put((question, k, exclude, answer))
        return await answer

    async def _work(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                hits = await asyncio.to_thread(self._search, batch)
            except Exception as error:  # the batch's callers get it; the next batch may fare better
                for *_, answer in batch:
                    answer.set_exception(error)
                continue
            for (*_, answer), found in zip(batch, hits, strict=True):
                answer.set_result(found)

    def _search(self, batch: list[_Request]) -> list[list[Hit]]:
        vectors = self._encoder.encode([question for question, *_ in batch])
        most = max(k for _, k, _, _ in batch)
        found = self._index.search(vectors, most, [exclude for _, _, exclude, _ in batch])
        return [hits[:k] for hits, (_, k, _, _) in zip(found, batch, strict=True)]
