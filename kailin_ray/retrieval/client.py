"""How an engine's actor asks the retrievers: the nearest one first, and another one where one has died."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from kailin_ray.engines.metering import Meter
from kailin_ray.retrieval.retriever import Query
from kailin_ray.retrieval.search.index import Hit

logger = logging.getLogger(__name__)

RETURN_S = 900.0
"""Seconds in which a retriever starts, or comes back: its machine may first have to."""
MORE_TRIES = 2
"""Questions are asked as often as there are retrievers, which may all be lost at one moment, and so much more: of
questions that kill each one they are put to, the retrievers must not die for ever."""

_Asked = tuple[Query, "asyncio.Future[list[Hit]]"]


class _Place:
    """A retriever as its asker sees it."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.machine: str | None = None
        self.num_asked = 0
        """Questions that it has not answered yet."""
        self.back: asyncio.Task[None] | None = None
        """Ends when it can answer again; None while it can."""
        self.gone: RayError | None = None
        """Why it will never answer again."""

    def ready(self) -> Any:
        """The reference of its machine's id. Ray asks again for as long as the actor restarts, and no longer."""
        return self.actor.ready.options(max_task_retries=-1).remote()


class Searcher:
    """Asks the retriever actors. What many coroutines ask in one turn of the event loop goes as one call."""

    def __init__(self, retrievers: Sequence[Any], meter: Meter):
        """Wait until the retrievers are up. Raises what Ray says of them if none of them can start."""
        self._meter = meter
        self._here = ray.get_runtime_context().get_node_id()
        # In an order of its own: at a tie, each engine shall begin with another one.
        self._places = [_Place(actor) for actor in random.sample(list(retrievers), len(retrievers))]
        self._waiting: list[_Asked] = []
        self._calls: set[asyncio.Task[None]] = set()
        for place, answer in [(place, place.ready()) for place in self._places]:
            try:
                place.machine = ray.get(answer, timeout=RETURN_S)
            except RayError as error:
                place.gone = error
        if gone := [place.gone for place in self._places if place.gone]:
            logger.warning("%d of %d retrievers do not start: %s", len(gone), len(self._places), gone[0])
            if len(gone) == len(self._places):
                raise gone[0]

    async def search(self, question: str, k: int, exclude: int | None) -> list[Hit]:
        """The ``k`` passages nearest to ``question``, without the passage of PMID ``exclude``."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Hit]] = loop.create_future()
        self._waiting.append(((question, k, exclude), answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        with self._meter.searching():
            return await answer

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        call = asyncio.get_running_loop().create_task(self._ask(waiting))
        self._calls.add(call)  # the loop itself holds a task only weakly
        call.add_done_callback(self._calls.discard)

    async def _ask(self, waiting: list[_Asked]) -> None:
        try:
            found = await self._answers([query for query, _ in waiting])
        except Exception as error:  # each row that asked gets it, and is recorded as failed
            for _, answer in waiting:
                answer.set_exception(error)
            return
        for (_, answer), hits in zip(waiting, found, strict=True):
            answer.set_result(hits)

    async def _answers(self, queries: list[Query]) -> list[list[Hit]]:
        """The passages of each question, of whichever retriever lives to tell them."""
        tries = 0
        while True:
            place = await self._chosen()
            place.num_asked += len(queries)
            tries += 1
            try:
                found: list[list[Hit]] = await place.actor.search.remote(queries)
                return found
            except RayTaskError:  # what the search itself raised, which it would raise elsewhere, too
                raise
            except RayError:  # the actor's or its machine's death, perhaps before its answer was here
                self._fell(place)
                if tries == len(self._places) + MORE_TRIES:
                    raise
                self._meter.count_retries(len(queries))
            finally:
                place.num_asked -= len(queries)

    async def _chosen(self) -> _Place:
        """A retriever of this machine, else the one with the fewest of our questions; waits while none is up."""
        while True:
            up = [place for place in self._places if not (place.back or place.gone)]
            if up:
                return min(up, key=lambda place: (place.machine != self._here, place.num_asked))
            returning = [place.back for place in self._places if place.back]
            if not returning:
                raise next(place.gone for place in self._places if place.gone)
            done, _ = await asyncio.wait(returning, timeout=RETURN_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise TimeoutError(f"none of {len(self._places)} retrievers came back within {RETURN_S:g} seconds")

    def _fell(self, place: _Place) -> None:
        """Ask a retriever nothing more until it is back."""
        if not (place.back or place.gone):
            place.back = asyncio.get_running_loop().create_task(self._wait_for_return(place))

    async def _wait_for_return(self, place: _Place) -> None:
        try:
            place.machine = await place.ready()
        except RayError as error:
            place.gone = error
        finally:
            place.back = None
