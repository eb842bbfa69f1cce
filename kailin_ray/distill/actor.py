"""The Ray actors of a distillation: the one that hosts an engine, and the one that knows how far all of them are."""

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
from kailin_ray.distill.metrics import EngineMetrics
from kailin_ray.distill.progress import group_size, is_deadly
from kailin_ray.engines.interface import EngineDeadError, EngineSpec
from kailin_ray.engines.metering import Meter, MeteredEngine
from kailin_ray.io.logs import log_to_output
from kailin_ray.io.terminal import send_output_to
from kailin_ray.planning.stages import Stage
from kailin_ray.retrieval.client import Searcher
from kailin_ray.schema import RECORDS

logger = logging.getLogger(__name__)
StartEngine = Callable[[EngineSpec], Any]

VERDICTS_TO_LOG = 5
"""Of each engine's first verdicts the probabilities are written to its log."""

TELL_S = 1.0
"""Seconds between two words to the driver: a call per row would cost more than the row."""


def start_vllm(spec: EngineSpec) -> Any:
    """Start the vLLM engine of a stage; returns when it can serve."""
    # Here and not above: the driver, which only names the actor, needs no vLLM.
    from kailin_ray.engines.vllm_engine import Engine

    try:
        return Engine(spec, ray_metrics=True)
    except RuntimeError as error:
        # Of a process that was killed while it started vLLM says no more than of one that cannot: once more tells.
        if "Engine core initialization failed" not in str(error):
            raise
        logger.warning("%s; once more", error)
        return Engine(spec, ray_metrics=True)


class DistillActor:
    """Ray Data actor: hosts one engine; a block of documents or records in, the block of their records out."""

    def __init__(
        self,
        config: DistillConfig,
        stage: Stage,
        mesh: Any,
        retrievers: Sequence[Any],
        progress: Any,
        log: str,
        start_engine: StartEngine,
    ):
        """Start the engine. ``mesh`` is a reference: its arrays are read where they lie in shared memory."""
        send_output_to(Path(log))
        log_to_output()
        metrics = EngineMetrics(stage.name)
        self._meter = Meter(stage.name, on_search=metrics.count_search)
        self._teller = Teller(self._meter, metrics, progress)
        self._engine = start_engine(stage.engine)
        search = Searcher(retrievers, self._meter).search
        engine: Any = MeteredEngine(self._engine, self._meter)
        self._distiller = Distiller(config, stage.steps, engine, search, ray.get(mesh))
        self._progress = progress
        # More blocks than rows at once are here: where a block waits for its last row, the others go on.
        self._places = config.cluster.rows_in_flight
        self._room = asyncio.Semaphore(self._places)
        self._one_group = asyncio.Lock()
        self._dead = False
        self._verdicts_to_log = VERDICTS_TO_LOG if "judge" in stage.steps else 0
        self._meter.ready()

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Work on a block's rows at the same time; a dead engine ends this actor, and Ray replaces it.

        While the run drains, rows that are not begun yet are left out of the block: a later session does them.
        """
        try:
            records = await self._records(batch.to_pylist())
        except EngineDeadError:
            ray.get(self._teller.tell())
            os._exit(1)
        # Counted by the block, as what an engine's death leaves unfinished is done, and counted, again.
        self._meter.rows_done(records)
        self._teller.tell()
        yield pa.Table.from_pylist(records, RECORDS)

    async def _records(self, rows: list[Record]) -> list[Record]:
        suspects = await self._progress.enter.remote([row["pmid"] for row in rows])
        if suspects is None:
            return []
        fresh = [row for row in rows if row["pmid"] not in suspects]
        made = await asyncio.gather(*(self._record(row) for row in fresh))
        self._progress.leave.remote([row["pmid"] for row in fresh])
        for deaths in sorted(set(suspects.values())):
            again = [row for row in rows if suspects.get(row["pmid"]) == deaths]
            size = group_size(deaths, self._places)
            for start in range(0, len(again), size):
                made += await self._group(again[start : start + size], deaths)
        return [record for record in made if record]

    async def _group(self, rows: list[Record], deaths: int) -> list[Record | None]:
        """Records of rows that were in an engine when it died, worked on without any others."""
        pmids = [row["pmid"] for row in rows]
        if is_deadly(deaths, self._places):
            made: list[Record | None] = [engine_died(row, deaths) for row in rows]
        else:
            async with self._one_group:  # or two groups would wait for one another's places
                for _ in range(self._places):
                    await self._room.acquire()
                try:
                    if self._teller.draining:
                        return []
                    if self._dead:  # of rows that were before; these are not to blame
                        raise EngineDeadError("dead")
                    await self._progress.enter_alone.remote(pmids)
                    made = list(await asyncio.gather(*(self._work_on(row) for row in rows)))
                finally:
                    for _ in range(self._places):
                        self._room.release()
        self._progress.leave.remote(pmids)
        return made

    def __del__(self) -> None:
        """Ray Data lets go of an actor that has no more to do: stop the engine's processes in good order."""
        if teller := getattr(self, "_teller", None):
            teller.stop()
        if engine := getattr(self, "_engine", None):
            engine.shutdown()

    async def _record(self, row: Record) -> Record | None:
        # A group that gathers all places waits for the rows that have one, not for all that come.
        async with self._one_group:
            await self._room.acquire()
        try:
            if self._teller.draining:
                return None
            record = await self._work_on(row)
        finally:
            self._room.release()
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
    """Tells the driver and Prometheus an engine's account, each second and when asked.

    In a thread, so that the time of an engine that starts, or has nothing to do, is known too. It knows nothing of the
    actor: that must be free to go.
    """

    def __init__(self, meter: Meter, metrics: EngineMetrics, progress: Any):
        """Begin to tell."""
        self._meter, self._metrics, self._progress = meter, metrics, progress
        self._replica = uuid.uuid4().hex
        self._stopped = threading.Event()
        self.draining = False
        threading.Thread(target=self._keep_telling, daemon=True).start()

    def tell(self) -> Any:
        """Tell now; return the reference of the driver's having heard it."""
        account = self._meter.account()
        self._metrics.show(account)
        return self._progress.tell.remote(self._replica, account)

    def stop(self) -> None:
        """Tell no more."""
        self._stopped.set()

    def _keep_telling(self) -> None:
        while True:
            told = self.tell()
            with suppress(ray.exceptions.RayError):  # the next word may be heard again
                self.draining = ray.get(told, timeout=10 * TELL_S)
            if self._stopped.wait(TELL_S):
                return


def format_verdict(record: Record) -> str | None:
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
