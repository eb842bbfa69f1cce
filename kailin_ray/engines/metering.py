"""The account of each replica: how the engine spent its time, and what it produced.

Sample (times in seconds)::

    {"stage": "general+biomedical+answer", "seconds": 620.0, "start": 41.0, "busy": 560.2, "retrieval": 3.1,
     "idle": 15.7, "calls": 41022.5, "prompt_tokens": 1903311, "cached_tokens": 1500123, "completion_tokens": 40112,
     "searches_retried": 0, "rows": {"ok": 902, "rejected": 301}, "reasons": {"answer_truncated": 200, ...},
     "ready": true, "in_flight": 64, "searching": 1}

``busy``: at least one call is in the engine. ``retrieval``: no call is in the engine, and rows wait for their contexts.
``idle``: neither. ``calls`` is the integral over time of the number of calls in the engine; divided by ``busy`` it is
the mean number of concurrent calls. ``searches_retried`` counts questions that were sent again, or to another
retriever, because the first retriever had died. ``in_flight`` and ``searching`` are the current numbers of calls in the
engine and of searches at the retrievers. Tokens are counted when a call ends.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from kailin_ray.engines.interface import Generation
from kailin_ray.schema import Json

if TYPE_CHECKING:
    from kailin_ray.engines.vllm_engine import Engine

ON_ITS_WAY = "on its way"
"""A row that this stage has finished and a later stage has not."""
Tokens = Literal["prompt_tokens", "cached_tokens", "completion_tokens"]
TOKENS: tuple[Tokens, ...] = ("prompt_tokens", "cached_tokens", "completion_tokens")
Doing = Literal["start", "busy", "retrieval", "idle"]
DOINGS: tuple[Doing, ...] = ("start", "busy", "retrieval", "idle")


class Account(TypedDict):
    """What one replica has done so far; see the sample above. It is sent through Ray and stored as JSON."""

    stage: str
    seconds: float
    start: float
    busy: float
    retrieval: float
    idle: float
    calls: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    searches_retried: int
    rows: dict[str, int]
    reasons: dict[str, int]
    ready: bool
    in_flight: int
    searching: int


class Meter:
    """Counts the time, calls and rows of one engine. Any thread may read the account."""

    def __init__(
        self,
        stage: str,
        clock: Callable[[], float] = time.monotonic,
        on_search: Callable[[float], None] = lambda seconds: None,
    ):
        """Start to count; time before ``ready`` is the engine's start. ``on_search`` gets each search's seconds."""
        self._stage, self._clock, self._on_search = stage, clock, on_search
        self._began = self._since = clock()
        self._lock = threading.Lock()
        self._ready = False
        self._calls = self._searches = self._retried = 0
        self._seconds: dict[Doing, float] = dict.fromkeys(DOINGS, 0.0)
        self._calls_seconds = 0.0
        self._tokens: dict[Tokens, int] = dict.fromkeys(TOKENS, 0)
        self._rows: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def ready(self) -> None:
        """Note that the engine can serve."""
        self._turn()
        self._ready = True

    def rows_done(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Count rows that this stage has finished. Rows without a status continue in a later stage."""
        for record in records:
            self._rows[record.get("status") or ON_ITS_WAY] += 1
            if reason := record.get("reason"):
                self._reasons[reason] += 1

    def account(self) -> Account:
        """Return the account so far; see the sample above."""
        self._turn()
        return {
            "stage": self._stage,
            "seconds": self._since - self._began,
            "start": self._seconds["start"],
            "busy": self._seconds["busy"],
            "retrieval": self._seconds["retrieval"],
            "idle": self._seconds["idle"],
            "calls": self._calls_seconds,
            "prompt_tokens": self._tokens["prompt_tokens"],
            "cached_tokens": self._tokens["cached_tokens"],
            "completion_tokens": self._tokens["completion_tokens"],
            "searches_retried": self._retried,
            "rows": dict(self._rows),
            "reasons": dict(self._reasons),
            "ready": self._ready,
            "in_flight": self._calls,
            "searching": self._searches,
        }

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Context manager: while it is open, a row waits for its contexts."""
        self._turn(searches=1)
        began = self._clock()
        try:
            yield
        finally:
            self._turn(searches=-1)
            self._on_search(self._clock() - began)

    def count_retries(self, number: int) -> None:
        """Count ``number`` questions that are sent again."""
        self._retried += number

    async def call(self, asked: Any) -> Generation:
        """Await a call of the engine, count it, and return its result."""
        self._turn(calls=1)
        try:
            generation: Generation = await asked
        finally:
            self._turn(calls=-1)
        for name in TOKENS:
            self._tokens[name] += getattr(generation, name)
        return generation

    def _turn(self, calls: int = 0, searches: int = 0) -> None:
        """Add the time since the last turn to the current state, then add to the numbers of calls and searches."""
        with self._lock:
            now = self._clock()
            elapsed, self._since = now - self._since, now
            state: Doing = "busy" if self._calls else "retrieval" if self._searches else "idle"
            self._seconds[state if self._ready else "start"] += elapsed
            self._calls_seconds += elapsed * self._calls
            self._calls += calls
            self._searches += searches


class MeteredEngine:
    """An engine whose calls are counted by a meter."""

    def __init__(self, engine: "Engine", meter: Meter):
        self._engine, self._meter = engine, meter

    async def generate(
        self, messages: Sequence[dict[str, str]], sampling: Json, adapter: str | None = None
    ) -> Generation:
        """Call the method of the engine with the same name, and count the call."""
        return await self._meter.call(self._engine.generate(messages, sampling, adapter))

    async def choose(
        self, messages: Sequence[dict[str, str]], words: Sequence[str], adapter: str | None = None
    ) -> Generation:
        """Call the method of the engine with the same name, and count the call."""
        return await self._meter.call(self._engine.choose(messages, words, adapter))
