"""For real: two models as two stages, side by side and cut in two; adapters on one engine; an engine killed at work."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from kailin_ray.schema import RECORDS
from tests.conftest import MESH, MODEL, ROOT, Command
from tests.distill.test_run import records
from tests.support.adapters import adapter
from tests.support.shared_actors import stop_engines

LIMIT = 5


@pytest.fixture(scope="module")
def base(documents: Path, index: Path) -> list[str]:
    return [
        "distill", f"documents={documents}", f"index={index}", f"mesh={MESH}", f"limit={LIMIT}", "retrieval=brief",
        "cluster.block_rows=2", "model.engine.kv_cache_memory_bytes=536870912",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def other_model(engines: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The small model in another directory, a little changed."""
    folder = tmp_path_factory.mktemp("models") / "smollm2-changed"
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    yield folder
    stop_engines(folder)


def checked(run: Path, sessions: int = 1, limit: int = LIMIT) -> dict[str, Any]:
    """The manifest of a run whose records are whole: each abstract once, with a status, in the schema."""
    rows = records(run)
    assert len({row["pmid"] for row in rows}) == len(rows) == limit
    assert {row["status"] for row in rows} <= {"ok", "rejected"}
    assert all(set(row) == set(RECORDS.names) for row in rows)
    assert not (run / "phases").exists()
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    assert manifest["sessions"] == sessions
    for stage in manifest["engines"].values():
        shares = [stage[f"{name}_share"] for name in ("start", "busy", "retrieval", "idle")]
        assert sum(shares) == pytest.approx(1.0, abs=0.01)
    # Of a session that was killed the last account may be from before its engine's first call.
    if sessions == 1:
        assert all(stage["busy_share"] > 0 for stage in manifest["engines"].values())
    if sessions == 1 and not manifest["restarts"]:
        tokens = sum(call["completion_tokens"] for row in rows for call in row["usage"])
        assert sum(stage["completion_tokens"] for stage in manifest["engines"].values()) == tokens
    return manifest


@pytest.mark.slow
def test_two_models_are_two_stages_side_by_side(
    kailin: Command, base: list[str], other_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    keys = [f"out={run}", f"model.answer.path={other_model}", "cluster.cpus_per_engine=0.5"]
    done = kailin(*base, *keys)
    assert done.returncode == 0, done.stderr
    of_two_models(run, [["general+biomedical", "answer"]])
    again = kailin(*base, *keys)
    assert "complete, nothing to do" in again.stdout


@pytest.mark.slow
def test_two_models_are_cut_in_two_where_one_fits_and_go_on_after_a_kill(
    kailin: Command, base: list[str], other_model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # On two CPUs two engines of one CPU each leave none to read and write with.
    keys = [f"out={run}", f"model.answer.path={other_model}"]
    process = start([*base, *keys])
    phase = run / "phases" / "general+biomedical"
    wait_for(lambda: len(list(phase.glob("*.parquet"))) > 0, process)
    process.kill()
    process.wait()
    assert not list((run / "records").glob("*.parquet"))
    # Its questions are there: no other configuration may answer them.
    other = kailin(*base, *keys, "model.general.sampling.max_tokens=9")
    assert (other.returncode, "model.general.sampling.max_tokens" in other.stderr) == (2, True)
    done = kailin(*base, *keys)
    assert done.returncode == 0, done.stderr
    assert "one after another" in done.stderr
    of_two_models(run, [["general+biomedical"], ["answer"]], sessions=2)


def of_two_models(run: Path, phases: list[list[str]], sessions: int = 1) -> None:
    manifest = checked(run, sessions)
    assert [[pool["stage"] for pool in phase] for phase in manifest["plan"]] == phases
    assert set(manifest["engines"]) == {"general+biomedical", "answer"}
    names = {agent: model["name"] for agent, model in manifest["models"].items()}
    assert names == {"general": MODEL.name, "biomedical": MODEL.name, "answer": "smollm2-changed"}
    assert len({model["identity"] for model in manifest["models"].values()}) == 2
    answered = [row for row in records(run) if row["answer"]]
    assert answered
    # Read anew by the second engine: of its prompt an answer found only the preamble in the cache, never the abstract.
    for row in answered:
        calls = {call["agent"]: call for call in row["usage"]}
        assert calls["answer"]["cached_tokens"] <= 560


@pytest.mark.slow
def test_adapters_share_their_base_s_engine_and_each_is_used(kailin: Command, base: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    one, two = adapter(tmp_path / "one", 1), adapter(tmp_path / "two", 2)
    done = kailin(*base, f"out={run}", f"model.general.adapter={one}", f"model.answer.adapter={two}")
    assert done.returncode == 0, done.stderr
    manifest = checked(run)
    assert [[pool["stage"] for pool in phase] for phase in manifest["plan"]] == [["general+biomedical+answer"]]
    assert {agent: model["adapter"] for agent, model in manifest["models"].items()} == {
        "general": "one", "biomedical": None, "answer": "two",
    }  # fmt: skip
    (one / "adapter_model.safetensors").unlink()
    refused = kailin(*base, f"out={tmp_path}/other", f"model.general.adapter={one}")
    assert refused.returncode == 2
    assert "model.general.adapter" in refused.stderr
    assert "adapter_model.safetensors" in refused.stderr


def metrics(process: subprocess.Popen[bytes]) -> str:
    """What Ray's Prometheus endpoint of the session that a command started shows."""
    commands = [" ".join(one.cmdline()) for one in psutil.Process(process.pid).children(recursive=True)]
    session = next(found[0] for line in commands if (found := re.search(r"/tmp/ray/session_[\d_-]+", line)))
    (port,) = Path(session).glob("metrics_export_port_*")
    return urllib.request.urlopen(f"http://127.0.0.1:{port.read_text()}/metrics", timeout=30).read().decode()


@pytest.mark.slow
def test_an_engine_process_that_is_killed_is_replaced_and_counted(base: list[str], tmp_path: Path) -> None:
    run, limit = tmp_path / "run", 20  # enough to be at work for long after the metrics are there
    keys = [key for key in base if key != f"limit={LIMIT}"]
    process = start(
        [*keys, f"limit={limit}", "cluster.threads_per_engine=1", f"out={run}", "cluster.max_concurrent_rows=2"],
        RAY_metrics_report_interval_ms="500",
    )
    wait_for(lambda: len(list((run / "records").glob("*.parquet"))) > 0, process)
    wait_for(lambda: "ray_vllm_prompt_tokens" in metrics(process), process)
    assert "ray_kailin_ray_tokens_total{" in metrics(process)
    children = psutil.Process(process.pid).children(recursive=True)
    engines = [one for one in children if "EngineCore" in " ".join(one.cmdline())]
    assert engines
    for engine in engines:
        engine.kill()
    assert process.wait(timeout=400) == 0
    manifest = checked(run, limit=limit)
    assert manifest["restarts"] == 1
    assert manifest["engines"]["general+biomedical+answer"]["starts"] == 2


def start(arguments: list[str], **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "kailin_ray", *arguments],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.1)
