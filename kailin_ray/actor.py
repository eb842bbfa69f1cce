"""The Ray actors of a distillation: the one that hosts an engine, and the one that knows how far all of them are."""

import asyncio
import os
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from kailin_ray.config import DistillConfig
from kailin_ray.distill import Distiller, Record, engine_died
from kailin_ray.generation import EngineDeadError
from kailin_ray.meter import Meter, MeteredEngine
from kailin_ray.metrics import EngineMetrics
from kailin_ray.schema import RECORDS
from kailin_ray.searching import Searcher
from kailin_ray.stages import EngineSpec, Stage

StartEngine = Callable[[EngineSpec], Any]

VERDICTS_TO_LOG = 5
"""Of each engine's first verdicts the probabilities are written to its log."""

SHRINK = 8
"""Rows that an engine died of are looked for in ever smaller groups, each an eighth of the one before: of 512 rows in
flight the one that kills is found, and failed, with the fourth engine that it kills."""

TELL_S = 1.0
"""Seconds between two words to the driver: a call per row would cost more than the row."""


class Progress:
    """Actor: what the engine actors did so far, and which rows they work on.

    The driver reads it to show it and to write it down. A row that comes again while it is still being worked on was in
    an engine that died: ``enter`` counts that.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, dict[str, Any]] = {}
        self._open: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._num_left = 0
        self._draining = False

    def tell(self, replica: str, account: dict[str, Any]) -> bool:
        """The account of one replica so far, which replaces its last one; return whether to begin no more rows."""
        if account["seconds"] >= self._accounts.get(replica, account)["seconds"]:  # words may overtake one another
            self._accounts[replica] = account
        return self._draining

    def enter(self, pmids: Sequence[int]) -> dict[int, int] | None:
        """Begin with rows; return those that were in an engine that died, with how often. None: begin with no more.

        Those are not begun yet: they go into an engine without other rows, see ``enter_alone``.
        """
        died = self._open.intersection(pmids)
        self._open -= died
        self._deaths.update(died)
        if self._draining:
            return None
        suspects = {pmid: self._deaths[pmid] for pmid in pmids if pmid in self._deaths}
        self._open.update(pmid for pmid in pmids if pmid not in suspects)
        return suspects

    def enter_alone(self, pmids: Sequence[int]) -> None:
        """Begin with a group of suspects."""
        self._open.update(pmids)

    def leave(self, pmids: Sequence[int]) -> None:
        """Rows are done, whatever became of them."""
        self._open.difference_update(pmids)
        for pmid in pmids:
            self._deaths.pop(pmid, None)
        self._num_left += len(pmids)

    def drain(self) -> None:
        """Let the engines begin no more rows."""
        self._draining = True

    def state(self) -> dict[str, Any]:
        """``accounts``: the last of each replica that ever started, dead ones too (see ``meter``); ``num_open`` rows.

        ``num_left``: how many rows were finished, those that were done again too.
        """
        return {"accounts": list(self._accounts.values()), "num_open": len(self._open), "num_left": self._num_left}


def group_size(deaths: int, rows_in_flight: int) -> int:
    """How many rows that were in an engine ``deaths`` times when it died go into one together: ever fewer."""
    return max(1, rows_in_flight // SHRINK**deaths)


def is_deadly(deaths: int, rows_in_flight: int) -> bool:
    """Whether a row was the only one in an engine when it died, and that was not the first time."""
    return deaths > 1 and group_size(deaths - 1, rows_in_flight) == 1


def start_vllm(spec: EngineSpec) -> Any:
    """Start the vLLM engine of a stage; returns when it can serve."""
    # Here and not above: the driver, which only names the actor, needs no vLLM.
    from kailin_ray.engine import Engine

    try:
        return Engine(spec, ray_metrics=True)
    except RuntimeError as error:
        # Of a process that was killed while it started vLLM says no more than of one that cannot: once more tells.
        if "Engine core initialization failed" not in str(error):
            raise
        print(f"{error}; once more", flush=True)
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
        metrics = EngineMetrics(stage.name)
        self._meter = Meter(stage.name, on_search=metrics.searched)
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
                    made = list(await asyncio.gather(*(self._worked(row) for row in rows)))
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
            record = await self._worked(row)
        finally:
            self._room.release()
        if self._verdicts_to_log and (line := judged(record)):
            self._verdicts_to_log -= 1
            print(line, flush=True)
        return record

    async def _worked(self, row: Record) -> Record:
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


def judged(record: Record) -> str | None:
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


def send_output_to(log: Path) -> None:
    """Append this process's output, and its children's (vLLM's), to a file: the terminal stays readable."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
