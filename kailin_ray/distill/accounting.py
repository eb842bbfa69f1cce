"""What each session of a run took: one small file a session, kept up to date, so that a killed one counts too.

It is the session's sign of life as well: ``progress`` says how far the part at work is (see ``monitor.Watch``).

A run that was stopped and goes on has several. Sample, of one stage (seconds are summed over its replicas)::

    {"replicas": 2, "starts": 3, "restarts": 1, "gpus": 1, "seconds": 1810.2, "gpu_seconds": 1810.2, "start": 132.0,
     "busy": 1570.1, "retrieval": 12.0, "idle": 96.1, "calls": 52013.0, "prompt_tokens": 5500211, ...,
     "searches_retried": 0}
"""

import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from kailin_ray.dataset.counts import AgentTokens
from kailin_ray.dataset.run import Cost, SessionSeconds, StageFigures
from kailin_ray.engines.metering import Account
from kailin_ray.io.files import read_json, write_json
from kailin_ray.planning.plan import Part, Plan, PoolNote, as_json


class EngineNumbers(TypedDict):
    """Engines of the part at work."""

    ready: int
    wanted: int
    begun: int


class PartProgress(TypedDict):
    """How far the part at work is."""

    state: Literal["running", "stopping", "ended"]
    why: str | None
    """Of one that ended."""
    part: int
    total: int
    done: int
    marks: list[tuple[float, int]]
    """Seconds since 1970, and how many rows were done then."""
    engines: EngineNumbers


class SessionProgress(PartProgress):
    """The same with what the session knows."""

    parts: int
    host: str
    updated: float


class StageSums(TypedDict):
    """What the replicas of a stage did; see the sample above."""

    replicas: int
    gpus: float
    starts: int
    restarts: int
    seconds: float
    gpu_seconds: float
    start: float
    busy: float
    retrieval: float
    idle: float
    calls: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    searches_retried: int


class SessionNote(TypedDict):
    """A session's file."""

    plan: list[list[PoolNote]]
    seconds: SessionSeconds
    stages: dict[str, StageSums]
    progress: SessionProgress


class Sessions(TypedDict):
    """What all sessions of a run took together; ``plan`` is that of the last one."""

    num: int
    seconds: SessionSeconds
    stages: dict[str, StageSums]
    plan: list[list[PoolNote]] | None


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """What a run cost and where the time went; fields of ``RunManifest``."""

    plan: list[list[PoolNote]] | None
    sessions: int
    restarts: int
    seconds: SessionSeconds
    abstracts_per_second: float
    engines: dict[str, StageFigures]
    cost: Cost


class Session:
    """The file of one session: what its engines did, and how long it took."""

    def __init__(self, run: Path, plan: Plan):
        """Nothing is written yet."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self._path = run / "sessions" / f"{stamp}-{uuid.uuid4().hex[:8]}.json"
        self._began = time.monotonic()
        self._plan = as_json(plan)
        self._stages: dict[str, StageSums] = {}
        self._seconds: dict[int, tuple[float, float]] = {}

    def update(
        self, number: int, part: Part, accounts: Sequence[Account], distill: float, progress: PartProgress
    ) -> None:
        """Write down how far a part has come: the accounts of its replicas, and the seconds since one was ready."""
        for pool in part:
            mine = [account for account in accounts if account["stage"] == pool.stage.name]
            self._stages[pool.stage.name] = add_up(mine, pool.replicas, pool.demand.gpus)
        self._seconds[number] = max((account["start"] for account in accounts), default=0.0), distill
        starts, worked = zip(*self._seconds.values(), strict=True)
        total = time.monotonic() - self._began
        note: SessionNote = {
            "plan": self._plan,
            "seconds": {"total": total, "engine_start": sum(starts), "distill": sum(worked)},
            "stages": self._stages,
            "progress": {**progress, "parts": len(self._plan), "host": socket.gethostname(), "updated": time.time()},
        }
        write_json(self._path, note)


def read_sessions(run: Path) -> list[SessionNote]:
    """The sessions of a run, in their order."""
    return [read_json(path) for path in sorted((run / "sessions").glob("*.json"))]


def rate_of(marks: Sequence[Sequence[float]]) -> float | None:
    """Rows a second between the first and the last of some ``(time in seconds, rows done)``."""
    if len(marks) < 2:
        return None
    (began, before), (now, done) = marks[0], marks[-1]
    return (done - before) / (now - began) if now > began else None


def add_up(accounts: Sequence[Account], replicas: int, gpus: float) -> StageSums:
    """The accounts of a stage's replicas, of so many GPUs each, as one; see the sample above."""
    seconds = sum(account["seconds"] for account in accounts)
    return {
        "replicas": replicas,
        "gpus": gpus,
        "starts": len(accounts),
        "restarts": max(0, len(accounts) - replicas),
        "seconds": seconds,
        "gpu_seconds": seconds * gpus,
        "start": sum(account["start"] for account in accounts),
        "busy": sum(account["busy"] for account in accounts),
        "retrieval": sum(account["retrieval"] for account in accounts),
        "idle": sum(account["idle"] for account in accounts),
        "calls": sum(account["calls"] for account in accounts),
        "prompt_tokens": sum(account["prompt_tokens"] for account in accounts),
        "cached_tokens": sum(account["cached_tokens"] for account in accounts),
        "completion_tokens": sum(account["completion_tokens"] for account in accounts),
        "searches_retried": sum(account["searches_retried"] for account in accounts),
    }


def all_sessions(run: Path) -> Sessions:
    """What all sessions of a run took together."""
    notes = read_sessions(run)
    stages: dict[str, StageSums] = {}
    for note in notes:
        for name, stage in note["stages"].items():
            stages[name] = _both(stages[name], stage) if name in stages else _both(stage, None)
    seconds: SessionSeconds = {
        "total": sum(note["seconds"]["total"] for note in notes),
        "engine_start": sum(note["seconds"]["engine_start"] for note in notes),
        "distill": sum(note["seconds"]["distill"] for note in notes),
    }
    return {"num": len(notes), "seconds": seconds, "stages": stages, "plan": notes[-1]["plan"] if notes else None}


def _both(one: StageSums, other: StageSums | None) -> StageSums:
    """A stage of one session with the same of a later one, None for one alone; older sessions know fewer sums."""
    if other is None:
        return one | {"searches_retried": one.get("searches_retried", 0)}
    return {
        "replicas": other["replicas"],
        "gpus": max(one["gpus"], other["gpus"]),
        "starts": one["starts"] + other["starts"],
        "restarts": one["restarts"] + other["restarts"],
        "seconds": one["seconds"] + other["seconds"],
        "gpu_seconds": one["gpu_seconds"] + other["gpu_seconds"],
        "start": one["start"] + other["start"],
        "busy": one["busy"] + other["busy"],
        "retrieval": one["retrieval"] + other["retrieval"],
        "idle": one["idle"] + other["idle"],
        "calls": one["calls"] + other["calls"],
        "prompt_tokens": one["prompt_tokens"] + other["prompt_tokens"],
        "cached_tokens": one["cached_tokens"] + other["cached_tokens"],
        "completion_tokens": one["completion_tokens"] + other["completion_tokens"],
        "searches_retried": one["searches_retried"] + other.get("searches_retried", 0),
    }


def account(
    sessions: Sessions,
    by_agent: Mapping[str, AgentTokens],
    num_documents: int,
    num_ok: int,
    gpu_hour_price: float | None,
) -> RunAccount:
    """What a run cost and where the time went, for its manifest.

    ``by_agent``: of ``counts.count_records``. Without GPUs, what is said per GPU is said per engine.
    """
    stages, seconds = sessions["stages"], sessions["seconds"]
    return RunAccount(
        plan=sessions["plan"],
        sessions=sessions["num"],
        restarts=sum(stage["restarts"] for stage in stages.values()),
        seconds={
            "total": round(seconds["total"], 1),
            "engine_start": round(seconds["engine_start"], 1),
            "distill": round(seconds["distill"], 1),
        },
        abstracts_per_second=round(num_documents / seconds["distill"], 3) if seconds["distill"] else 0,
        engines={name: _figures(stage, num_documents) for name, stage in stages.items()},
        cost=_cost(stages.values(), by_agent.values(), num_documents, num_ok, gpu_hour_price),
    )


def _cost(
    stages: Iterable[StageSums],
    agents: Iterable[AgentTokens],
    num_documents: int,
    num_ok: int,
    gpu_hour_price: float | None,
) -> Cost:
    stages, agents = list(stages), list(agents)
    on_gpus = any(stage["gpus"] for stage in stages)
    hours = sum(stage["gpu_seconds"] if on_gpus else stage["seconds"] for stage in stages) / 3600
    called = sum(agent["seconds"] for agent in agents)
    lost = sum(agent["seconds_not_accepted"] for agent in agents)
    million = 1e6 * hours / num_documents if num_documents else 0.0
    return {
        "unit": "GPU" if on_gpus else "engine",
        "hours": round(hours, 4),
        "accepted_per_hour": round(num_ok / hours, 1) if hours else 0,
        "hours_per_million_abstracts": round(million, 1),
        "price_per_million_abstracts": round(million * gpu_hour_price, 2) if gpu_hour_price and on_gpus else None,
        "not_accepted": round(lost / called, 4) if called else 0,
    }


def _figures(stage: StageSums, num_documents: int) -> StageFigures:
    serving = stage["seconds"] - stage["start"]
    each = serving * (stage["gpus"] or 1)

    def share(part: float) -> float:
        return round(part / stage["seconds"], 4) if stage["seconds"] else 0.0

    return {
        "replicas": stage["replicas"],
        "gpus": stage["gpus"],
        "starts": stage["starts"],
        "restarts": stage["restarts"],
        "seconds": round(stage["seconds"], 1),
        "gpu_seconds": round(stage["gpu_seconds"], 1),
        "start_share": share(stage["start"]),
        "busy_share": share(stage["busy"]),
        "retrieval_share": share(stage["retrieval"]),
        "idle_share": share(stage["idle"]),
        "prompt_tokens": stage["prompt_tokens"],
        "cached_tokens": stage["cached_tokens"],
        "completion_tokens": stage["completion_tokens"],
        "searches_retried": stage["searches_retried"],
        "calls_at_once": round(stage["calls"] / stage["busy"], 1) if stage["busy"] else 0.0,
        "output_tokens_per_second": round(stage["completion_tokens"] / each, 1) if each else 0.0,
        "abstracts_per_second": round(num_documents / each, 3) if each else 0.0,
    }
