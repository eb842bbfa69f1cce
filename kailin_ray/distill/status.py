"""How far a run is, how fast, what fails, until when: read from its folder, running or dead, from anywhere.

What is done is counted in the records themselves, by their columns of status and reason. Who works on it is said by the
session's file, which its driver writes every ten seconds (``watch``): without a fresh one the run is dead.
"""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from kailin_ray.dataset.records import record_files
from kailin_ray.distill.accounting import all_sessions, rate_of
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json
from kailin_ray.io.pmids import READERS
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import REASONS

SILENT_S = 90.0
"""Seconds without a word from the driver, which writes every ten, after which it is taken for dead."""
TOP = 8
"""Reasons that are shown."""


def status(run: Path, now: float) -> dict[str, Any]:
    """The state of a run's folder at ``now`` (seconds since 1970).

    ``state``: finished, running, stopping, stopped, failed, dead, or unknown before a session has written of itself.
    Raises ``ConfigError`` if the folder is no run's.
    """
    if not (run / "run.json").exists():
        raise ConfigError(f"run: {run} is no run of distill: it has no run.json")
    complete = (run / "manifest.json").exists()
    counts = _counts(run)
    done = sum(counts["status"].values())
    sessions = sorted((run / "sessions").glob("*.json"))
    notes = [note for note in map(read_json, sessions) if "progress" in note]
    note = max(notes, key=lambda one: one["progress"]["updated"], default=None)
    found: dict[str, Any] = {
        "run": str(run),
        "state": "finished" if complete else "unknown",
        "done": done,
        "by_status": counts["status"],
        "by_reason": counts["reason"],
        "sessions": len(sessions),
    }
    if complete:
        found["documents"] = done
    elif note:
        found |= _at_work(note["progress"], now)
    if note:
        found["engines"] = _engines(note, run)
    return found


def _at_work(progress: dict[str, Any], now: float) -> dict[str, Any]:
    """What the last session says of the part that it works, or worked, on."""
    silent = now - progress["updated"]
    state = progress["state"]
    if state == "ended":
        state = "stopped" if "the same command goes on" in progress["why"] else "failed"
        state = "between" if progress["why"] == "done" else state
    elif silent > SILENT_S:
        state = "dead"
    rate = rate_of(progress["marks"])
    left = progress["total"] - progress["done"]
    return {
        "state": state,
        "documents": progress["total"],
        "why": progress["why"],
        "part": progress["part"],
        "parts": progress["parts"],
        "part_done": progress["done"],
        "host": progress["host"],
        "silent_seconds": round(silent, 1),
        "abstracts_per_second": round(rate, 3) if rate else None,
        "seconds_left": round(left / rate) if rate and state == "running" else None,
    }


def _counts(run: Path) -> dict[str, dict[str, int]]:
    """Rows of the records by status and by reason; a file at a time, two of its columns."""
    total: dict[str, Counter[str]] = {"status": Counter(), "reason": Counter()}

    def counted(path: Path) -> dict[str, dict[str, int]]:
        try:
            with open_parquet(path) as file:
                table = file.read(columns=list(total))
        except FileNotFoundError:  # merged into another file since it was listed
            return {}
        return {name: _values(table[name]) for name in total}

    with ThreadPoolExecutor(READERS) as pool:
        for found in pool.map(counted, record_files(run / "records")):
            for name, values in found.items():
                total[name].update(values)
    return {name: dict(counter.most_common()) for name, counter in total.items()}


def _values(column: pa.ChunkedArray) -> dict[str, int]:
    found = column.drop_null().value_counts()
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _engines(note: dict[str, Any], run: Path) -> dict[str, Any]:
    """What the engines of the last session do, and how often any were started anew."""
    stages = {}
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


def told(found: dict[str, Any], now: float) -> str:
    """The same for a person."""
    return "\n".join([*_how_far(found), *_how_fast(found, now), *_what_fails(found), *_next(found)])


def _how_far(found: dict[str, Any]) -> list[str]:
    ago = duration(found.get("silent_seconds", 0))
    lines = [f"{found['run']}: {_STATES[found['state']].format_map(found | {'ago': ago})}"]
    total = found.get("documents")
    lines.append(
        f"  {found['done']:,}" + (f" of {total:,} abstracts, {_share(found['done'], total)}" if total else " abstracts")
    )
    lines += [
        f"    {name:<9}{number:>12,}  {_share(number, found['done'])}" for name, number in found["by_status"].items()
    ]
    if found.get("parts", 1) > 1:
        lines.append(f"  part {found['part']} of {found['parts']}: {found['part_done']:,} of {total:,}")
    return lines


_STATES = {
    "finished": "finished",
    "unknown": "no session has told of itself yet: it starts, or it was killed while it started",
    "running": "at work on {host}, last word {ago} ago",
    "stopping": "stopping on {host}: what was begun is finished",
    "stopped": "stopped in good order",
    "failed": "ended early: {why}",
    "between": "all abstracts are done; counting, or killed while it counted",
    "dead": "dead: no word from {host} for {ago}",
}


def _how_fast(found: dict[str, Any], now: float) -> list[str]:
    lines = []
    if rate := found.get("abstracts_per_second"):
        lines.append(f"  {rate:,.2f} abstracts/s over the last ten minutes" + _until(found.get("seconds_left"), now))
    if engines := found.get("engines"):
        if found["state"] in ("running", "stopping"):
            lines.append(f"  engines {engines['ready']} of {engines['wanted']} ready")
        lines += [_engine(name, stage) for name, stage in engines["stages"].items() if stage["busy"] is not None]
        lines.append(f"  sessions {found['sessions']}, engines restarted {engines['restarts']}")
    return lines


def _engine(name: str, stage: dict[str, Any]) -> str:
    unit = f"{stage['gpus']:g} GPU" if stage["gpus"] else "no GPU"
    busy, cached = _share(stage["busy"], 1), _share(stage["cached"] or 0, 1)
    speed = f"{stage['output_tokens_per_second']:,.1f} output tokens/s each"
    return f"    {name}: {stage['replicas']} x {unit}, busy {busy}, {cached} of prompts cached, {speed}"


def _until(seconds: float | None, now: float) -> str:
    if seconds is None:
        return ""
    return f"; {duration(seconds)} left, until {time.strftime('%Y-%m-%d %H:%M', time.localtime(now + seconds))}"


def _what_fails(found: dict[str, Any]) -> list[str]:
    reasons = list(found["by_reason"].items())
    lines = ["  not accepted because"] if reasons else []
    lines += [f"    {number:>9,}  {name}: {REASONS.get(name, 'of another version')}" for name, number in reasons[:TOP]]
    if reasons[TOP:]:
        lines.append(f"    {sum(number for _, number in reasons[TOP:]):>9,}  {len(reasons) - TOP} other reasons")
    return lines


def _next(found: dict[str, Any]) -> list[str]:
    if found["state"] == "finished":
        return [f"  look at it: python -m kailin_ray report run={found['run']}"]
    if found["state"] in ("stopped", "failed", "dead", "between", "unknown"):
        return [f"  the same distill command with out={found['run']} goes on; logs in its folder logs/"]
    return [f"  stop it in good order: SIGTERM to its driver on {found['host']}, or `ray job stop`"]


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
