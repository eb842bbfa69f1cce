"""The Ray actors of a distillation: the one that hosts an engine, and the one that knows how far all of them are."""

import asyncio
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.util import metrics

from kailin_ray.config import DistillConfig
from kailin_ray.distill import Distiller, Record
from kailin_ray.generation import EngineDeadError
from kailin_ray.meter import TOKENS, Meter, MeteredEngine
from kailin_ray.retrieval.index import Hit
from kailin_ray.retrieval.retriever import Query
from kailin_ray.schema import RECORDS
from kailin_ray.stages import EngineSpec, Stage

StartEngine = Callable[[EngineSpec], Any]

VERDICTS_TO_LOG = 5
"""Of each engine's first verdicts the probabilities are written to its log."""

TELL_S = 1.0
"""Seconds between two words to the driver: a call per row would cost more than the row."""


class Progress:
    """Actor: what the engine actors did so far; the driver reads it to show it and to write it down."""

    def __init__(self) -> None:
        self._accounts: dict[str, dict[str, Any]] = {}

    def tell(self, replica: str, account: dict[str, Any]) -> None:
        """The account of one replica so far; it replaces its last one."""
        if account["seconds"] >= self._accounts.get(replica, account)["seconds"]:  # words may overtake one another
            self._accounts[replica] = account

    def accounts(self) -> list[dict[str, Any]]:
        """The last account of each replica that ever started, dead ones too; see ``meter``."""
        return list(self._accounts.values())


def start_vllm(spec: EngineSpec) -> Any:
    """Start the vLLM engine of a stage; returns when it can serve."""
    # Here and not above: the driver, which only names the actor, needs no vLLM.
    from kailin_ray.engine import Engine

    return Engine(spec, ray_metrics=True)


class DistillActor:
    """Ray Data actor: hosts one engine; a block of documents or records in, the block of their records out."""

    def __init__(
        self,
        config: DistillConfig,
        stage: Stage,
        mesh: Any,
        retriever: Any,
        progress: Any,
        log: str,
        start_engine: StartEngine,
    ):
        """Start the engine. ``mesh`` is a reference: its arrays are read where they lie in shared memory."""
        _send_output_to(Path(log))
        self._meter = Meter(stage.name)
        self._teller = Teller(self._meter, stage.name, progress)
        self._engine = start_engine(stage.engine)
        if retriever is not None:
            ray.get(retriever.ready.remote())
        search = Searcher(retriever, self._meter).search
        engine: Any = MeteredEngine(self._engine, self._meter)
        self._distiller = Distiller(config, stage.steps, engine, search, ray.get(mesh))
        # More blocks than rows at once are here: where a block waits for its last row, the others go on.
        self._room = asyncio.Semaphore(config.cluster.rows_in_flight)
        self._verdicts_to_log = VERDICTS_TO_LOG if "judge" in stage.steps else 0
        self._meter.ready()

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Work on a block's rows at the same time; a dead engine ends this actor, and Ray replaces it."""
        try:
            records = await asyncio.gather(*(self._record(row) for row in batch.to_pylist()))
        except EngineDeadError:
            ray.get(self._teller.tell())
            os._exit(1)
        # Counted by the block, as what an engine's death leaves unfinished is done, and counted, again.
        self._meter.rows_done(record.get("status") for record in records)
        self._teller.tell()
        yield pa.Table.from_pylist(records, RECORDS)

    def __del__(self) -> None:
        """Ray Data lets go of an actor that has no more to do: stop the engine's processes in good order."""
        if teller := getattr(self, "_teller", None):
            teller.stop()
        if engine := getattr(self, "_engine", None):
            engine.shutdown()

    async def _record(self, row: Record) -> Record:
        async with self._room:
            record = await self._distiller.record(row)
        if self._verdicts_to_log and (line := judged(record)):
            self._verdicts_to_log -= 1
            print(line, flush=True)
        return record


class Teller:
    """Tells the driver and Prometheus an engine's account, each second and when asked.

    In a thread, so that the time of an engine that starts, or has nothing to do, is known too. It knows nothing of the
    actor: that must be free to go.
    """

    def __init__(self, meter: Meter, stage: str, progress: Any):
        """Begin to tell."""
        self._meter, self._gauges, self._progress = meter, Gauges(stage), progress
        self._replica = uuid.uuid4().hex
        self._stopped = threading.Event()
        threading.Thread(target=self._keep_telling, daemon=True).start()

    def tell(self) -> Any:
        """Tell now; return the reference of the driver's having heard it."""
        account = self._meter.account()
        self._gauges.set(account)
        return self._progress.tell.remote(self._replica, account)

    def stop(self) -> None:
        """Tell no more."""
        self._stopped.set()

    def _keep_telling(self) -> None:
        while True:
            self.tell()
            if self._stopped.wait(TELL_S):
                return


class Gauges:
    """An engine's account as metrics of Ray's Prometheus endpoint; vLLM's own stand beside them."""

    def __init__(self, stage: str):
        """Ray adds the node and the worker to the tags."""

        def gauge(name: str, about: str, *tags: str) -> metrics.Gauge:
            made = metrics.Gauge(f"kailin_ray_{name}", about, tag_keys=("stage", *tags))
            made.set_default_tags({"stage": stage})
            return made

        self._rows = gauge("rows", "Abstracts that left this stage, by status", "status")
        self._tokens = gauge("tokens", "Tokens of this engine's calls", "kind")
        self._seconds = gauge("engine_seconds", "This engine's time: start, busy, retrieval, idle", "state")
        self._in_flight = gauge("calls_in_flight", "Calls in the engine")

    def set(self, account: dict[str, Any]) -> None:
        """Show an account."""
        for status, number in account["rows"].items():
            self._rows.set(number, {"status": status})
        for name in TOKENS:
            self._tokens.set(account[name], {"kind": name.removesuffix("_tokens")})
        for state in ("start", "busy", "retrieval", "idle"):
            self._seconds.set(account[state], {"state": state})
        self._in_flight.set(account["in_flight"])


class Searcher:
    """Asks the retriever actor. What many coroutines ask in one turn of the event loop goes as one call."""

    def __init__(self, retriever: Any, meter: Meter):
        self._retriever, self._meter = retriever, meter
        self._waiting: list[tuple[Query, asyncio.Future[list[Hit]]]] = []
        self._calls: set[asyncio.Task[None]] = set()

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

    async def _ask(self, waiting: list[tuple[Query, asyncio.Future[list[Hit]]]]) -> None:
        try:
            found = await self._retriever.search.remote([query for query, _ in waiting])
        except Exception as error:  # each row that asked gets it, and is recorded as failed
            for _, answer in waiting:
                answer.set_exception(error)
            return
        for (_, answer), hits in zip(waiting, found, strict=True):
            answer.set_result(hits)


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


def _send_output_to(log: Path) -> None:
    """Append this process's output, and its children's (vLLM's), to a file: the terminal stays readable."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
