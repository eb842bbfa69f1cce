"""The progress, throughput, failures and time left of a run, read from its folder, whether or not the run is alive.

Finished rows are counted in the records, by the columns ``status`` and ``reason``. The file of the last session says
which driver works on the run; ``liveness`` says whether it is alive. The driver writes this file every ten seconds
(``monitor``). From another machine, if the file is too old, the run is dead.
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
    read_session_files,
)
from kailin_ray.distill.liveness import age_of, is_alive
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import has_manifest
from kailin_ray.io.pmids import READERS
from kailin_ray.io.storage import check_access, open_parquet
from kailin_ray.schema import REASONS, Json

SILENT_S = 90.0
"""Seconds without a report after which the driver counts as dead. It reports every ten seconds."""
TOP = 8
"""Number of reasons that are shown."""


State = Literal["finished", "unknown", "running", "stopping", "stopped", "failed", "between", "dead", "unclear"]
"""``unknown``: no session has reported yet. ``between``: all abstracts are done, but the manifest is not written.
``unclear``: a driver on another machine is running or dead; from here nothing tells which."""


@dataclass(frozen=True, kw_only=True)
class AtWork:
    """The last session's report on its current or last phase."""

    state: State
    documents: int
    why: str | None
    """Why the session ended, or why its driver counts as dead; None while it runs."""
    phase: int
    phases: int
    phase_done: int
    host: str
    silent_seconds: float | None
    """Seconds since the last report, by one clock; None if the session has ended, or if they are not known."""
    abstracts_per_second: float | None
    seconds_left: int | None


class StageStatus(TypedDict):
    """Activity of the engines of a stage."""

    replicas: int
    gpus: float
    busy: float | None
    output_tokens_per_second: float | None
    cached: float | None
    """Share of the prompt tokens that came from the prefix cache."""


class EnginesStatus(EngineNumbers):
    """Activity of the last session's engines; ``restarts`` counts the restarts of all sessions."""

    restarts: int
    stages: dict[str, StageStatus]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a run's folder at one point in time."""

    run: Path
    state: State
    done: int
    by_status: dict[str, int]
    by_reason: dict[str, int]
    sessions: int
    documents: int | None
    """Number of documents; None if no session has reported it."""
    work: AtWork | None
    """None if the run is finished, or if no session has reported yet."""
    engines: EnginesStatus | None
    at: float
    """The point in time, in seconds since 1970 by the clock of this machine."""

    def as_json(self) -> Json:
        """Return the status for programs, on one level; unknown values are left out."""
        values: Json = {"run": str(self.run), "state": self.state, "done": self.done, "by_status": self.by_status}
        values |= {"by_reason": self.by_reason, "sessions": self.sessions}
        if self.documents is not None:
            values["documents"] = self.documents
        return values | (vars(self.work) if self.work else {}) | ({"engines": self.engines} if self.engines else {})


def status(run: Path) -> RunStatus:
    """Return the state of a run's folder. Raises ``ConfigError`` if the folder is not a run's folder."""
    check_access("run", run)
    if not (run / "run.json").exists():
        raise ConfigError(f"run: {run} is not a run of distill: it has no run.json")
    complete = has_manifest(run)
    counts = _counts(run)
    done = sum(counts["status"].values())
    sessions = read_session_files(run)
    file, note = next(reversed(sessions.items()), (None, None))
    work = _at_work(note["progress"], file) if file and note and not complete else None
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
        at=time.time(),
    )


def _at_work(progress: SessionProgress, file: Path) -> AtWork:
    rate = rate_of(progress["marks"])
    num_left = progress["total"] - progress["done"]
    silent = None if progress["state"] == "ended" else age_of(file)
    state, why = _state(progress, is_alive(progress.get("process")), silent)
    return AtWork(
        state=state,
        documents=progress["total"],
        why=why,
        phase=progress["phase"],
        phases=progress["phases"],
        phase_done=progress["done"],
        host=progress["host"],
        silent_seconds=None if silent is None else round(silent, 1),
        abstracts_per_second=round(rate, 3) if rate else None,
        seconds_left=round(num_left / rate) if rate and state == "running" else None,
    )


def _state(progress: SessionProgress, alive: bool | None, silent: float | None) -> tuple[State, str | None]:
    """Return the state of a session, and why: from its driver's process if that is here, or from its last report."""
    state = progress["state"]
    if state == "ended":
        outcome = progress["outcome"] or "failed"
        return "between" if outcome == "done" else outcome, progress["why"]
    if alive is not None:
        return (state, None) if alive else ("dead", "its driver's process is gone")
    if silent is None:
        return "unclear", None
    return ("dead", f"no report for {duration(silent)}") if silent > SILENT_S else (state, None)


def _counts(run: Path) -> dict[str, dict[str, int]]:
    """Count the records by status and by reason. Only these two columns are read."""
    counters: dict[str, Counter[str]] = {"status": Counter(), "reason": Counter()}

    def count_records(path: Path) -> dict[str, dict[str, int]]:
        try:
            with open_parquet(path) as file:
                table = file.read(columns=list(counters))
        except FileNotFoundError:  # merged into another file since it was listed
            return {}
        return {name: _values(table[name]) for name in counters}

    with ThreadPoolExecutor(READERS) as pool:
        for file_counts in pool.map(count_records, record_files(run / "records")):
            for name, values in file_counts.items():
                counters[name].update(values)
    return {name: dict(counter.most_common()) for name, counter in counters.items()}


def _values(column: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value of a column occurs."""
    counts = column.drop_null().value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _engines(note: SessionNote, run: Path) -> EnginesStatus:
    stages: dict[str, StageStatus] = {}
    for name, stage in note["stages"].items():
        seconds = stage["seconds"] - stage["start"]
        stages[name] = {
            "replicas": stage["replicas"],
            "gpus": stage["gpus"],
            "busy": round(stage["busy"] / seconds, 3) if seconds > 0 else None,
            "output_tokens_per_second": round(stage["completion_tokens"] / seconds, 1) if seconds > 0 else None,
            "cached": round(stage["cached_tokens"] / stage["prompt_tokens"], 3) if stage["prompt_tokens"] else None,
        }
    restarts = sum(stage["restarts"] for stage in all_sessions(run)["stages"].values())
    return {**note["progress"]["engines"], "restarts": restarts, "stages": stages}


def format_status(found: RunStatus) -> str:
    """Return the status as text for a person."""
    return "\n".join([*_how_far(found), *_how_fast(found), *_what_fails(found), *_next(found)])


def _how_far(run_status: RunStatus) -> list[str]:
    work, total = run_status.work, run_status.documents
    ago = duration(work.silent_seconds) if work and work.silent_seconds is not None else "an unknown time"
    words = {"host": work.host, "why": work.why, "ago": ago} if work else {}
    lines = [f"{run_status.run}: {_STATES[run_status.state].format_map(words)}"]
    lines.append(
        f"  {run_status.done:,}"
        + (f" of {total:,} abstracts, {_share(run_status.done, total)}" if total else " abstracts")
    )
    lines += [
        f"    {name:<9}{count:>12,}  {_share(count, run_status.done)}" for name, count in run_status.by_status.items()
    ]
    if work and work.phases > 1:
        lines.append(f"  phase {work.phase} of {work.phases}: {work.phase_done:,} of {total:,}")
    return lines


_STATES: dict[State, str] = {
    "finished": "finished",
    "unknown": "no session has reported yet: it is starting, or it was killed while starting",
    "running": "running on {host}, last report {ago} ago",
    "stopping": "stopping on {host}: finishing the abstracts that have begun",
    "stopped": "stopped in good order",
    "failed": "ended early: {why}",
    "between": "all abstracts are done; counting the records, or killed while counting",
    "dead": "dead: {why}, on {host}",
    "unclear": "running or dead, which cannot be seen from here: its driver is on {host}, and the age of its last "
    "report can only be measured with a file in the run's folder, which is read-only here; look again in a minute",
}


def _how_fast(run_status: RunStatus) -> list[str]:
    lines = []
    if run_status.work and (rate := run_status.work.abstracts_per_second):
        time_left = _until(run_status.work.seconds_left, run_status.at)
        lines.append(f"  {rate:,.2f} abstracts/s over the last ten minutes{time_left}")
    if engines := run_status.engines:
        if run_status.state in ("running", "stopping"):
            lines.append(f"  engines {engines['ready']} of {engines['wanted']} ready")
        lines += [_engine(name, stage) for name, stage in engines["stages"].items() if stage["busy"] is not None]
        lines.append(f"  sessions {run_status.sessions}, engines restarted {engines['restarts']}")
    return lines


def _engine(name: str, stage: StageStatus) -> str:
    unit = f"{stage['gpus']:g} GPU" if stage["gpus"] else "no GPU"
    busy, cached = _share(stage["busy"] or 0, 1), _share(stage["cached"] or 0, 1)
    speed = f"{stage['output_tokens_per_second'] or 0:,.1f} output tokens/s per engine"
    return f"    {name}: {stage['replicas']} x {unit}, busy {busy}, {cached} of prompts cached, {speed}"


def _until(seconds: float | None, now: float) -> str:
    if seconds is None:
        return ""
    return f"; {duration(seconds)} left, until {time.strftime('%Y-%m-%d %H:%M', time.localtime(now + seconds))}"


def _what_fails(run_status: RunStatus) -> list[str]:
    reasons = list(run_status.by_reason.items())
    lines = ["  not accepted because"] if reasons else []
    lines += [
        f"    {count:>9,}  {name}: {REASONS.get(name, 'reason of another version')}" for name, count in reasons[:TOP]
    ]
    if reasons[TOP:]:
        lines.append(f"    {sum(count for _, count in reasons[TOP:]):>9,}  {len(reasons) - TOP} other reasons")
    return lines


def _next(run_status: RunStatus) -> list[str]:
    if run_status.state == "finished":
        return [f"  for the results: kailin-ray report run={run_status.run}"]
    if run_status.state == "unclear":
        return []
    if run_status.work is None or run_status.state in ("stopped", "failed", "dead", "between"):
        return [f"  to resume: the same distill command with out={run_status.run}; logs are in its folder logs/"]
    return [f"  to stop it in good order: send SIGTERM to its driver on {run_status.work.host}, or run `ray job stop`"]


def _share(value: float, total: float) -> str:
    return f"{100 * value / total:.1f} %" if total else "-"


def duration(seconds: float) -> str:
    """Return a duration as text in at most two units, such as ``3 h 20 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes > 9 else f"{minutes} min {rest} s" if minutes else f"{rest} s"
