"""The Ray actor that hosts an engine, and the thread that reports the engine's account to the driver."""

import asyncio
import logging
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from kailin_ray.config import DistillConfig
from kailin_ray.distill.distiller import Distiller, Record, engine_died
from kailin_ray.distill.fitting import fit
from kailin_ray.distill.metrics import EngineMetrics
from kailin_ray.distill.progress import group_size, is_deadly
from kailin_ray.distill.silence import end_when_silent
from kailin_ray.engines.interface import EngineDeadError, EngineSpec
from kailin_ray.engines.metering import Meter, MeteredEngine
from kailin_ray.engines.tokenizer import describe_reasoning
from kailin_ray.io.logs import log_to_output
from kailin_ray.io.terminal import send_output_to
from kailin_ray.planning.stages import Stage
from kailin_ray.retrieval.client import Searcher
from kailin_ray.runtime.faults import describe_error

logger = logging.getLogger(__name__)
StartEngine = Callable[[EngineSpec], Any]

VERDICTS_TO_LOG = 5
"""Number of verdicts per engine whose probabilities are logged."""

ANSWER_S = 60.0
"""Seconds that the progress actor may take to answer."""

TELL_S = 1.0
"""Seconds between two reports to the driver: a call per row would cost more than the row."""


def start_vllm(spec: EngineSpec) -> Any:
    """Start the vLLM engine of a stage; return when it can serve."""
    # Imported here because the driver only refers to the actor and does not need vLLM.
    from kailin_ray.engines.vllm_engine import Engine

    try:
        return Engine(spec, ray_metrics=True)
    except RuntimeError as error:
        # vLLM raises the same error for a process that was killed during its start and for one that cannot start.
        # A second attempt shows which it is.
        if "Engine core initialization failed" not in str(error):
            raise
        logger.warning("%s; retrying once", error)
        return Engine(spec, ray_metrics=True)


class DistillActor:
    """Ray Data actor that hosts one engine. It maps a block of documents or records to the block of their records."""

    def __init__(
        self,
        config: DistillConfig,
        stage: Stage,
        max_concurrent_rows: int,
        mesh: Any,
        retrievers: Sequence[Any],
        progress: Any,
        log: str,
        start_engine: StartEngine,
    ):
        """Start the engine. ``mesh`` is a Ray reference: its arrays are read from shared memory, without a copy."""
        send_output_to(Path(log))
        log_to_output()
        metrics = EngineMetrics(stage.name)
        self._meter = Meter(stage.name, on_search=metrics.count_search)
        self._replica = uuid.uuid4().hex
        self._open: set[int] = set()
        """The rows in the engine, as ``progress`` knows them."""
        self._teller = Teller(self._replica, self._meter, self._open, metrics, progress)
        self._engine = start_engine(stage.engine)
        max_silent_minutes = config.cluster.max_silent_minutes
        end_when_silent(self._meter, max_silent_minutes)
        search = Searcher(retrievers, self._meter, max_silent_minutes).search
        engine: Any = MeteredEngine(self._engine, self._meter)
        self._distiller = Distiller(config, stage.steps, engine, search, ray.get(mesh))
        self._progress = progress
        # The actor gets more blocks than fit into the limit on concurrent rows. When a block waits for its last row,
        # rows of the other blocks use the free places.
        self._places = max_concurrent_rows
        self._room = asyncio.Semaphore(self._places)
        self._one_group = asyncio.Lock()
        self._dead = False
        self._stage = stage
        self._warned = False
        self._verdicts_to_log = VERDICTS_TO_LOG if "judge" in stage.steps else 0
        self._meter.ready()

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Distil the rows of a block concurrently. If the engine dies, this actor exits and Ray replaces it.

        While the run drains, rows that have not begun are left out of the block; a later session distils them.
        """
        try:
            records = await self._records(batch.to_pylist())
        except EngineDeadError:
            with suppress(ray.exceptions.RayError):
                ray.get(self._teller.tell(), timeout=10 * TELL_S)
            os._exit(1)
        table, records = fit(records)
        # Rows are counted per block: if an engine dies, its unfinished blocks are distilled, and counted, again.
        self._meter.rows_done(records)
        self._teller.tell()
        yield table

    async def _records(self, rows: list[Record]) -> list[Record]:
        pmids = [row["pmid"] for row in rows]
        suspects = await self._ask(self._progress.enter.remote(self._replica, pmids), {})
        if suspects is None:
            return []
        fresh = [row for row in rows if row["pmid"] not in suspects]
        self._open.update(row["pmid"] for row in fresh)
        records = await asyncio.gather(*(self._record(row) for row in fresh))
        self._leave(fresh)
        for deaths in sorted(set(suspects.values())):
            suspect_rows = [row for row in rows if suspects.get(row["pmid"]) == deaths]
            size = group_size(deaths, self._places)
            for start in range(0, len(suspect_rows), size):
                records += await self._group(suspect_rows[start : start + size], deaths)
        return [record for record in records if record]

    async def _group(self, rows: list[Record], deaths: int) -> list[Record | None]:
        """Return the records of rows that were in an engine when it died; no other rows are in the engine meanwhile."""
        if is_deadly(deaths, self._places):
            records: list[Record | None] = [engine_died(row, deaths) for row in rows]
        else:
            async with self._one_group:  # otherwise two groups could wait for each other's places forever
                for _ in range(self._places):
                    await self._room.acquire()
                try:
                    if self._teller.draining:
                        return []
                    if self._dead:  # earlier rows killed the engine; the rows of this group are not to blame
                        raise EngineDeadError("dead")
                    pmids = [row["pmid"] for row in rows]
                    await self._ask(self._progress.enter_alone.remote(self._replica, pmids), None)
                    self._open.update(pmids)
                    records = list(await asyncio.gather(*(self._work_on(row) for row in rows)))
                finally:
                    for _ in range(self._places):
                        self._room.release()
        self._leave(rows)
        return records

    async def _ask(self, answer: Any, otherwise: Any) -> Any:
        """Return the answer of the progress actor, or ``otherwise`` if that actor died or hangs: no row needs it."""
        try:
            return await asyncio.wait_for(answer, ANSWER_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            logger.warning("the progress actor did not answer: %s", describe_error(error))
            return otherwise

    def _leave(self, rows: Sequence[Record]) -> None:
        pmids = [row["pmid"] for row in rows]
        self._open.difference_update(pmids)
        self._progress.leave.remote(self._replica, pmids)

    def __del__(self) -> None:
        """Shut the engine's processes down: Ray Data drops an actor that has no more work."""
        if teller := getattr(self, "_teller", None):
            teller.stop()
        if engine := getattr(self, "_engine", None):
            engine.shutdown()

    async def _record(self, row: Record) -> Record | None:
        # A group that takes all places must wait only for rows that already have a place, not for new rows.
        async with self._one_group:
            await self._room.acquire()
        try:
            if self._teller.draining:
                return None
            record = await self._work_on(row)
        finally:
            self._room.release()
        if record.get("reasoning") and not self._warned:
            self._warned = True
            # It loads the tokenizer, and calls of other rows must not wait for that.
            if advice := await asyncio.to_thread(describe_reasoning, self._stage.engine):
                self._progress.warn.remote(f"{self._stage.name}: {advice}")
        if self._verdicts_to_log and (line := format_verdict(record)):
            self._verdicts_to_log -= 1
            logger.info(line)
        return record

    async def _work_on(self, row: Record) -> Record:
        try:
            return await self._distiller.record(row)
        except EngineDeadError:
            self._dead = True
            raise


class Teller:
    """Reports an engine's account to the driver and to Prometheus, each second and on request.

    It runs in a thread, so that the time of an engine that is starting or idle is reported too. It has no reference to
    the actor, which could not be deleted otherwise.
    """

    def __init__(self, replica: str, meter: Meter, rows: set[int], metrics: EngineMetrics, progress: Any):
        """Start the thread. ``rows``: the PMIDs in the engine, kept up to date by the actor."""
        self._replica, self._meter, self._rows, self._metrics, self._progress = replica, meter, rows, metrics, progress
        self._stopped = threading.Event()
        self.draining = False
        threading.Thread(target=self._keep_telling, daemon=True).start()

    def tell(self) -> Any:
        """Report now; return a Ray reference to the reply, which says whether the run drains."""
        account = self._meter.account()
        self._metrics.show(account)
        return self._progress.tell.remote(self._replica, account, list(self._rows))

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()

    def _keep_telling(self) -> None:
        while True:
            reply = self.tell()
            with suppress(ray.exceptions.RayError):  # the next report may succeed
                self.draining = ray.get(reply, timeout=10 * TELL_S)
            if self._stopped.wait(TELL_S):
                return


def format_verdict(record: Record) -> str | None:
    """Return the judge's verdict on a row as a line for the log; None if the judge was not asked."""
    candidates = record.get("candidates") or []
    if not candidates or candidates[0]["judge_probability"] is None:
        return None
    means = ", ".join(f"{candidate['agent']} {candidate['judge_probability']:.3f}" for candidate in candidates)
    orders = record.get("judge_orders")
    shown = f"P({candidates[0]['agent']}) shown first {orders[0]:.3f}, shown second {orders[1]:.3f}; " if orders else ""
    preferred = record.get("preferred")
    verdict = "abstains" if preferred is None else f"prefers {candidates[preferred]['agent']} by {record['margin']:.3f}"
    return f"judge: PMID {record['pmid']}: {shown}{means}; {verdict}"
