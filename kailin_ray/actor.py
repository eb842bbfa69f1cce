"""The Ray actors of a distillation: the one that hosts an engine, and the one that knows how far all of them are."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from kailin_ray.config import DistillConfig
from kailin_ray.distill import Distiller, Document
from kailin_ray.generation import EngineDeadError
from kailin_ray.retrieval.index import Hit
from kailin_ray.schema import RECORDS

VERDICTS_TO_LOG = 5
"""Of each engine's first verdicts the probabilities are written to its log."""


class Progress:
    """Actor: what the engine actors did so far; the driver reads it to show it."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._starts = 0
        self._engines: list[dict[str, float]] = []

    def engine_starts(self) -> None:
        """An engine is about to start, for the first time or after a death."""
        self._starts += 1

    def engine_ready(self, start_seconds: float) -> None:
        """An engine can serve."""
        self._engines.append({"ready": time.time(), "seconds": start_seconds})

    def row_done(self, status: str) -> None:
        """A row has its record."""
        self._rows[status] = self._rows.get(status, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Rows by status, engine starts begun, and of those that came up when and after how many seconds."""
        return {"rows": dict(self._rows), "starts": self._starts, "engines": list(self._engines)}


class DistillActor:
    """Ray Data actor: hosts one engine; a block of documents in, the block of their records out."""

    def __init__(self, config: DistillConfig, mesh: Any, retriever: Any, progress: Any, log: str):
        """Start the engine. ``mesh`` is a reference: its arrays are read where they lie in shared memory."""
        _send_output_to(Path(log))
        # Here and not above: the driver, which only names this class, needs no vLLM.
        from kailin_ray.engine import Engine

        started = time.monotonic()
        progress.engine_starts.remote()
        judges = config.evaluation.by != "rule"
        engine = Engine(config.model.path, config.model.revision, config.model.engine, float32_head=judges)

        async def search(text: str, k: int, exclude: int | None) -> list[Hit]:
            found: list[Hit] = await retriever.search.remote(text, k, exclude)
            return found

        ray.get(retriever.ready.remote())
        self._distiller = Distiller(config, engine, search, ray.get(mesh))
        self._verdicts_to_log = VERDICTS_TO_LOG
        self._progress = progress
        progress.engine_ready.remote(time.monotonic() - started)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Work on a block's rows at the same time; a dead engine ends this actor, and Ray replaces it."""
        try:
            records = await asyncio.gather(*(self._record(row) for row in batch.to_pylist()))
        except EngineDeadError:
            os._exit(1)
        yield pa.Table.from_pylist(records, RECORDS)

    async def _record(self, document: Document) -> dict[str, Any]:
        record = await self._distiller.record(document)
        if self._verdicts_to_log and (line := judged(record)):
            self._verdicts_to_log -= 1
            print(line, flush=True)
        self._progress.row_done.remote(record["status"])
        return record


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
