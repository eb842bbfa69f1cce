"""The whole way through the real command line and the real model: interrupted, killed, gone on with, published."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from kailin_ray.dataset.records import record_files
from kailin_ray.schema import REASONS, RECORDS
from tests.conftest import MESH, ROOT, Command

LIMIT = 10
MARK = "KAILIN_RAY_TESTED"
"""The run's folder, in the environment of all processes of the command that is stopped."""

LOAD = """
import json, sys, datasets
folder = sys.argv[1]
configs = datasets.get_dataset_config_names(folder)
rows = {c: [row for split in datasets.load_dataset(folder, c).values() for row in split] for c in configs}
print(json.dumps(rows))
assert datasets.load_dataset(folder, split="train").column_names[0] == "pmid"  # triples are the default
"""


def records(run: Path) -> list[dict]:
    return [row for file in record_files(run / "records") for row in pq.read_table(file).to_pylist()]


def written(run: Path) -> set[str]:
    """Names of files that hold one block; what was there before a session is merged when it starts."""
    return {path.name for path in (run / "records").glob("0*.parquet")}


def stop_midway(arguments: list[str], run: Path, number: int) -> int:
    """Start the command, send the signal once some but not all records are there; return the exit code."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1", MARK: str(run)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kailin_ray", *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
        # Where the tests run in the background, a shell lets children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    already = written(run)
    deadline = time.monotonic() + 400
    while written(run) <= already:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    return process.wait(timeout=120)


@pytest.fixture(scope="module")
def keys(documents: Path, index: Path) -> list[str]:
    return [
        "distill", f"documents={documents}", f"index={index}", f"mesh={MESH}", f"limit={LIMIT}", "retrieval=brief",
        "cluster.block_rows=2", "cluster.max_concurrent_rows=4", "model.engine.kv_cache_memory_bytes=536870912",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(kailin: Command, keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that was interrupted once, and then completed; and the arguments that do it."""
    out = tmp_path_factory.mktemp("runs") / "a"
    arguments = [*keys, f"out={out}"]
    assert stop_midway([*arguments, "cluster.threads_per_engine=1"], out, signal.SIGINT) == 130
    first = {row["pmid"] for row in records(out)}
    assert 0 < len(first) < LIMIT
    assert not (out / "manifest.json").exists()
    gone_on_with(kailin, arguments, out, first)
    return out, arguments


def gone_on_with(kailin: Command, arguments: list[str], out: Path, before: set[int]) -> None:
    done = kailin(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"{LIMIT - len(before)} of {LIMIT} abstracts to distil" in done.stdout
    assert before < {row["pmid"] for row in records(out)}


def test_every_abstract_has_exactly_one_record_with_a_status_and_a_reason(
    run: tuple[Path, list[str]], documents: Path
) -> None:
    rows = records(run[0])
    first = pq.read_table(next(documents.glob("part-*.parquet")))["pmid"].to_pylist()[:LIMIT]
    assert sorted(row["pmid"] for row in rows) == first
    assert {row["status"] for row in rows} <= {"ok", "rejected"}
    assert all((row["reason"] in REASONS) == (row["status"] != "ok") for row in rows)
    for row in rows:
        for candidate in row["candidates"] or []:
            assert candidate["question"].endswith("?")
            assert len(candidate["contexts"]) == 4
            assert row["pmid"] not in [context["pmid"] for context in candidate["contexts"]]
    assert pq.read_schema(next((run[0] / "records").glob("*.parquet"))).equals(RECORDS)
    assert not [path for path in (run[0] / "records").iterdir() if path.name.startswith(".")]


def test_the_manifest_adds_up(run: tuple[Path, list[str]]) -> None:
    manifest = json.loads((run[0] / "manifest.json").read_text())
    rows = records(run[0])
    assert manifest["num_documents"] == sum(manifest["num_by_status"].values()) == LIMIT
    assert sum(manifest["num_by_reason"].values()) == LIMIT - manifest["num_by_status"]["ok"]
    for name in ("prompt", "cached", "completion"):
        used = sum(call[f"{name}_tokens"] for row in rows for call in row["usage"])
        assert manifest["tokens"][name] == used
        assert sum(agent[name] for agent in manifest["tokens"]["by_agent"].values()) == used
    assert manifest["seconds"]["total"] >= manifest["seconds"]["distill"] > 0
    assert set(manifest["sha256"]) == {"mesh"}
    assert manifest["index"]["search"] == {"kind": "exact"}
    # Documents may be updated under a run: they have a name of their own, and a count of updates.
    documents = json.loads((Path(manifest["config"]["documents"]) / "manifest.json").read_text())
    assert (manifest["documents"]["id"], manifest["documents"]["num_updates"]) == (documents["id"], 1)


def test_the_same_line_again_does_nothing(kailin_here: Command, run: tuple[Path, list[str]]) -> None:
    before = {path: path.stat().st_mtime_ns for path in run[0].rglob("*.parquet")}
    done = kailin_here(*run[1])
    assert (done.returncode, "complete, nothing to do" in done.stdout) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in run[0].rglob("*.parquet")} == before


@pytest.mark.parametrize(
    ("change", "name"),
    [("evaluation.aggregate=mean", "evaluation.aggregate"), ("model.answer.sampling.max_tokens=9", "max_tokens")],
)
def test_another_run_into_the_same_folder_is_refused(
    kailin_here: Command, run: tuple[Path, list[str]], change: str, name: str
) -> None:
    done = kailin_here(*run[1], change)
    assert done.returncode == 2
    assert name in done.stderr
    assert "choose a new out=" in done.stderr


def test_the_dataset_loads_in_a_fresh_process(
    kailin_subprocess: Command, kailin_here: Command, run: tuple[Path, list[str]], tmp_path: Path
) -> None:
    done = kailin_subprocess("publish", f"run={run[0]}", f"out={tmp_path}/dataset")
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "dataset")], capture_output=True, text=True, env=environment
    )
    assert loaded.returncode == 0, loaded.stderr
    configs = json.loads(loaded.stdout)
    rows = records(run[0])
    ok = [row for row in rows if row["status"] == "ok"]
    assert len(ok) > 0
    triples = configs["triples"]
    assert sorted(row["pmid"] for row in triples) == sorted(row["pmid"] for row in ok)
    assert all(row["question"].endswith("?") and row["answer"] for row in triples)
    # The source abstract, then four contexts.
    assert all([each["is_source"] for each in row["contexts"]] == [True, *[False] * 4] for row in triples)
    assert len(configs["sft"]) == len(configs["pretrain"]) == len(ok)
    # Of preferences some are held out, in a split of their own. A config without rows is left out.
    assert len(configs.get("rejected", [])) == LIMIT - len(ok)
    assert all(row["reason"] in REASONS for row in configs.get("rejected", []))
    assert len(configs.get("preference", [])) == sum(row["preferred_by"] == "rule" for row in ok)
    for row in configs.get("preference", []):
        assert [m["role"] for m in (*row["prompt"], *row["chosen"], *row["rejected"])] == [
            "system", "user", "assistant", "assistant",
        ]  # fmt: skip
        assert row["chosen"] != row["rejected"]
        assert row["margin"] > 0
    assert "<|im_" not in loaded.stdout
    # Each making has a name of its own, or `datasets` would take its rows for those of an earlier folder of this name.
    assert "description: made 20" in (tmp_path / "dataset" / "README.md").read_text()
    again = kailin_here("publish", f"run={run[0]}", f"out={tmp_path}/dataset")
    assert (again.returncode, "exists" in again.stderr) == (2, True)
    shown = kailin_subprocess("report", f"run={run[0]}", "examples=2")
    assert f"{LIMIT} abstracts" in shown.stdout
    assert shown.stdout.count("question  ") == min(2, len(ok))


@pytest.mark.slow
def test_a_killed_run_goes_on(kailin: Command, keys: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*keys, f"out={run}"]
    assert stop_midway([*arguments, "cluster.threads_per_engine=1"], run, signal.SIGKILL) == -signal.SIGKILL
    killed = {row["pmid"] for row in records(run)}
    assert 0 < len(killed) < LIMIT
    assert not (run / "manifest.json").exists()
    nothing_is_left_running(run)
    gone_on_with(kailin, arguments, run, killed)
    pmids = [row["pmid"] for row in records(run)]
    assert len(pmids) == len(set(pmids)) == LIMIT


def test_nothing_is_left_running(run: tuple[Path, list[str]]) -> None:
    nothing_is_left_running(run[0])


def nothing_is_left_running(run: Path) -> None:
    started = time.monotonic()
    while left := _left_running(run):
        assert time.monotonic() - started < 60, f"still running: {left}"
        time.sleep(1)


def _left_running(out: Path) -> list[str]:
    """Command lines of what the stopped command started; it itself was waited for, and was our child."""
    found, own = [], os.getpid()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if own not in (process.pid, process.ppid()) and process.environ().get(MARK) == str(out):
                found.append(" ".join(process.cmdline()))
    return found
