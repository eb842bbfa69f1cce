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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kailin_ray.engines.metering import TOKENS
from kailin_ray.io.files import read_json, write_json
from kailin_ray.planning.plan import Part, Plan, as_json

_SUMS = (
    "starts", "restarts", "seconds", "gpu_seconds", "start", "busy", "retrieval", "idle", "calls", *TOKENS,
    "searches_retried",
)  # fmt: skip
_SECONDS = ("total", "engine_start", "distill")


class Session:
    """The file of one session: what its engines did, and how long it took."""

    def __init__(self, run: Path, plan: Plan):
        """Nothing is written yet."""
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self._path = run / "sessions" / f"{stamp}-{uuid.uuid4().hex[:8]}.json"
        self._began = time.monotonic()
        self._plan = as_json(plan)
        self._stages: dict[str, dict[str, Any]] = {}
        self._seconds: dict[int, dict[str, float]] = {}

    def update(
        self, number: int, part: Part, accounts: Sequence[dict[str, Any]], distill: float, progress: dict[str, Any]
    ) -> None:
        """Write down how far a part has come: the accounts of its replicas, and the seconds since one was ready."""
        for pool in part:
            mine = [account for account in accounts if account["stage"] == pool.stage.name]
            self._stages[pool.stage.name] = add_up(mine, pool.replicas, pool.demand.gpus)
        start = max((account["start"] for account in accounts), default=0.0)
        self._seconds[number] = {"engine_start": start, "distill": distill}
        seconds = {name: sum(one[name] for one in self._seconds.values()) for name in _SECONDS[1:]}
        note = {
            "plan": self._plan,
            "seconds": {"total": time.monotonic() - self._began, **seconds},
            "stages": self._stages,
            "progress": {**progress, "parts": len(self._plan), "host": socket.gethostname(), "updated": time.time()},
        }
        write_json(self._path, note)


def rate_of(marks: Sequence[Sequence[float]]) -> float | None:
    """Rows a second between the first and the last of some ``(time in seconds, rows done)``."""
    if len(marks) < 2:
        return None
    (began, before), (now, done) = marks[0], marks[-1]
    return (done - before) / (now - began) if now > began else None


def add_up(accounts: Sequence[dict[str, Any]], replicas: int, gpus: float) -> dict[str, Any]:
    """The accounts of a stage's replicas, of so many GPUs each, as one; see the sample above."""
    sums = {name: sum(account[name] for account in accounts) for name in _SUMS[4:]}
    return {
        "replicas": replicas,
        "gpus": gpus,
        "starts": len(accounts),
        "restarts": max(0, len(accounts) - replicas),
        "seconds": sum(account["seconds"] for account in accounts),
        "gpu_seconds": sum(account["seconds"] for account in accounts) * gpus,
        **sums,
    }


def all_sessions(run: Path) -> dict[str, Any]:
    """What all sessions of a run took together: ``num``, ``seconds``, ``stages`` by name; the last one's ``plan``."""
    notes = [read_json(path) for path in sorted((run / "sessions").glob("*.json"))]
    stages: dict[str, dict[str, Any]] = {}
    for note in notes:
        for name, stage in note["stages"].items():
            before = stages.get(name)
            summed = {key: stage.get(key, 0) + (before[key] if before else 0) for key in _SUMS}
            gpus = max(stage["gpus"], before["gpus"] if before else 0)
            stages[name] = {"replicas": stage["replicas"], "gpus": gpus, **summed}
    seconds = {name: sum(note["seconds"][name] for note in notes) for name in _SECONDS}
    return {"num": len(notes), "seconds": seconds, "stages": stages, "plan": notes[-1]["plan"] if notes else None}


def account(
    sessions: dict[str, Any],
    by_agent: dict[str, dict[str, Any]],
    num_documents: int,
    num_ok: int,
    gpu_hour_price: float | None,
) -> dict[str, Any]:
    """What a run cost and where the time went, for its manifest.

    ``by_agent``: of ``counts.count_records``. *not_accepted* is the share of the calls' time that went into rows that
    were rejected or failed. Without GPUs, what is said per GPU is said per engine.
    """
    stages, seconds = sessions["stages"], sessions["seconds"]
    on_gpus = any(stage["gpus"] for stage in stages.values())
    hours = sum(stage["gpu_seconds" if on_gpus else "seconds"] for stage in stages.values()) / 3600
    called = sum(agent["seconds"] for agent in by_agent.values())
    lost = sum(agent["seconds_not_accepted"] for agent in by_agent.values())
    million = 1e6 * hours / num_documents if num_documents else 0.0
    return {
        "plan": sessions["plan"],
        "sessions": sessions["num"],
        "restarts": sum(stage["restarts"] for stage in stages.values()),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "abstracts_per_second": round(num_documents / seconds["distill"], 3) if seconds["distill"] else 0,
        "engines": {name: _figures(stage, num_documents) for name, stage in stages.items()},
        "cost": {
            "unit": "GPU" if on_gpus else "engine",
            "hours": round(hours, 4),
            "accepted_per_hour": round(num_ok / hours, 1) if hours else 0,
            "hours_per_million_abstracts": round(million, 1),
            "price_per_million_abstracts": round(million * gpu_hour_price, 2) if gpu_hour_price and on_gpus else None,
            "not_accepted": round(lost / called, 4) if called else 0,
        },
    }


def _figures(stage: dict[str, Any], num_documents: int) -> dict[str, Any]:
    """One stage's figures: seconds are summed over its replicas, rates are per GPU (or engine) while it could serve."""
    serving = stage["seconds"] - stage["start"]
    each = serving * (stage["gpus"] or 1)

    def share(part: float) -> float:
        return round(part / stage["seconds"], 4) if stage["seconds"] else 0.0

    return {
        **{name: stage[name] for name in ("replicas", "gpus", "starts", "restarts")},
        **{name: round(stage[name], 1) for name in ("seconds", "gpu_seconds")},
        **{f"{name}_share": share(stage[name]) for name in ("start", "busy", "retrieval", "idle")},
        **{name: stage[name] for name in (*TOKENS, "searches_retried")},
        "calls_at_once": round(stage["calls"] / stage["busy"], 1) if stage["busy"] else 0.0,
        "output_tokens_per_second": round(stage["completion_tokens"] / each, 1) if each else 0.0,
        "abstracts_per_second": round(num_documents / each, 3) if each else 0.0,
    }
