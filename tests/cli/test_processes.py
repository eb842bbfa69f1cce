"""Commands as their users run them, in processes of their own: what they print, and their exit codes.

Each command has such a test. These are of commands that no other test runs so. The others: ``ingest``, ``select`` and
``index`` in ``tests/conftest.py``; ``distill``, ``publish`` and ``report`` in ``distill/test_run.py``; ``plan`` in
``test_refusals.py``; ``train``, ``submit``, ``bundle`` and ``download`` in the tests of their modules.
"""

import tempfile
from pathlib import Path

import pytest

from kailin_ray.cli import main
from kailin_ray.config import DistillConfig, ReportConfig, settings
from kailin_ray.io.files import read_json, write_json
from tests.conftest import ASSETS, Command
from tests.support.runs import record, run


def test_fetch_finds_what_is_there(kailin_subprocess: Command) -> None:
    done = kailin_subprocess("fetch", "assets=[mesh]", f"out={ASSETS}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"mesh: {ASSETS}/mesh.tsv\n", "")


def test_compare_writes_its_folder(kailin_subprocess: Command, tmp_path: Path) -> None:
    rows = [record(pmid, (f"Does {pmid} help?", 0.2), (f"Is it {pmid}?", 0.3), pmid % 2) for pmid in range(1, 20)]
    for name in ("old", "new"):
        run(tmp_path / name, rows)
    paths = [f"{name}={tmp_path}/{name}" for name in ("old", "new", "out")]
    done = kailin_subprocess("compare", *paths, "judge=false", "held_out=false")
    assert (done.returncode, done.stderr) == (0, "")
    assert "19 abstracts" in done.stdout
    assert {"README.md", "comparison.json"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_replay_finds_nothing_to_do(kailin_subprocess: Command, config: DistillConfig, tmp_path: Path) -> None:
    note = run(tmp_path / "run", [record(1, ("Does it help?", 0.2), None, 0)]) / "manifest.json"
    write_json(note, read_json(note) | {"config": settings(config)})
    done = kailin_subprocess("replay", f"run={tmp_path}/run", "reason=truncated")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "has no row that ended with" in done.stderr


def test_a_foreign_run_s_settings_read_nothing_of_the_environment(
    kailin_subprocess: Command, config: DistillConfig, tmp_path: Path
) -> None:
    rows = [record(1, ("Does it help?", 0.2), None, 0, status="rejected", stage="answer", reason="answer_truncated")]
    note = run(tmp_path / "run", rows) / "manifest.json"
    saved = settings(config) | {"documents": "${oc.env:KAILIN_RAY_SECRET}"}
    write_json(note, read_json(note) | {"config": saved})
    done = kailin_subprocess("replay", f"run={tmp_path}/run", "reason=answer_truncated", KAILIN_RAY_SECRET="S3CR3T")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "kailin_ray: documents: ${oc.env:KAILIN_RAY_SECRET} is not a directory\n"


def test_a_terminal_without_utf_8_shows_escapes(kailin_subprocess: Command, tmp_path: Path) -> None:
    shown = {"answer": "Yes: β-cells help.", "contexts_text": ["C."], "mesh": [], "usage": []}
    run(tmp_path / "run", [record(1, ("Do β-cells help?", 0.2), None, 0, **shown)])
    done = kailin_subprocess("report", f"run={tmp_path}/run", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Do \\u03b2-cells help?" in done.stdout


def test_a_fault_of_the_program_on_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: ReportConfig) -> int:
        raise KeyError("x")

    monkeypatch.setitem(main.COMMANDS, "report", (ReportConfig, fail))
    monkeypatch.setattr(tempfile, "tempdir", "/proc/1/none")
    assert main.run_command(["report", "run=x"]) == 1
    shown = capsys.readouterr().err
    assert (
        shown
        == "kailin_ray: unexpected KeyError: 'x'; HYDRA_FULL_ERROR=1 shows all of it (No such file or directory)\n"
    )


def test_status_tells_of_a_run_that_did_not_begin(kailin_subprocess: Command, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    done = kailin_subprocess("status", f"run={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path) in done.stdout


def test_refine_says_which_step_failed(kailin_subprocess: Command, tmp_path: Path) -> None:
    inputs = [f"{key}={tmp_path}/none" for key in ("documents", "index", "mesh")]
    done = kailin_subprocess("refine", f"out={tmp_path}/refined", *inputs)
    assert done.returncode == 2
    assert "[1 of 6] kailin-ray distill" in done.stdout
    refused, failed = done.stderr.splitlines()
    assert refused == f"kailin_ray: documents: {tmp_path}/none is not a directory"
    assert failed.startswith("kailin_ray: distill out=") and failed.endswith(" ended with exit code 2")
