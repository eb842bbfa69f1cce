"""`submit`: what it refuses, what travels, and a job on a real cluster that asks for a token."""

import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from kailin_ray.io.files import read_json
from kailin_ray.runtime import submit
from tests.cluster.conftest import Head
from tests.conftest import ROOT, Command


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["distil", "documents=d"], ("command: 'distil'", "allowed: ", "distill")),
        (["submit", "x=1"], ("command: 'submit'",)),
        (["run=a"], ("command: missing",)),
        (["report", "exampls=3", "run=a"], ("exampls",)),
        (["report"], ("run: missing",)),
        (["report", "run=a", "job.stop_seconds=0"], ("job.stop_seconds", "greater than or equal to 1")),
        (["report", "run=a", "job.id='a b'"], ("job.id", "pattern")),
        (["report", "run=a", "job.address=head:8265"], ("job.address: head:8265", "http://head:8265")),
        (["report", "run=a", "job.address=http://me:word@localhost:1"], ("http://(secret)@localhost:1", "ray start")),
        (["report", "run=a", "+job.env.HF_TOKEN=x"], ("job.env", "secret")),
        (["distill", "documents=d", "index=i", "mesh=m", "out=o", "cluster.address=ray://a:b@h"], ("cluster.address",)),
    ],
)
def test_what_cannot_be_submitted_is_refused_by_name(
    kailin_here: Command, arguments: list[str], names: tuple[str, ...]
) -> None:
    done = kailin_here("submit", *arguments)
    said = done.stderr.splitlines()
    assert (done.returncode, len(said), done.stdout) == (2, 1, "")
    for name in names:
        assert name in said[0]
    assert "word" not in said[0]


def test_the_code_travels_and_nothing_else(tmp_path: Path) -> None:
    folder = submit.pack_code(tmp_path / "code")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "kailin_ray/__main__.py",
        "kailin_ray/mesh/similarity.py",
        "conf/distill.yaml",
        "conf/model/chat.yaml",
    } <= files
    assert {name.rsplit(".", 1)[-1] for name in files} == {"py", "typed", "yaml"}
    assert sum((folder / name).stat().st_size for name in files) < 2_000_000


class Broken:
    """A client whose connection breaks after some of the output."""

    pieces = ("one\ntwo\n", "three\n")

    def __init__(self) -> None:
        self.asked = 0

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        self.asked += 1
        yield self.pieces[0]
        if self.asked == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield self.pieces[1]

    def get_job_info(self, _: str) -> Any:
        return SimpleNamespace(status=JobStatus.SUCCEEDED, driver_exit_code=0, message="")


def test_a_lost_connection_repeats_and_loses_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "BETWEEN", 0.0)
    out = io.StringIO()
    job = submit.SubmittedJob("a", "report", Broken())  # type: ignore[arg-type]
    assert job.follow(out) == 0
    assert out.getvalue() == "one\ntwo\nthree\n"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the job continues" in caplog.text


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "code"),
    [
        (JobStatus.PENDING, None, None), (JobStatus.RUNNING, None, None), (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 2, 2), (JobStatus.FAILED, 75, 75), (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, None, 75),
    ],
)  # fmt: skip
def test_exit_codes_are_the_command_s(
    status: JobStatus, driver_exit_code: int | None, code: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    info: Any = SimpleNamespace(status=status, driver_exit_code=driver_exit_code, message="no machine has that much")
    assert submit.exit_code(info) == code
    assert ("no machine has that much" in caplog.text) == (code == 1)


def submitted(head: Head, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    where = [f"job.address={head.dashboard}", f"job.python={sys.executable}"]
    return subprocess.run(
        [sys.executable, "-m", "kailin_ray", "submit", *map(str, arguments), *where],
        cwd=ROOT, env=os.environ | head.environment | environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_job_runs_on_the_cluster_and_its_output_and_exit_code_come_back(
    head: Head, small_shard: Path, tmp_path: Path
) -> None:
    out = tmp_path / "corpus"
    done = submitted(head, "ingest", f"source.path={small_shard}", f"out={out}", "job.id=first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ray job stop" in done.stdout
    assert "500" in done.stdout
    assert read_json(out / "manifest.json")["num_documents"] == 500
    missing = submitted(head, "ingest", f"source.path={tmp_path}/nothing.xml.gz", f"out={tmp_path}/other")
    assert missing.returncode == 2
    assert "kailin_ray: " in missing.stdout
    assert "nothing.xml.gz" in missing.stdout
    again = submitted(head, "report", "run=a", "job.id=first")
    assert (again.returncode, "first" in again.stderr) == (2, True)


@pytest.mark.parametrize("token", ["", "0" * 32])
def test_a_cluster_s_token_is_asked_for(head: Head, token: str) -> None:
    done = submitted(head, "report", "run=a", RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="token" if token else "disabled")
    said = done.stderr.splitlines()
    assert (done.returncode, len(said)) == (2, 1), done.stderr
    assert "RAY_AUTH_TOKEN" in said[0]
