"""Runs in an object store, against a real S3 server on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from kailin_ray.dataset import records
from kailin_ray.dataset.records import compact, load_pmids, record_files
from kailin_ray.distill.liveness import age_of
from kailin_ray.distill.sink import RecordSink
from kailin_ray.errors import ConfigError
from kailin_ray.io import leases
from kailin_ray.io.files import atomic_file, atomic_folder, read_json, remove_folder, sha256, write_json
from kailin_ray.io.storage import check_access, is_remote, log_folder, parse_folder
from kailin_ray.schema import RECORDS
from tests.conftest import MESH, ROOT, Command
from tests.support.object_store import KEYS

LIMIT = 24
ELSEWHERE = {"token": "a", "renewals": 3, "host": "gone-head", "pid": 1, "machine": "another"}
"""The lock of a lost machine."""


def test_an_object_appears_whole_or_not_at_all(store: str) -> None:
    folder = parse_folder(f"{store}/atomic")
    with atomic_file(folder / "a") as partial:
        partial.write_text("whole")
        assert not (folder / "a").exists()
    assert (folder / "a").read_text() == "whole"
    with pytest.raises(RuntimeError), atomic_file(folder / "b") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["a"]
    write_json(folder / "sub" / "c.json", {"β": 1})
    assert read_json(folder / "sub" / "c.json") == {"β": 1}
    assert len(sha256(folder / "sub" / "c.json")) == 64
    with pytest.raises(FileExistsError), atomic_folder(folder) as partial:
        (partial / "x").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(folder / "new") as partial:
        (partial / "x").write_text("1")
        raise RuntimeError
    assert not (folder / "new").exists()
    remove_folder(folder)
    assert not folder.exists()


def test_the_age_of_a_report_is_measured_by_the_clock_of_the_store(store: str) -> None:
    file = parse_folder(f"{store}/status/sessions") / "1.json"
    write_json(file, {})
    age = age_of(file)
    assert age is not None
    assert 0 <= age < 60
    while age_of(file) < age + 1:  # type: ignore[operator]
        time.sleep(0.1)
    assert age_of(parse_folder(f"{store}/status/sessions") / "2.json") is None


def test_record_files_are_merged_in_a_store(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ROWS_PER_FILE", 8)
    run = parse_folder(f"{store}/merged")
    for first in range(1, 21, 4):
        block = pa.Table.from_pylist([{"pmid": pmid, "title": "T"} for pmid in range(first, first + 4)], RECORDS)
        RecordSink(run / "records").write([block], None)
    before = records.records(run).to_table().to_pylist()
    compact(run / "records")
    # Two and a rest of one, which stays.
    assert [path.name.startswith("merged-") for path in record_files(run / "records")] == [False, True, True]
    RecordSink(run / "records").write([pa.Table.from_pylist(before[:4], RECORDS)], None)
    assert load_pmids(run / "records").tolist() == list(range(1, 21))
    after = records.records(run).to_table().to_pylist()
    assert sorted(after, key=lambda row: row["pmid"]) == before


def test_a_process_that_stops_reading_early_ends_in_good_order(store: str) -> None:
    run = parse_folder(f"{store}/early")
    for first in range(1, 200, 40):
        block = pa.Table.from_pylist([{"pmid": pmid, "title": "T"} for pmid in range(first, first + 40)], RECORDS)
        RecordSink(run / "records").write([block], None)
    code = f"""if True:
        from kailin_ray.dataset.records import record_batches
        from kailin_ray.io.storage import parse_folder
        batches = record_batches(parse_folder("{run}"), size=8)
        assert next(batches).num_rows == 8"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://me:hidden@bucket/runs", "environment"),
        ("s3://bucket/runs?AWSAccessKeyId=hidden", "environment"),
        ("gs://bucket/runs", "allowed: a local folder, or s3://bucket/folder"),
        ("s3://bucket", "name a folder of the bucket"),
    ],
)
def test_urls_that_are_refused(kailin_here: Command, url: str, said: str) -> None:
    done = kailin_here("report", f"run='{url}'")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr
    assert "run:" in done.stderr
    assert "hidden" not in done.stderr + done.stdout


def test_what_stays_local_says_so(kailin_here: Command) -> None:
    done = kailin_here("index", "documents=s3://bucket/documents", "out=index")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "documents: this must be a local path" in done.stderr


def test_a_store_that_cannot_be_used_is_named_in_one_line(store: str, kailin_here: Command) -> None:
    check_access("out", parse_folder(f"{store}//nothing/yet/"))
    assert str(parse_folder(f"{store}//nothing/yet/")) == f"{store}/nothing/yet"
    with pytest.raises(ConfigError, match="out: s3://nonesuch/run: .*bucket"):
        check_access("out", parse_folder("s3://nonesuch/run"))
    done = kailin_here("report", "run=s3://nonesuch/run")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("killed_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_in_a_store_is_made_and_published(
    store: str, kailin_here: Command, documents: Path, index: Path, tmp_path: Path, killed_first: bool
) -> None:
    at = f"{store}/{'killed' if killed_first else 'whole'}"
    corpus, run = parse_folder(f"{at}/documents"), parse_folder(f"{at}/runs/a")
    for file in documents.rglob("*.*"):
        (corpus / file.relative_to(documents).as_posix()).write_bytes(file.read_bytes())
    command = [
        sys.executable, "-m", "tests.support.distil_with_a_fake_engine", f"documents={corpus}", f"index={index}",
        f"mesh={MESH}", f"out={run}", f"limit={LIMIT}", "cluster.block_rows=2", "cluster.max_concurrent_rows=2",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"}
    killed = killed_midway(command, environment, run) if killed_first else set()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = re.search(rf"(\d+) of {LIMIT} abstracts to distil; logs in {tmp_path}/kailin_ray-a-\w{{8}}\n", done.stdout)
    assert told is not None, done.stdout
    # What was on its way to the store when the run was killed may have arrived since.
    assert 0 < int(told[1]) <= LIMIT - len(killed)
    assert killed_first or int(told[1]) == LIMIT
    pmids = load_pmids(run / "records").tolist()
    assert len(set(pmids)) == len(pmids) == LIMIT
    assert killed < set(pmids)
    assert sorted(path.name for path in run.iterdir()) == [
        "coverage.png", "manifest.json", "records", "run.json", "sessions",
    ]  # fmt: skip
    assert not run.with_name(".a.lock").exists()
    # The head of a cluster is lost, and a new one starts.
    run.with_name(".a.lock").write_text(json.dumps(ELSEWHERE))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(leases, "SILENT_S", 3.0)
        again = kailin_here("distill", *command[3:])
    assert (again.returncode, "complete, nothing to do" in again.stdout) == (0, True), again.stderr
    assert "another process has its lock: process 1 on gone-head; waiting up to 3 s" in again.stderr
    assert not run.with_name(".a.lock").exists()
    # No secret is written down anywhere.
    written = [file.read_bytes() for file in run.rglob("*") if file.is_file() and file.suffix == ".json"]
    written += [file.read_bytes() for file in tmp_path.rglob("*.log")]
    assert len(written) >= 4
    assert not any(secret.encode() in text for secret in list(KEYS.values())[:2] for text in written)

    shown = kailin_here("report", f"run={run}", "examples=1")
    assert f"{LIMIT} abstracts" in shown.stdout
    for out in (parse_folder(f"{at}/dataset"), tmp_path / "dataset"):
        done = kailin_here("publish", f"run={run}", f"out={out}")
        assert done.returncode == 0, done.stderr
        refused = kailin_here("publish", f"run={run}", f"out={out}")
        assert (refused.returncode, "exists" in refused.stderr) == (2, True)
    here = {file.relative_to(tmp_path / "dataset").as_posix() for file in (tmp_path / "dataset").rglob("*.*")}
    remote = parse_folder(f"{at}/dataset")
    assert {str(file).removeprefix(f"{remote}/") for file in remote.rglob("*.*")} == here
    files = [str(file) for file in (tmp_path / "dataset" / "triples").iterdir()]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert 0 < len(loaded) <= LIMIT
    assert is_remote(remote)


@pytest.mark.slow
def test_a_run_that_loses_its_lock_stops(store: str, documents: Path, index: Path, tmp_path: Path) -> None:
    run = parse_folder(f"{store}/lost/run")
    code = "import runpy; from kailin_ray.io import leases; leases.RENEW_S = 0.5; runpy.run_module("
    code += "'tests.support.distil_with_a_fake_engine', run_name='__main__', alter_sys=True)"
    command = [
        sys.executable, "-c", code, f"documents={documents}", f"index={index}", f"mesh={MESH}", f"out={run}",
        "cluster.block_rows=2", "cluster.max_concurrent_rows=2",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for_records(process, run)
    run.with_name(".run.lock").write_text(json.dumps(ELSEWHERE))
    _, err = process.communicate(timeout=300)
    said = [line for line in err.splitlines() if line.startswith("kailin_ray: ")]
    stopped = f"kailin_ray: {run}: stopped, because process 1 on gone-head has taken over its lock"
    assert (process.returncode, said) == (1, [f"{stopped}; finished work is kept"])
    assert json.loads(run.with_name(".run.lock").read_text()) == ELSEWHERE
    assert not (run / "manifest.json").exists()
    assert len(load_pmids(run / "records"))


def killed_midway(command: list[str], environment: dict[str, str], run: Any) -> set[int]:
    """Start the command, kill it once some but not all records are there; their PMIDs."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    wait_for_records(process, run)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "manifest.json").exists()
    killed = set(load_pmids(run / "records").tolist())
    assert 0 < len(killed) < LIMIT
    return killed


def wait_for_records(process: subprocess.Popen[Any], run: Any) -> None:
    deadline = time.monotonic() + 300
    while not list((run / "records").glob("*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_logs_of_a_run_in_a_store_go_where_no_other_user_can_have_put_a_link(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the machine knows the run's name, and takes the folder's before the run."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = tmp_path / "kailin_ray" / "bucket" / "runs" / "logs"
    taken.mkdir(parents=True)
    run = parse_folder(f"{store}/runs")
    folder = log_folder(run)
    assert folder == log_folder(run)
    assert folder.parent == tmp_path
    assert folder != log_folder(parse_folder(f"{store}/others"))
    assert re.fullmatch(r"kailin_ray-runs-\w{8}", folder.name)
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (os.geteuid(), 0o700)
