"""What `status` says of runs in every state; of real ones, running and killed, see test_faults."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kailin_ray.dataset.records import compact
from kailin_ray.distill import liveness
from kailin_ray.distill.accounting import Session, rate_of, read_sessions
from kailin_ray.distill.sink import RecordSink
from kailin_ray.distill.status import duration, format_status, status
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import write_json
from kailin_ray.planning.plan import Plan
from kailin_ray.schema import REASONS, RECORDS
from tests.conftest import Command

NOW = 1_800_000_000.0
STAGE = {
    "replicas": 2, "gpus": 1, "starts": 3, "restarts": 1, "seconds": 120.0, "gpu_seconds": 120.0, "start": 20.0,
    "busy": 90.0, "retrieval": 0.0, "idle": 10.0, "calls": 10.0, "prompt_tokens": 1000, "cached_tokens": 750,
    "completion_tokens": 500, "searches_retried": 0,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Sixty rows in three files, of which 40 were accepted."""
    write_json(tmp_path / "run.json", {})
    reasons = [None, None, None, None, "answer_truncated", "no_mesh"]
    for first in (1, 21, 41):
        rows = [
            {
                "pmid": pmid,
                "title": "T",
                "status": "rejected" if reasons[pmid % 6] else "ok",
                "reason": reasons[pmid % 6],
            }
            for pmid in range(first, first + 20)
        ]
        RecordSink(tmp_path / "records").write([pa.Table.from_pylist(rows, RECORDS)], None)
    return tmp_path


def session(run: Path, name: str = "20270115T080000-a", age: float = 10, number: int = 1, **progress: Any) -> None:
    """A session whose driver, on another machine, reported ``age`` seconds ago by the file server's clock."""
    marks = [[NOW - 610, 20], [NOW - 300, 40], [NOW - 10, 60]]
    default = {
        "state": "running", "outcome": None, "why": None, "phase": 1, "phases": 1, "total": 1260, "done": 60,
        "marks": marks, "engines": {"ready": 1, "wanted": 2, "begun": 2}, "host": "node7", "updated": NOW - 10,
    }  # fmt: skip
    seconds = {"total": 100.0, "engine_start": 10.0, "distill": 90.0}
    path = run / "sessions" / f"{name}.json"
    write_json(
        path,
        {
            "number": number,
            "plan": [],
            "seconds": seconds,
            "stages": {"general": STAGE},
            "progress": default | progress,
        },
    )
    stamp = time.time() - age  # the clock of this machine is that of its disk
    os.utime(path, (stamp, stamp))


def test_a_run_at_work_says_how_far_how_fast_what_fails_and_until_when(run: Path) -> None:
    session(run)
    found = status(run)
    assert (found.state, found.done, found.documents) == ("running", 60, 1260)
    assert found.by_status == {"ok": 40, "rejected": 20}
    assert found.by_reason == {"answer_truncated": 10, "no_mesh": 10}
    assert found.work
    assert (found.work.abstracts_per_second, found.work.seconds_left) == (round(40 / 600, 3), 18_000)
    assert found.engines == {
        "ready": 1, "wanted": 2, "begun": 2, "restarts": 1,
        "stages": {
            "general": {"replicas": 2, "gpus": 1, "busy": 0.9, "output_tokens_per_second": 5.0, "cached": 0.75}
        },
    }  # fmt: skip
    said = format_status(found)
    for words in ("on node7, last report 10 s ago", "60 of 1,260 abstracts, 4.8 %", "5 h 0 min left", "1 of 2 ready"):
        assert words in said
    assert f"answer_truncated: {REASONS['answer_truncated']}" in said


@pytest.mark.parametrize(
    ("why", "state"),
    [("done", "between"), ("stopped; the same command goes on from there", "stopped"), ("30 of 60 failed", "failed")],
)
def test_a_session_of_before_is_read(run: Path, why: str, state: str) -> None:
    """One without an outcome, and with parts where phases are now."""
    session(run, state="ended", why=why)
    (path,) = (run / "sessions").glob("*.json")
    note = json.loads(path.read_text())
    note["progress"] |= {"part": note["progress"].pop("phase"), "parts": note["progress"].pop("phases")}
    del note["progress"]["outcome"]
    path.write_text(json.dumps(note))
    assert status(run).state == state


@pytest.mark.parametrize(
    ("progress", "state", "words"),
    [
        ({"age": 95}, "dead", "dead: no report for 1 min 3"),
        ({"age": 60}, "running", "running on node7"),
        ({"age": 3600, "updated": NOW * 2}, "dead", "no report for 1 h 0 min"),  # its clock is far ahead
        ({"age": 10, "updated": 0.0}, "running", "last report 10 s ago"),  # and far behind
        ({"age": -3600}, "running", "last report 0 s ago"),  # the file server's clock was set back
        ({"state": "stopping"}, "stopping", "stopping on node7"),
        ({"state": "ended", "outcome": "stopped", "why": "stopped"}, "stopped", "in good order"),
        ({"state": "ended", "outcome": "failed", "why": "30 of 60 rows failed"}, "failed", "30 of 60 rows failed"),
        ({"state": "ended", "outcome": "done", "why": "done"}, "between", "all abstracts are done"),
        ({"phase": 1, "phases": 2, "done": 60}, "running", "phase 1 of 2: 60 of 1,260"),
        ({"marks": []}, "running", "running on node7"),
    ],
)
def test_each_state_is_told_by_name(run: Path, progress: dict[str, Any], state: str, words: str) -> None:
    session(run, **progress)
    found = status(run)
    assert found.state == state
    assert words in format_status(found)


def test_the_last_session_counts_and_a_manifest_says_that_all_is_done(run: Path) -> None:
    assert status(run).state == "unknown"
    # The clock of the first session's host was ahead.
    session(run, "20270115T090000-a", state="ended", why="x", updated=NOW + 5000, number=1)
    session(run, "20270115T080000-b", number=2)
    assert (status(run).state, status(run).sessions) == ("running", 2)
    write_json(run / "manifest.json", {})
    found = status(run)
    assert (found.state, found.documents) == ("finished", 60)
    assert "kailin-ray report run=" in format_status(found)


def test_a_row_counts_once_while_files_are_merged(run: Path) -> None:
    before = list((run / "records").iterdir())
    contents = [path.read_bytes() for path in before]
    compact(run / "records")
    for path, content in zip(before, contents, strict=True):  # as if the merge had been cut off before it removed them
        path.write_bytes(content)
    assert status(run).done == 60


def test_on_the_command_line(kailin_here: Command, run: Path, tmp_path: Path) -> None:
    session(run)
    done = kailin_here("status", f"run={run}", "json=true")
    assert (done.returncode, json.loads(done.stdout)["done"]) == (0, 60)
    refused = kailin_here("status", f"run={run}/records")
    assert (refused.returncode, "run.json" in refused.stderr) == (2, True)
    with pytest.raises(ConfigError, match=r"no run\.json"):
        status(tmp_path / "nothing")


def test_a_driver_of_this_machine_is_known_by_its_process(run: Path) -> None:
    code = "from kailin_ray.distill.liveness import this_process; print(this_process(), flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout
    process = ast.literal_eval(child.stdout.readline())
    session(run, age=3600, process=process)
    assert status(run).state == "running"  # slow, but there
    assert "1 h 0 min ago" in format_status(status(run))
    session(run, age=3600, process=process | {"started": process["started"] + 1})
    assert status(run).state == "dead"  # another process has its number now
    session(run, age=0, process=process)
    child.kill()
    deadline = time.monotonic() + 60
    while status(run).state != "dead":  # a zombie, of which this test is the parent
        assert time.monotonic() < deadline
    child.communicate()
    assert status(run).state == "dead"
    assert "dead: its driver's process is gone, on node7" in format_status(status(run))


def test_where_nothing_tells_whether_the_driver_lives_the_status_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(run)

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(liveness.tempfile, "NamedTemporaryFile", refuse)  # a test that runs as root may write anywhere
    found = status(run)
    assert found.work
    assert (found.state, found.work.silent_seconds, found.work.seconds_left) == ("unclear", None, None)
    assert "running or dead, which cannot be seen from here: its driver is on node7" in format_status(found)


def test_sessions_are_numbered_whatever_the_clocks_say(run: Path) -> None:
    plan = Plan(phases=(), nodes=(), retrievers=())
    progress: Any = {
        "state": "running",
        "outcome": None,
        "why": None,
        "phase": 1,
        "total": 1,
        "done": 0,
        "marks": [],
        "engines": {},
    }
    for name, number in (("20270115T090000-a", 0), ("20270115T100000-b", 7)):
        session(run, name, number=number)
    for _ in range(2):
        Session(run, plan).update(0, (), [], 0.0, progress)
    assert [note["number"] for note in read_sessions(run)] == [0, 7, 8, 9]
    assert status(run).state == "running"
    assert read_sessions(run)[-1]["progress"]["process"] == liveness.this_process()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.6, "1 min 0 s"), (600, "10 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_rate_needs_two_marks() -> None:
    assert rate_of([]) is rate_of([(1.0, 1)]) is rate_of([(1.0, 1), (1.0, 2)]) is None
    assert rate_of([(0.0, 1), (4.0, 9), (10.0, 11)]) == 1.0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"progress": 1}'])
def test_a_session_that_a_power_failure_left_damaged_is_left_out(run: Path, content: str) -> None:
    session(run)
    (run / "sessions" / "20270115T090000-b.json").write_text(content)
    assert status(run).state == "running"
