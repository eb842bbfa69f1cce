"""Where an engine's time goes, and what it gave: one account per replica.

Sample (seconds but for the counts)::

    {"stage": "general+biomedical+answer", "seconds": 620.0, "start": 41.0, "busy": 560.2, "retrieval": 3.1,
     "idle": 15.7, "calls": 41022.5, "prompt_tokens": 1903311, "cached_tokens": 1500123, "completion_tokens": 40112,
     "searches_retried": 0, "rows": {"ok": 902, "rejected": 301}, "reasons": {"answer_truncated": 200, ...},
     "ready": true, "in_flight": 64, "searching": 1}

``busy``: at least one call is in the engine; ``retrieval``: none is, and rows wait for their contexts; ``idle``:
neither. ``calls`` is the integral of the calls in the engine over time: by ``busy``, the mean number of them at once.
``searches_retried``: questions put to another retriever, or again, as the one that was asked had died.
``in_flight`` and ``searching``: calls in the engine, and searches at the retrievers, at this moment. Tokens are those
of calls that have ended.
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
"""A row that this stage is done with and a later one is not."""
Tokens = Literal["prompt_tokens", "cached_tokens", "completion_tokens"]
TOKENS: tuple[Tokens, ...] = ("prompt_tokens", "cached_tokens", "completion_tokens")
Doing = Literal["start", "busy", "retrieval", "idle"]
DOINGS: tuple[Doing, ...] = ("start", "busy", "retrieval", "idle")


class Account(TypedDict):
    """What one replica did so far; see the sample above. It travels through Ray and into JSON."""

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
    """Adds up one engine's time, calls and rows. Any thread may ask for the account."""

    def __init__(
        self,
        stage: str,
        clock: Callable[[], float] = time.monotonic,
        on_search: Callable[[float], None] = lambda seconds: None,
    ):
        """Count from now on: until ``ready`` it is the engine's start. ``on_search`` hears how long each took."""
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
        """The engine can serve."""
        self._turn()
        self._ready = True

    def rows_done(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Rows left this stage; without a status they go on to a later one."""
        for record in records:
            self._rows[record.get("status") or ON_ITS_WAY] += 1
            if reason := record.get("reason"):
                self._reasons[reason] += 1

    def account(self) -> Account:
        """All so far; see the sample above."""
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
        """A row waits for its contexts inside the block."""
        self._turn(searches=1)
        began = self._clock()
        try:
            yield
        finally:
            self._turn(searches=-1)
            self._on_search(self._clock() - began)

    def count_retries(self, number: int) -> None:
        """So many questions are asked again."""
        self._retried += number

    async def call(self, asked: Any) -> Generation:
        """Await a call of the engine, and count it."""
        self._turn(calls=1)
        try:
            given: Generation = await asked
        finally:
            self._turn(calls=-1)
        for name in TOKENS:
            self._tokens[name] += getattr(given, name)
        return given

    def _turn(self, calls: int = 0, searches: int = 0) -> None:
        """Book the time since the last turn on what went on; from now on so many more calls and searches do."""
        with self._lock:
            now = self._clock()
            passed, self._since = now - self._since, now
            doing: Doing = "busy" if self._calls else "retrieval" if self._searches else "idle"
            self._seconds[doing if self._ready else "start"] += passed
            self._calls_seconds += passed * self._calls
            self._calls += calls
            self._searches += searches


class MeteredEngine:
    """An engine whose calls a meter counts."""

    def __init__(self, engine: "Engine", meter: Meter):
        self._engine, self._meter = engine, meter

    async def generate(
        self, messages: Sequence[dict[str, str]], sampling: Json, adapter: str | None = None
    ) -> Generation:
        """As the engine's."""
        return await self._meter.call(self._engine.generate(messages, sampling, adapter))

    async def choose(
        self, messages: Sequence[dict[str, str]], words: Sequence[str], adapter: str | None = None
    ) -> Generation:
        """As the engine's."""
        return await self._meter.call(self._engine.choose(messages, words, adapter))
