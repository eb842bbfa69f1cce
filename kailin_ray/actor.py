"""The Ray actors of a distillation: the one that hosts an engine, and the one that knows how far all of them are."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from kailin_ray.config import DistillConfig
from kailin_ray.distill import Distiller, Document
from kailin_ray.generation import EngineDeadError
from kailin_ray.retrieval.index import Hit
from kailin_ray.retrieval.retriever import Query
from kailin_ray.schema import RECORDS

if TYPE_CHECKING:
    from kailin_ray.engine import Engine

StartEngine = Callable[[DistillConfig], Any]

VERDICTS_TO_LOG = 5
"""Of each engine's first verdicts the probabilities are written to its log."""

TELL_S = 0.5
"""Seconds between two words to the driver of what is done: a call per row would cost more than the row."""


class Progress:
    """Actor: what the engine actors did so far; the driver reads it to show it."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._starts = 0
        self._engines: list[dict[str, float]] = []

    def engine_starts(self) -> None:
        """An engine is about to start, for the first time or after a death."""
        self._starts += 1

    def engine_ready(self, start_seconds: float) -> None:
        """An engine can serve."""
        self._engines.append({"ready": time.time(), "seconds": start_seconds})

    def rows_done(self, statuses: dict[str, int]) -> None:
        """So many rows of each status have their records."""
        self._rows.update(statuses)

    def snapshot(self) -> dict[str, Any]:
        """Rows by status, engine starts begun, and of those that came up when and after how many seconds."""
        return {"rows": dict(self._rows), "starts": self._starts, "engines": list(self._engines)}


def start_vllm(config: DistillConfig) -> "Engine":
    """Start the vLLM engine that a configuration asks for; returns when it can serve."""
    # Here and not above: the driver, which only names the actor, needs no vLLM.
    from kailin_ray.engine import Engine

    judges = config.evaluation.by != "rule"
    return Engine(config.model.path, config.model.revision, config.model.engine, float32_head=judges)


class DistillActor:
    """Ray Data actor: hosts one engine; a block of documents in, the block of their records out."""

    def __init__(
        self, config: DistillConfig, mesh: Any, retriever: Any, progress: Any, log: str, start_engine: StartEngine
    ):
        """Start the engine. ``mesh`` is a reference: its arrays are read where they lie in shared memory."""
        _send_output_to(Path(log))
        started = time.monotonic()
        progress.engine_starts.remote()
        engine = start_engine(config)
        ray.get(retriever.ready.remote())
        self._distiller = Distiller(config, engine, Searcher(retriever).search, ray.get(mesh))
        self._verdicts_to_log = VERDICTS_TO_LOG
        self._progress = progress
        self._done: Counter[str] = Counter()
        self._told = 0.0
        progress.engine_ready.remote(time.monotonic() - started)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Work on a block's rows at the same time; a dead engine ends this actor, and Ray replaces it."""
        try:
            records = await asyncio.gather(*(self._record(row) for row in batch.to_pylist()))
        except EngineDeadError:
            os._exit(1)
        self._tell()
        yield pa.Table.from_pylist(records, RECORDS)

    async def _record(self, document: Document) -> dict[str, Any]:
        record = await self._distiller.record(document)
        if self._verdicts_to_log and (line := judged(record)):
            self._verdicts_to_log -= 1
            print(line, flush=True)
        self._done[record["status"]] += 1
        if time.monotonic() - self._told > TELL_S:
            self._tell()
        return record

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._progress.rows_done.remote(dict(self._done))
        self._done.clear()


class Searcher:
    """Asks the retriever actor. What many coroutines ask in one turn of the event loop goes as one call."""

    def __init__(self, retriever: Any):
        self._retriever = retriever
        self._waiting: list[tuple[Query, asyncio.Future[list[Hit]]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def search(self, question: str, k: int, exclude: int | None) -> list[Hit]:
        """The ``k`` passages nearest to ``question``, without the passage of PMID ``exclude``."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Hit]] = loop.create_future()
        self._waiting.append(((question, k, exclude), answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        return await answer

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        call = asyncio.get_running_loop().create_task(self._ask(waiting))
        self._calls.add(call)  # the loop itself holds a task only weakly
        call.add_done_callback(self._calls.discard)

    async def _ask(self, waiting: list[tuple[Query, asyncio.Future[list[Hit]]]]) -> None:
        try:
            found = await self._retriever.search.remote([query for query, _ in waiting])
        except Exception as error:  # each row that asked gets it, and is recorded as failed
            for _, answer in waiting:
                answer.set_exception(error)
            return
        for (_, answer), hits in zip(waiting, found, strict=True):
            answer.set_result(hits)


def judged(record: dict[str, Any]) -> str | None:
    """What the judge thought of a row, for the log."""
    candidates = record.get("candidates") or []
    if not candidates or candidates[0]["judge_probability"] is None:
        return None
    means = ", ".join(f"{one['agent']} {one['judge_probability']:.3f}" for one in candidates)
    orders = record.get("judge_orders")
    shown = f"P({candidates[0]['agent']}) shown first {orders[0]:.3f}, shown second {orders[1]:.3f}; " if orders else ""
    preferred = record.get("preferred")
    verdict = "abstains" if preferred is None else f"prefers {candidates[preferred]['agent']} by {record['margin']:.3f}"
    return f"judge: PMID {record['pmid']}: {shown}{means}; {verdict}"


def _send_output_to(log: Path) -> None:
    """Append this process's output, and its children's (vLLM's), to a file: the terminal stays readable."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
