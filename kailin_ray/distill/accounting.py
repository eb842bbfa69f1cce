"""The cost of each session of a run: a small file per session, kept up to date, so that killed sessions count too.

The file also shows that the session is alive: ``progress`` is the progress of the current phase (``monitor.Watch``).

A run that was stopped and resumed has several sessions. Sample of one stage (seconds are summed over its replicas)::

    {"replicas": 2, "starts": 3, "restarts": 1, "gpus": 1, "seconds": 1810.2, "gpu_seconds": 1810.2, "start": 132.0,
     "busy": 1570.1, "retrieval": 12.0, "idle": 96.1, "calls": 52013.0, "prompt_tokens": 5500211, ...,
     "searches_retried": 0}
"""

import logging
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from kailin_ray.dataset.counts import AgentTokens
from kailin_ray.dataset.run import Cost, SessionSeconds, StageFigures
from kailin_ray.distill.liveness import ProcessId, this_process
from kailin_ray.engines.metering import Account
from kailin_ray.io.files import read_json, write_json
from kailin_ray.planning.plan import Phase, Plan, PoolNote, as_json

logger = logging.getLogger(__name__)


class EngineNumbers(TypedDict):
    """Numbers of engines of the current phase."""

    ready: int
    wanted: int
    begun: int


Outcome = Literal["done", "stopped", "failed"]


class PhaseProgress(TypedDict):
    """Progress of the current phase."""

    state: Literal["running", "stopping", "ended"]
    outcome: Outcome | None
    """How the phase ended; None while it runs."""
    why: str | None
    """The same in words."""
    phase: int
    total: int
    done: int
    marks: list[tuple[float, int]]
    """Points in time with the number of rows that were done, in seconds of a clock that is never set."""
    engines: EngineNumbers


class SessionProgress(PhaseProgress):
    """The progress of the current phase, with facts about the session."""

    phases: int
    host: str
    process: ProcessId
    """The driver."""
    updated: float
    """Seconds since 1970, by the host's clock."""


class StageSums(TypedDict):
    """Sums over the replicas of a stage; see the sample above."""

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
    """The content of a session's file."""

    number: int
    """Larger than that of each earlier session of the run: names and times depend on the hosts' clocks."""
    plan: list[list[PoolNote]]
    seconds: SessionSeconds
    stages: dict[str, StageSums]
    progress: SessionProgress


class Sessions(TypedDict):
    """Sums over all sessions of a run; ``plan`` is the plan of the last session."""

    num: int
    seconds: SessionSeconds
    stages: dict[str, StageSums]
    plan: list[list[PoolNote]] | None


@dataclass(frozen=True, kw_only=True)
class RunAccount:
    """The cost of a run and how its time was spent; fields of ``RunManifest``."""

    plan: list[list[PoolNote]] | None
    sessions: int
    restarts: int
    seconds: SessionSeconds
    abstracts_per_second: float
    engines: dict[str, StageFigures]
    cost: Cost


class Session:
    """The file of one session: the accounts of its engines, and its duration."""

    def __init__(self, run: Path, plan: Plan):
        """Start a session. Nothing is written yet."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self._path = run / "sessions" / f"{stamp}-{uuid.uuid4().hex[:8]}.json"
        self._number = 1 + max((note["number"] for note in read_sessions(run)), default=0)
        self._began = time.monotonic()
        self._plan = as_json(plan)
        self._stages: dict[str, StageSums] = {}
        self._seconds: dict[int, tuple[float, float]] = {}

    def update(
        self, number: int, phase: Phase, accounts: Sequence[Account], distill: float, progress: PhaseProgress
    ) -> None:
        """Write the progress of a phase: the accounts of its replicas, and the seconds since the first was ready."""
        for pool in phase:
            pool_accounts = [account for account in accounts if account["stage"] == pool.stage.name]
            self._stages[pool.stage.name] = add_up(pool_accounts, pool.replicas, pool.demand.gpus)
        self._seconds[number] = max((account["start"] for account in accounts), default=0.0), distill
        start_seconds, work_seconds = zip(*self._seconds.values(), strict=True)
        total = time.monotonic() - self._began
        note: SessionNote = {
            "number": self._number,
            "plan": self._plan,
            "seconds": {"total": total, "engine_start": sum(start_seconds), "distill": sum(work_seconds)},
            "stages": self._stages,
            "progress": {
                **progress,
                "phases": len(self._plan),
                "host": socket.gethostname(),
                "process": this_process(),
                "updated": time.time(),
            },
        }
        write_json(self._path, note)


def read_sessions(run: Path) -> list[SessionNote]:
    """Return the sessions of a run, in the order of their start."""
    return list(read_session_files(run).values())


def read_session_files(run: Path) -> dict[Path, SessionNote]:
    """Return the sessions of a run by their files, in the order of their start."""
    notes = {}
    for path in sorted((run / "sessions").glob("*.json")):
        try:
            notes[path] = _upgrade_session(read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError):  # cut off by a power failure
            logger.warning("%s cannot be read and is left out of the account", path)
    return dict(sorted(notes.items(), key=lambda item: item[1]["number"]))


def _upgrade_session(note: Any) -> SessionNote:
    """Return a session's note with today's names.

    Earlier versions called a phase a part, and had no outcome and no number. Their sessions come first, by their names.
    """
    note["number"] = int(note.get("number", 0))
    if "part" in note["progress"]:
        old = {key: value for key, value in note["progress"].items() if key not in ("part", "parts")}
        why = old["why"] or ""
        outcome = "done" if why == "done" else "stopped" if "the same command goes on" in why else "failed"
        note["progress"] = {
            **old,
            "phase": note["progress"]["part"],
            "phases": note["progress"]["parts"],
            "outcome": outcome if old["state"] == "ended" else None,
        }
    upgraded: SessionNote = note
    return upgraded


def rate_of(marks: Sequence[Sequence[float]]) -> float | None:
    """Return the rows per second between the first and the last of ``marks``: pairs of time (seconds) and rows done.

    None if there are fewer than two marks, or no time between them.
    """
    if len(marks) < 2:
        return None
    (start, done_at_start), (end, done_at_end) = marks[0], marks[-1]
    return (done_at_end - done_at_start) / (end - start) if end > start else None


def add_up(accounts: Sequence[Account], replicas: int, gpus: float) -> StageSums:
    """Add up the accounts of a stage's replicas, with ``gpus`` GPUs each; see the sample above."""
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
    """Return the sums over all sessions of a run."""
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


def _both(earlier: StageSums, later: StageSums | None) -> StageSums:
    """Add the sums of a stage over two sessions; ``later`` None: only one session. Old files have fewer sums."""
    if later is None:
        return earlier | {"searches_retried": earlier.get("searches_retried", 0)}
    return {
        "replicas": later["replicas"],
        "gpus": max(earlier["gpus"], later["gpus"]),
        "starts": earlier["starts"] + later["starts"],
        "restarts": earlier["restarts"] + later["restarts"],
        "seconds": earlier["seconds"] + later["seconds"],
        "gpu_seconds": earlier["gpu_seconds"] + later["gpu_seconds"],
        "start": earlier["start"] + later["start"],
        "busy": earlier["busy"] + later["busy"],
        "retrieval": earlier["retrieval"] + later["retrieval"],
        "idle": earlier["idle"] + later["idle"],
        "calls": earlier["calls"] + later["calls"],
        "prompt_tokens": earlier["prompt_tokens"] + later["prompt_tokens"],
        "cached_tokens": earlier["cached_tokens"] + later["cached_tokens"],
        "completion_tokens": earlier["completion_tokens"] + later["completion_tokens"],
        "searches_retried": earlier["searches_retried"] + later.get("searches_retried", 0),
    }


def account(
    sessions: Sessions,
    by_agent: Mapping[str, AgentTokens],
    num_documents: int,
    num_ok: int,
    gpu_hour_price: float | None,
) -> RunAccount:
    """Return the cost of a run and how its time was spent, for its manifest.

    ``by_agent``: the tokens from ``counts.count_records``. Without GPUs, the figures per GPU are per engine.
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
    call_seconds = sum(agent["seconds"] for agent in agents)
    lost_seconds = sum(agent["seconds_not_accepted"] for agent in agents)
    million_hours = 1e6 * hours / num_documents if num_documents else 0.0
    return {
        "unit": "GPU" if on_gpus else "engine",
        "hours": round(hours, 4),
        "accepted_per_hour": round(num_ok / hours, 1) if hours else 0,
        "hours_per_million_abstracts": round(million_hours, 1),
        "price_per_million_abstracts": round(million_hours * gpu_hour_price, 2) if gpu_hour_price and on_gpus else None,
        "not_accepted": round(lost_seconds / call_seconds, 4) if call_seconds else 0,
    }


def _figures(stage: StageSums, num_documents: int) -> StageFigures:
    serving_seconds = stage["seconds"] - stage["start"]
    unit_seconds = serving_seconds * (stage["gpus"] or 1)

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
        "output_tokens_per_second": round(stage["completion_tokens"] / unit_seconds, 1) if unit_seconds else 0.0,
        "abstracts_per_second": round(num_documents / unit_seconds, 3) if unit_seconds else 0.0,
    }
