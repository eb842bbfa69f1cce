"""How an engine's actor queries the retrievers: first a retriever on its machine, and another one if that dies."""

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
"""Seconds that a retriever may take to start or to come back; its machine may have to start first."""
MORE_TRIES = 2
"""A call is tried once for each retriever, as all may be lost at the same moment, and this many times more. The limit
exists because a question that kills every retriever it reaches must not kill them for ever."""

_Asked = tuple[Query, "asyncio.Future[list[Hit]]"]


class _Place:
    """A client's view of one retriever."""

    def __init__(self, actor: Any):
        self.actor = actor
        self.machine: str | None = None
        self.num_asked = 0
        """Questions of this client that it has not answered yet."""
        self.back: asyncio.Task[None] | None = None
        """Ends when the retriever can answer again; None while it can."""
        self.gone: RayError | None = None
        """Why it will never answer again."""

    def ready(self) -> Any:
        """Return a reference to the id of its machine. Ray retries the call as long as the actor restarts."""
        return self.actor.ready.options(max_task_retries=-1).remote()


class Searcher:
    """Queries the retriever actors. Questions from one turn of the event loop are sent as one call."""

    def __init__(self, retrievers: Sequence[Any], meter: Meter, max_silent_minutes: float | None = None):
        """Wait until the retrievers are up. Raises Ray's error if none of them can start.

        A retriever that does not answer within ``max_silent_minutes`` is killed, as if it had died; None or 0: it is
        awaited for ever.
        """
        self._meter = meter
        self._max_silent_s = 60 * max_silent_minutes if max_silent_minutes else None
        self._here = ray.get_runtime_context().get_node_id()
        # In random order, so that engines break ties between retrievers differently.
        self._places = [_Place(actor) for actor in random.sample(list(retrievers), len(retrievers))]
        self._waiting: list[_Asked] = []
        self._calls: set[asyncio.Task[None]] = set()
        for place, answer in [(place, place.ready()) for place in self._places]:
            try:
                place.machine = ray.get(answer, timeout=RETURN_S)
            except RayError as error:
                place.gone = error
        if errors := [place.gone for place in self._places if place.gone]:
            logger.warning("%d of %d retrievers did not start: %s", len(errors), len(self._places), errors[0])
            if len(errors) == len(self._places):
                raise errors[0]

    async def search(self, question: str, k: int, exclude: int | None) -> list[Hit]:
        """Return the ``k`` passages nearest to ``question``, without the passage of PMID ``exclude``."""
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
        self._calls.add(call)  # the event loop holds only a weak reference to a task
        call.add_done_callback(self._calls.discard)

    async def _ask(self, waiting: list[_Asked]) -> None:
        try:
            results = await self._answers([query for query, _ in waiting])
        except Exception as error:  # every waiting row gets the error and is recorded as failed
            for _, answer in waiting:
                answer.set_exception(error)
            return
        for (_, answer), hits in zip(waiting, results, strict=True):
            answer.set_result(hits)

    async def _answers(self, queries: list[Query]) -> list[list[Hit]]:
        """Return the passages of each question from a live retriever."""
        tries = 0
        while True:
            place = await self._chosen()
            place.num_asked += len(queries)
            tries += 1
            try:
                hits: list[list[Hit]] = await asyncio.wait_for(place.actor.search.remote(queries), self._max_silent_s)
                return hits
            except RayTaskError:  # raised by the search itself, as it would be elsewhere
                raise
            except (RayError, TimeoutError) as error:
                # The actor or its machine died, perhaps before its answer arrived; or it is silent.
                if isinstance(error, TimeoutError) and not (place.back or place.gone):
                    logger.error("a retriever did not answer in %g s; it is killed and restarted", self._max_silent_s)
                    ray.kill(place.actor, no_restart=False)
                self._fell(place)
                if tries == len(self._places) + MORE_TRIES:
                    raise
                self._meter.count_retries(len(queries))
            finally:
                place.num_asked -= len(queries)

    async def _chosen(self) -> _Place:
        """Return the retriever with the fewest open questions, on this machine if possible; wait while none is up."""
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
        """Send a retriever no questions until it is back."""
        if not (place.back or place.gone):
            place.back = asyncio.get_running_loop().create_task(self._wait_for_return(place))

    async def _wait_for_return(self, place: _Place) -> None:
        try:
            place.machine = await place.ready()
        except RayError as error:
            place.gone = error
        finally:
            place.back = None
