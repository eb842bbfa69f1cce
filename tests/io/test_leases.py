"""Leases in a real S3 server, held by real processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.errors import ConfigError
from kailin_ray.io import leases
from kailin_ray.io.leases import LeaseLostError
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.storage import parse_folder
from tests.support.commands import ROOT
from tests.support.object_store import object_store

ELSEWHERE = {"token": "a", "renewals": 3, "host": "gone-head", "pid": 1, "machine": "another"}
TIMES = {"RENEW_S": 0.2, "LOST_S": 2.0, "SILENT_S": 4.0, "LOOK_S": 0.1}


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in TIMES.items():
        monkeypatch.setattr(leases, name, seconds)


def start_holder(folder: Any, seconds: float) -> subprocess.Popen[str]:
    """A process that holds the folder's lock for some seconds, through the command line's own ways to end."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.hold_lease", str(folder), str(seconds), json.dumps(TIMES)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_until_held(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"


def lock_of(folder: Any) -> Any:
    return folder.with_name(f".{folder.name}.lock")


def content(folder: Any) -> Any:
    lock = lock_of(folder)
    return json.loads(lock.fs.cat_file(lock.path))


def test_a_lock_is_renewed_while_it_is_held_and_removed_afterwards(store: str) -> None:
    run = parse_folder(f"{store}/renewed")
    with hold_lock(run):
        seen = set()
        deadline = time.monotonic() + 60
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.add(content(run)["renewals"])
        assert len(seen) == 3
        assert content(run)["pid"] == os.getpid()
    assert not lock_of(run).exists()


def test_a_live_holder_is_named_and_keeps_its_lock(store: str, caplog: pytest.LogCaptureFixture) -> None:
    run = parse_folder(f"{store}/live")
    process = start_holder(run, 60)
    wait_until_held(process)
    with pytest.raises(BlockingIOError) as refused, hold_lock(run):
        pass
    said = str(refused.value)
    assert re.search(rf"^{run}: another process is using it: process {process.pid} on \S+, last seen to renew", said)
    assert re.search(r"at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$", said)
    assert f"waiting up to {TIMES['SILENT_S']:.0f} s to see whether it is alive" in caplog.text
    assert content(run)["pid"] == process.pid
    process.kill()
    process.wait()
    with hold_lock(run):  # of this machine, and killed: no wait
        assert content(run)["pid"] == os.getpid()
    assert "taken over" in caplog.text


def test_the_lock_of_a_lost_machine_is_taken_over_after_a_silence(store: str, caplog: pytest.LogCaptureFixture) -> None:
    run = parse_folder(f"{store}/lost")
    lock_of(run).write_text(json.dumps(ELSEWHERE))
    began = time.monotonic()
    with hold_lock(run):
        assert time.monotonic() - began >= TIMES["SILENT_S"]
        assert content(run)["pid"] == os.getpid()
    assert not lock_of(run).exists()
    assert "another process has its lock: process 1 on gone-head; waiting up to 4 s" in caplog.text


def test_a_lock_is_judged_by_changes_whatever_clocks_say(store: str) -> None:
    """Another machine renews its lock. Its clock, and the store's, play no part."""
    run = parse_folder(f"{store}/clocks")
    lock_of(run).write_text(json.dumps(ELSEWHERE))
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 5:
            lock_of(run).write_text(json.dumps(ELSEWHERE | {"renewals": 4}))

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(leases.time, "sleep", look)
        with pytest.raises(BlockingIOError, match="process 1 on gone-head, last seen to renew"), hold_lock(run):
            pass
    assert looks == 5
    assert content(run)["renewals"] == 4
    lock_of(run).unlink()


def test_of_two_that_find_a_lost_lock_one_takes_it(store: str) -> None:
    run = parse_folder(f"{store}/raced")
    lock_of(run).write_text(json.dumps(ELSEWHERE))
    processes = [start_holder(run, 8) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1]
    assert sorted(out for out, _ in said) == ["", "held\n"]
    (refused,) = [err for (_, err), process in zip(said, processes, strict=True) if process.returncode]
    assert "another process is using it: process" in refused.splitlines()[-1]
    assert not lock_of(run).exists()


def test_a_holder_that_was_paused_stops_when_it_finds_its_lock_taken_over(store: str) -> None:
    run = parse_folder(f"{store}/paused")
    process = start_holder(run, 600)
    wait_until_held(process)
    process.send_signal(signal.SIGSTOP)
    with hold_lock(run):
        mine = content(run)["token"]
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert len(err.splitlines()) == 1
        assert f"kailin_ray: {run}: stopped, because " in err
        assert f"process {os.getpid()} on " in err or "could not be renewed" in err
        assert content(run)["token"] == mine


def test_a_holder_whose_lock_a_person_removed_stops(store: str) -> None:
    run = parse_folder(f"{store}/removed")
    with pytest.raises(LeaseLostError, match="its lock was removed; finished work is kept"), hold_lock(run):
        lock_of(run).unlink()
        time.sleep(60)
    assert not lock_of(run).exists()


def test_a_holder_without_its_store_stops_before_its_lock_is_taken_over() -> None:
    with object_store() as server:
        run = parse_folder("s3://bucket/cut")
        began = time.monotonic()
        with pytest.raises(LeaseLostError, match="could not be renewed for 2 s"), hold_lock(run):
            os.kill(server.pid, signal.SIGSTOP)
            time.sleep(60)
        assert time.monotonic() - began < 60
        os.kill(server.pid, signal.SIGCONT)
        assert content(run)["pid"] == os.getpid()  # not removed: it was no longer ours to remove


def test_a_store_without_conditional_writes_is_refused() -> None:
    with object_store(knows_conditions=False):
        run = parse_folder("s3://bucket/unconditional")
        with pytest.raises(ConfigError, match="no conditional writes .If-None-Match, If-Match."), hold_lock(run):
            pass
        assert not lock_of(run).exists()


def test_a_lock_of_an_earlier_version_which_renews_nothing_is_left_alone(store: str) -> None:
    run = parse_folder(f"{store}/earlier")
    before = json.dumps({"host": "there", "pid": 1, "machine": "another"})
    lock_of(run).write_text(before)
    expected = f"process 1 on there, with an earlier version of kailin_ray; if it was killed, remove {lock_of(run)}"
    with pytest.raises(BlockingIOError, match=re.escape(expected)), hold_lock(run):
        pass
    assert lock_of(run).read_text() == before
    lock_of(run).unlink()


def test_an_answer_that_was_lost_on_its_way_is_no_loss_of_the_lease(store: str) -> None:
    """The store wrote a renewal but its answer never came, so that the client repeats it and is refused."""
    run = parse_folder(f"{store}/repeated")
    lease = leases.Lease(run)
    lease.take()
    assert leases._put(lock_of(run), lease._content(), IfMatch=lease._stamp)
    assert lease._renew()
    assert lease.loss is None
    lease.release()
    assert not lock_of(run).exists()


def test_a_folder_s_lock_stays_beside_it(store: str, tmp_path: Path) -> None:
    run = parse_folder(f"{store}/runs/a")
    with hold_lock(run):
        assert str(lock_of(run)) == f"{store}/runs/.a.lock"
        assert not run.exists()
