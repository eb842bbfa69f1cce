"""How far a run is, how fast, what fails, until when: read from its folder, running or dead, from anywhere.

What is done is counted in the records themselves, by their columns of status and reason. Who works on it is said by the
session's file, which its driver writes every ten seconds (``watch``): without a fresh one the run is dead.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import pyarrow as pa

from kailin_ray.dataset.records import record_files
from kailin_ray.distill.accounting import (
    EngineNumbers,
    SessionNote,
    SessionProgress,
    all_sessions,
    rate_of,
    read_sessions,
)
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import has_manifest
from kailin_ray.io.pmids import READERS
from kailin_ray.io.storage import check_access, open_parquet
from kailin_ray.schema import REASONS, Json

SILENT_S = 90.0
"""Seconds without a word from the driver, which writes every ten, after which it is taken for dead."""
TOP = 8
"""Reasons that are shown."""


State = Literal["finished", "unknown", "running", "stopping", "stopped", "failed", "between", "dead"]
"""``unknown``: no session has written of itself yet; ``between``: all is done but the counting."""


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """What the last session says of the part that it works, or worked, on."""

    state: State
    documents: int
    why: str | None
    """Of a session that ended."""
    part: int
    parts: int
    part_done: int
    host: str
    silent_seconds: float
    """Since its last word."""
    abstracts_per_second: float | None
    seconds_left: int | None


class StageStatus(TypedDict):
    """What the engines of a stage do."""

    replicas: int
    gpus: float
    busy: float | None
    output_tokens_per_second: float | None
    cached: float | None
    """Share of the prompts' tokens."""


class EnginesStatus(EngineNumbers):
    """What the engines of the last session do, and how often any were started anew."""

    restarts: int
    stages: dict[str, StageStatus]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a run's folder at a moment."""

    run: Path
    state: State
    done: int
    by_status: dict[str, int]
    by_reason: dict[str, int]
    sessions: int
    documents: int | None
    """None where no session has said how many."""
    work: AtWork | None
    """None of a run that is finished, or of which no session has told."""
    engines: EnginesStatus | None
    at: float
    """Seconds since 1970."""

    def as_json(self) -> Json:
        """The same for programs, on one level; what is not known is left out."""
        values: Json = {"run": str(self.run), "state": self.state, "done": self.done, "by_status": self.by_status}
        values |= {"by_reason": self.by_reason, "sessions": self.sessions}
        if self.documents is not None:
            values["documents"] = self.documents
        return values | (vars(self.work) if self.work else {}) | ({"engines": self.engines} if self.engines else {})


def status(run: Path, now: float | None = None) -> RunStatus:
    """The state of a run's folder at ``now`` (seconds since 1970; None: at this moment).

    Raises ``ConfigError`` if the folder is no run's.
    """
    check_access("run", run)
    now = time.time() if now is None else now
    if not (run / "run.json").exists():
        raise ConfigError(f"run: {run} is no run of distill: it has no run.json")
    complete = has_manifest(run)
    counts = _counts(run)
    done = sum(counts["status"].values())
    sessions = read_sessions(run)
    told = [note for note in sessions if "progress" in note]
    note = max(told, key=lambda one: one["progress"]["updated"], default=None)
    work = _at_work(note["progress"], now) if note and not complete else None
    return RunStatus(
        run=run,
        state="finished" if complete else work.state if work else "unknown",
        done=done,
        by_status=counts["status"],
        by_reason=counts["reason"],
        sessions=len(sessions),
        documents=done if complete else work.documents if work else None,
        work=work,
        engines=_engines(note, run) if note else None,
        at=now,
    )


def _at_work(progress: SessionProgress, now: float) -> AtWork:
    silent = now - progress["updated"]
    rate = rate_of(progress["marks"])
    left = progress["total"] - progress["done"]
    state = _state(progress, silent)
    return AtWork(
        state=state,
        documents=progress["total"],
        why=progress["why"],
        part=progress["part"],
        parts=progress["parts"],
        part_done=progress["done"],
        host=progress["host"],
        silent_seconds=round(silent, 1),
        abstracts_per_second=round(rate, 3) if rate else None,
        seconds_left=round(left / rate) if rate and state == "running" else None,
    )


def _state(progress: SessionProgress, silent: float) -> State:
    state = progress["state"]
    if state != "ended":
        return "dead" if silent > SILENT_S else state
    why = progress["why"] or ""
    if why == "done":
        return "between"
    return "stopped" if "the same command goes on" in why else "failed"


def _counts(run: Path) -> dict[str, dict[str, int]]:
    """Rows of the records by status and by reason; a file at a time, two of its columns."""
    total: dict[str, Counter[str]] = {"status": Counter(), "reason": Counter()}

    def count_records(path: Path) -> dict[str, dict[str, int]]:
        try:
            with open_parquet(path) as file:
                table = file.read(columns=list(total))
        except FileNotFoundError:  # merged into another file since it was listed
            return {}
        return {name: _values(table[name]) for name in total}

    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(count_records, record_files(run / "records")):
            for name, values in found.items():
                total[name].update(values)
    return {name: dict(counter.most_common()) for name, counter in total.items()}


def _values(column: pa.ChunkedArray) -> dict[str, int]:
    found = column.drop_null().value_counts()
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _engines(note: SessionNote, run: Path) -> EnginesStatus:
    stages: dict[str, StageStatus] = {}
    for name, stage in note["stages"].items():
        serving = stage["seconds"] - stage["start"]
        stages[name] = {
            "replicas": stage["replicas"],
            "gpus": stage["gpus"],
            "busy": round(stage["busy"] / serving, 3) if serving > 0 else None,
            "output_tokens_per_second": round(stage["completion_tokens"] / serving, 1) if serving > 0 else None,
            "cached": round(stage["cached_tokens"] / stage["prompt_tokens"], 3) if stage["prompt_tokens"] else None,
        }
    restarts = sum(stage["restarts"] for stage in all_sessions(run)["stages"].values())
    return {**note["progress"]["engines"], "restarts": restarts, "stages": stages}


def format_status(found: RunStatus) -> str:
    """The same for a person."""
    return "\n".join([*_how_far(found), *_how_fast(found), *_what_fails(found), *_next(found)])


def _how_far(found: RunStatus) -> list[str]:
    work, total = found.work, found.documents
    words = {"host": work.host, "why": work.why, "ago": duration(work.silent_seconds)} if work else {}
    lines = [f"{found.run}: {_STATES[found.state].format_map(words)}"]
    lines.append(
        f"  {found.done:,}" + (f" of {total:,} abstracts, {_share(found.done, total)}" if total else " abstracts")
    )
    lines += [f"    {name:<9}{number:>12,}  {_share(number, found.done)}" for name, number in found.by_status.items()]
    if work and work.parts > 1:
        lines.append(f"  part {work.part} of {work.parts}: {work.part_done:,} of {total:,}")
    return lines


_STATES: dict[State, str] = {
    "finished": "finished",
    "unknown": "no session has told of itself yet: it starts, or it was killed while it started",
    "running": "at work on {host}, last word {ago} ago",
    "stopping": "stopping on {host}: what was begun is finished",
    "stopped": "stopped in good order",
    "failed": "ended early: {why}",
    "between": "all abstracts are done; counting, or killed while it counted",
    "dead": "dead: no word from {host} for {ago}",
}


def _how_fast(found: RunStatus) -> list[str]:
    lines = []
    if found.work and (rate := found.work.abstracts_per_second):
        left = _until(found.work.seconds_left, found.at)
        lines.append(f"  {rate:,.2f} abstracts/s over the last ten minutes{left}")
    if engines := found.engines:
        if found.state in ("running", "stopping"):
            lines.append(f"  engines {engines['ready']} of {engines['wanted']} ready")
        lines += [_engine(name, stage) for name, stage in engines["stages"].items() if stage["busy"] is not None]
        lines.append(f"  sessions {found.sessions}, engines restarted {engines['restarts']}")
    return lines


def _engine(name: str, stage: StageStatus) -> str:
    unit = f"{stage['gpus']:g} GPU" if stage["gpus"] else "no GPU"
    busy, cached = _share(stage["busy"] or 0, 1), _share(stage["cached"] or 0, 1)
    speed = f"{stage['output_tokens_per_second'] or 0:,.1f} output tokens/s each"
    return f"    {name}: {stage['replicas']} x {unit}, busy {busy}, {cached} of prompts cached, {speed}"


def _until(seconds: float | None, now: float) -> str:
    if seconds is None:
        return ""
    return f"; {duration(seconds)} left, until {time.strftime('%Y-%m-%d %H:%M', time.localtime(now + seconds))}"


def _what_fails(found: RunStatus) -> list[str]:
    reasons = list(found.by_reason.items())
    lines = ["  not accepted because"] if reasons else []
    lines += [f"    {number:>9,}  {name}: {REASONS.get(name, 'of another version')}" for name, number in reasons[:TOP]]
    if reasons[TOP:]:
        lines.append(f"    {sum(number for _, number in reasons[TOP:]):>9,}  {len(reasons) - TOP} other reasons")
    return lines


def _next(found: RunStatus) -> list[str]:
    if found.state == "finished":
        return [f"  look at it: kailin-ray report run={found.run}"]
    if found.work is None or found.state in ("stopped", "failed", "dead", "between"):
        return [f"  the same distill command with out={found.run} goes on; logs in its folder logs/"]
    return [f"  stop it in good order: SIGTERM to its driver on {found.work.host}, or `ray job stop`"]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def duration(seconds: float) -> str:
    """Two units, such as ``3 h 20 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes > 9 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
