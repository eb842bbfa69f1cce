"""Faults, injected for real into the command line's processes: no row is lost, doubled, or without its reason.

The engine is one that answers at once or dies when it is told to; all else is real. Engine processes of vLLM that die
are in test_layouts.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from kailin_ray.dataset.records import record_files, records
from kailin_ray.distill import pipeline
from kailin_ray.distill.status import status
from kailin_ray.io.files import read_json
from tests.conftest import MESH, ROOT
from tests.support.commands import run_here
from tests.support.distil_with_faults import with_faults
from tests.support.shared_actors import end_session_after

ROWS = 120
MODULE = "tests.support.distil_with_faults"
Distil = Callable[..., subprocess.Popen[str]]
DistilHere = Callable[..., str]


def arguments(documents: Path, index: Path, run: Path, keys: tuple[str, ...], command: str) -> list[str]:
    """A command with its keys, and for `distill` those that it needs besides."""
    paths = [f"documents={documents}", f"index={index}", f"mesh={MESH}", f"out={run}", f"limit={ROWS}"]
    sizes = ["cluster.block_rows=4", "cluster.max_concurrent_rows=16", "retrieval=brief", "evaluation.method=rule"]
    given = {key.split("=")[0] for key in keys}
    defaults = [*paths, *sizes] if command == "distill" else []
    return [command, *(key for key in defaults if key.split("=")[0] not in given), *keys]


@pytest.fixture
def distil(documents: Path, index: Path, tmp_path: Path) -> Iterator[Distil]:
    """Start a command with a faulty engine in a process of its own; nothing of it survives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *keys: str, command: str = "distill", disposition: Any = signal.SIG_DFL, **faults: Any
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *arguments(documents, index, tmp_path / "run", keys, command)],
            cwd=ROOT, env={**os.environ, "FAULTS": json.dumps(faults)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, disposition),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def distil_into(ray_here: Callable[[], None], retrievers: Any, documents: Path, index: Path) -> DistilHere:
    """Run a command with a faulty engine in this process, where nothing of it is to be killed; give what it said."""

    def finish_here(run: Path, *keys: str, command: str = "distill", code: int = 0, **faults: Any) -> str:
        ray_here()
        with (
            patch.dict(os.environ, FAULTS=json.dumps(faults)),
            patch.object(pipeline, "distill", with_faults),
            patch.object(pipeline, "retrieving", retrievers),
        ):
            done = run_here(arguments(documents, index, run, keys, command))
        end_session_after(done)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return finish_here


@pytest.fixture
def distil_here(distil_into: DistilHere, tmp_path: Path) -> DistilHere:
    return partial(distil_into, tmp_path / "run")


def finish(process: subprocess.Popen[str], code: int = 0, seconds: float = 240) -> str:
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == code, out + err
    return out + err


def in_flight(run: Path) -> bool:
    """Whether a session's file says that an engine is ready."""
    return any(read_json(path)["progress"]["engines"]["ready"] for path in (run / "sessions").glob("*.json"))


def rows(run: Path) -> list[dict[str, Any]]:
    columns = ["pmid", "status", "stage", "reason", "detail", "candidates", "answer", "usage"]
    return records(run).to_table(columns=columns).sort_by("pmid").to_pylist() if written(run) else []


def written(run: Path) -> int:
    return len(list((run / "records").glob("*.parquet")))


def until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def workers(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Ray's processes of a kind, of the cluster that the command started."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline() and name in child.cmdline()[0]:
                found.append(child)
        except psutil.Error:
            continue
    return found


def whole(run: Path, number: int = ROWS) -> list[dict[str, Any]]:
    """The rows of a complete run: each once, each with a status, and a stage and a reason where it is not ok."""
    found = rows(run)
    assert len({row["pmid"] for row in found}) == len(found) == number
    for row in found:
        assert (row["stage"] is None) == (row["reason"] is None) == (row["status"] == "ok")
    assert read_json(run / "manifest.json")["num_documents"] == number
    return found


@pytest.fixture(scope="module")
def undisturbed(distil_into: DistilHere, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    distil_into(run)
    return whole(run)


def texts(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What a run says of its rows, without what differs from time to time."""
    return [
        (row["pmid"], row["status"], row["reason"], row["answer"], [one["question"] for one in row["candidates"] or []])
        for row in found
    ]


STAGE, RETRIEVER, PROGRESS = "ray::MapWorker", "ray::Retriever", "ray::Progress"


@pytest.mark.parametrize(
    ("victims", "num_retrievers"),
    [
        ([STAGE, PROGRESS, RETRIEVER], 2),
        pytest.param([PROGRESS], 1, marks=pytest.mark.slow),
        pytest.param([STAGE], 1, marks=pytest.mark.slow),
        pytest.param([RETRIEVER], 1, marks=pytest.mark.slow),
        pytest.param([RETRIEVER], 2, marks=pytest.mark.slow),
    ],
)
def test_killed_processes_lose_and_double_nothing(
    distil: Distil, tmp_path: Path, undisturbed: list[dict[str, Any]], victims: list[str], num_retrievers: int
) -> None:
    run = tmp_path / "run"
    process = distil(f"cluster.num_retrievers={num_retrievers}", latency=0.3)
    for victim in victims:
        before = written(run)
        until(lambda: written(run) >= before + 3)  # noqa: B023
        found = until(lambda: workers(process, victim))  # noqa: B023
        assert len(found) == (num_retrievers if victim == RETRIEVER else 1)
        found[0].kill()
    finish(process)
    assert texts(whole(run)) == texts(undisturbed)
    assert read_json(run / "manifest.json")["restarts"] == (STAGE in victims)


@pytest.mark.slow
def test_a_progress_actor_that_is_killed_while_a_run_drains_costs_no_row(
    distil: Distil, distil_here: DistilHere, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run = tmp_path / "run"
    process = distil(latency=1.0)
    until(lambda: written(run) >= 1)
    (progress,) = until(lambda: workers(process, PROGRESS))
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)  # the drain is on, and known to the engine
    progress.kill()
    finish(process, 75)
    before = rows(run)
    assert not list((run / "logs").glob("*UDF failed*"))
    assert len(before) >= 16  # what had begun was finished, not given up after a moment
    distil_here()
    found = whole(run)
    assert texts(found) == texts(undisturbed)
    assert [row for row in found if row["pmid"] in {one["pmid"] for one in before}] == before


@pytest.mark.slow
def test_a_killed_driver_loses_and_doubles_nothing(
    distil: Distil, distil_here: DistilHere, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run = tmp_path / "run"
    process = distil(latency=0.3)
    until(lambda: written(run) >= 3)
    assert status(run).state == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(rows(run)) < ROWS
    killed = status(run)
    assert (killed.state, killed.documents, killed.done) == ("dead", ROWS, len(rows(run)))
    distil_here()
    assert status(run).state == "finished"
    assert texts(whole(run)) == texts(undisturbed)
    assert read_json(run / "manifest.json")["restarts"] == 0


@pytest.mark.slow
def test_a_row_that_kills_every_engine_is_failed_alone(
    distil_here: DistilHere, documents: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    table = pq.read_table(sorted(documents.glob("*.parquet"))[0])
    place = 100  # which the index does not hold: as a context it would be deadly too
    deadly = table["pmid"][place].as_py()
    distil_here(latency=0.02, deadly=[table["title"][place].as_py()])
    found = whole(tmp_path / "run")
    (failed,) = [row for row in found if row["status"] == "failed"]
    assert (failed["pmid"], failed["reason"], failed["stage"]) == (deadly, "engine_died", "question")
    assert "alone" in failed["detail"]
    others = [row for row in texts(undisturbed) if row[0] != deadly]
    assert [row for row in texts(found) if row[0] != deadly] == others
    assert read_json(tmp_path / "run" / "manifest.json")["restarts"] == 3


@pytest.mark.slow
def test_a_row_that_silences_every_engine_is_failed_alone(
    distil_here: DistilHere, documents: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    table = pq.read_table(sorted(documents.glob("*.parquet"))[0])
    place = 100  # which the index does not hold: as a context it would silence the engine too
    silent = table["pmid"][place].as_py()
    distil_here("cluster.max_silent_minutes=0.1", latency=0.02, silent=[table["title"][place].as_py()])
    found = whole(tmp_path / "run")
    (failed,) = [row for row in found if row["status"] == "failed"]
    assert (failed["pmid"], failed["reason"], failed["stage"]) == (silent, "engine_died", "question")
    assert "fell silent" in failed["detail"]
    assert [row for row in texts(found) if row[0] != silent] == [row for row in texts(undisturbed) if row[0] != silent]
    assert read_json(tmp_path / "run" / "manifest.json")["restarts"] == 3
    assert "(cluster.max_silent_minutes); it is killed" in (tmp_path / "run" / "logs" / "engines.log").read_text()


def test_a_record_that_cannot_be_written_is_failed_alone(
    distil_here: DistilHere, documents: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    table = pq.read_table(sorted(documents.glob("*.parquet"))[0])
    answered = {row["pmid"] for row in undisturbed if row["status"] == "ok"}
    titles = zip(table["pmid"].to_pylist(), table["title"].to_pylist(), strict=True)
    pmid, title = next(one for one in titles if one[0] in answered)
    distil_here(broken=[f"Title: {title}"])
    found = whole(tmp_path / "run")
    (failed,) = [row for row in found if row["status"] == "failed"]
    assert (failed["pmid"], failed["reason"], failed["stage"]) == (pmid, "invalid_record", "answer")
    assert failed["detail"].startswith("answer: UnicodeEncodeError: ")
    assert failed["answer"] == "It had an effect in the \\ud800 patients."
    assert [row for row in texts(found) if row[0] != pmid] == [row for row in texts(undisturbed) if row[0] != pmid]


def test_more_contexts_than_a_record_can_count_are_refused(distil_here: DistilHere, tmp_path: Path) -> None:
    assert "retrieval.top_k: Input should be less than or equal to 127" in distil_here("retrieval.top_k=128", code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_row_that_kills_vllm_is_failed_alone(distil_here: DistilHere, documents: Path, tmp_path: Path) -> None:
    limit, place = 8, 3
    title = pq.read_table(sorted(documents.glob("*.parquet"))[0])["title"][place].as_py()
    keys = [f"limit={limit}", "cluster.max_concurrent_rows=8", "cluster.block_rows=2", "max_failed_fraction=0.5"]
    distil_here(*keys, real=True, deadly=[f"Title: {title}"])
    (failed,) = [row for row in whole(tmp_path / "run", limit) if row["status"] == "failed"]
    assert (failed["reason"], failed["stage"]) == ("engine_died", "question")
    assert read_json(tmp_path / "run" / "manifest.json")["restarts"] == 2


@pytest.mark.slow
def test_a_machine_that_is_lost_loses_and_doubles_nothing(
    distil: Distil, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        others = [cluster.add_node(num_cpus=2) for _ in range(2)]
        run = tmp_path / "run"
        process = distil(f"cluster.address={cluster.address}", "cluster.num_engines=2", latency=0.5)
        until(lambda: written(run) >= 3)
        lost = next(node for node in others if engines_of(node))
        cluster.remove_node(lost, allow_graceful=False)
        finish(process)
    finally:
        cluster.shutdown()
    assert texts(whole(run)) == texts(undisturbed)
    assert read_json(run / "manifest.json")["restarts"] >= 1


def engines_of(node: Any) -> list[psutil.Process]:
    """The stage actors of a machine of a cluster on this one."""
    raylet = node.all_processes["raylet"][0].process
    found = []
    for child in psutil.Process(raylet.pid).children(recursive=True):
        try:
            if child.cmdline() and "MapWorker" in child.cmdline()[0]:
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_sigterm_finishes_what_is_begun_and_the_same_command_goes_on(
    distil: Distil, distil_here: DistilHere, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    run = tmp_path / "run"
    process = distil(latency=0.3)
    until(lambda: written(run) >= 3)
    process.send_signal(signal.SIGTERM)
    assert "the same command resumes" in finish(process, 75)
    before = rows(run)
    assert 0 < len(before) < ROWS
    assert not (run / "manifest.json").exists()
    distil_here()
    found = whole(run)
    assert texts(found) == texts(undisturbed)
    assert [row for row in found if row["pmid"] in {one["pmid"] for one in before}] == before  # nothing done twice


def test_what_a_power_failure_or_a_second_writer_left_is_mended_by_the_same_command(
    distil_here: DistilHere, tmp_path: Path
) -> None:
    """A cut record file, a record twice, a cut file of a session; the manifest was not written yet."""
    run, keys = tmp_path / "run", ("limit=24", "cluster.block_rows=4")
    distil_here(*keys)
    before = texts(whole(run, 24))
    table = pq.read_table(run / "records")
    for path in record_files(run / "records"):
        path.unlink()
    for number in range(6):
        pq.write_table(table.slice(4 * number, 4), run / "records" / f"00000000{number}-a.parquet")
    pq.write_table(table.slice(2, 4), run / "records" / "000000006-b.parquet")
    (run / "records" / "000000003-a.parquet").write_bytes(b"PAR1")
    (run / "sessions" / "20270101T000000-x.json").write_text('{"progress": {')
    (run / "manifest.json").unlink()
    said = distil_here(*keys)
    assert texts(whole(run, 24)) == before
    assert "000000003-a.parquet" in said and "*.damaged" in said and "4 records were duplicates" in said
    assert "20270101T000000-x.json cannot be read" in said


@pytest.mark.parametrize("disposition", [signal.SIG_IGN, pytest.param(signal.SIG_DFL, marks=pytest.mark.slow)])
def test_the_end_of_the_grace_does_not_hang_on_sigint(distil: Distil, tmp_path: Path, disposition: Any) -> None:
    """A shell starts a background command with SIGINT ignored."""
    process = distil("grace_seconds=1", "limit=8", disposition=disposition, latency=600.0)
    until(lambda: any((tmp_path / "run" / "logs").glob("*")) and in_flight(tmp_path / "run"))
    process.send_signal(signal.SIGTERM)
    assert "the same command resumes" in finish(process, 75, seconds=180)


@pytest.mark.slow
def test_a_run_stops_after_its_hours(distil_here: DistilHere, tmp_path: Path) -> None:
    assert "stopped" in distil_here("max_hours=0.004", "grace_seconds=20", latency=3.0, code=75)
    distil_here()
    whole(tmp_path / "run")


@pytest.mark.slow
def test_too_many_rows_that_end_for_a_reason_stop_the_run(distil_here: DistilHere, tmp_path: Path) -> None:
    said = distil_here("max_fraction.answer_truncated=0.2", latency=0.3, short=True, code=1)
    assert "rows ended with answer_truncated, more than max_fraction.answer_truncated=0.2" in said
    kept = rows(tmp_path / "run")
    assert 0 < len(kept) < ROWS
    distil_here(short=True)
    assert {row["reason"] for row in whole(tmp_path / "run")} >= {"answer_truncated"}


def test_an_unknown_reason_is_refused(distil_here: DistilHere, tmp_path: Path) -> None:
    assert "Could not override 'max_fraction.answer_cut'" in distil_here("max_fraction.answer_cut=0.5", code=2)
    said = distil_here("+max_fraction.answer_cut=0.5", code=2)
    assert "max_fraction: unknown reason 'answer_cut'; allowed: no_abstract, " in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_vanishes_is_said_and_the_run_made_whole_again(
    distil: Distil, distil_here: DistilHere, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = distil(latency=0.3)
    until(lambda: written(run) >= 3)
    shutil.rmtree(run / "records")
    said = finish(process, 1)
    assert "documents have no record" in said
    assert not (run / "manifest.json").exists()
    distil_here()
    whole(run)


@pytest.mark.slow
def test_a_damaged_input_file_is_named(distil_here: DistilHere, documents: Path, tmp_path: Path) -> None:
    shutil.copytree(documents, tmp_path / "documents")
    copied = f"documents={tmp_path / 'documents'}"
    part = sorted((tmp_path / "documents").glob("*.parquet"))[0]
    whole_file = part.read_bytes()
    # The footer is whole, the pages are not: only who reads the rows sees it.
    footer = int.from_bytes(whole_file[-8:-4], "little") + 8
    part.write_bytes(bytes(len(whole_file) - footer) + whole_file[-footer:])
    assert f"{part}: cannot be read" in distil_here(copied, code=2)
    assert not (tmp_path / "run").exists()
    assert f"{part}: cannot be read" in distil_here(copied, "limit=null", code=1)  # by the workers
    part.write_bytes(whole_file)
    distil_here(copied, "limit=null")
    whole(tmp_path / "run", read_json(documents / "manifest.json")["num_documents"])


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_stops_the_run_and_keeps_what_is_whole(
    distil_here: DistilHere, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no mount allowed here")
    try:
        said = distil_here(f"out={disk / 'run'}", latency=0.05, code=1)
        assert "No space left on device" in said
        assert len(rows(disk / "run")) < ROWS  # what is there can be read
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        distil_here(f"out={disk / 'run'}")
        assert texts(whole(disk / "run")) == texts(undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_answers_are_made_again_without_asking_again(distil_here: DistilHere, tmp_path: Path) -> None:
    first, second = tmp_path / "run", tmp_path / "second"
    distil_here(short=True)
    assert {row["reason"] for row in whole(first)} >= {"answer_truncated"}
    again = [f"from={first}", f"out={second}"]
    said = distil_here(*again, "stages=[answer]", "retrieval.top_k=2", code=2)
    assert f"from: {first} was made with another retrieval.top_k (4, now 2), which affects the question step" in said
    assert not second.exists()
    distil_here(*again, "stages=[answer]", "model.answer.sampling.max_tokens=99")
    before, after = whole(first), whole(second)
    assert [row["candidates"] for row in after] == [row["candidates"] for row in before]
    assert sum(row["status"] == "ok" for row in after) > sum(row["status"] == "ok" for row in before)
    # The engine of this run has answered and nothing else.
    stages = read_json(second / "manifest.json")["engines"]
    assert list(stages) == ["answer"]


@pytest.mark.slow
def test_rows_of_a_reason_are_replayed_and_merged(distil_here: DistilHere, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distil_here(short=True)
    before = whole(run)
    cut = {row["pmid"] for row in before if row["reason"] == "answer_truncated"}
    assert cut
    said = distil_here(f"run={run}", "reason=nonsense", command="replay", code=2)
    assert "reason: unknown 'nonsense'; allowed: no_abstract, " in said
    keys = [f"run={run}", "reason=truncated", "model.answer.sampling.max_tokens=99"]
    said = distil_here(*keys, command="replay")
    assert f"{len(cut):,} rows done again: ok {len(cut):,}" in said
    after = whole(run)
    assert [row for row in after if row["pmid"] not in cut] == [row for row in before if row["pmid"] not in cut]
    assert all(row["status"] == "ok" for row in after if row["pmid"] in cut)
    same = [(row["pmid"], row["candidates"]) for row in before]
    assert [(row["pmid"], row["candidates"]) for row in after] == same
    (note,) = read_json(run / "manifest.json")["replays"]
    assert note["stages"] == ["answer"]
    assert note["rows"]["ok"] == len(cut)
    assert note["changed"] == {"model.answer.sampling.max_tokens": 99}
    assert not any((run / "replays").iterdir())
    # What a replay of the run as it was before left behind is of no use now.
    (run / "replays" / "old").mkdir()
    (run / "replays" / "old.json").write_text('{"manifest": "other", "step": "answer", "pmids": [1]}')
    assert "has no row that ended with answer_truncated" in distil_here(*keys, command="replay", code=2)
    assert not any((run / "replays").iterdir())
    # A run that goes on keeps the note.
    distil_here(f"limit={ROWS + 4}")
    assert read_json(run / "manifest.json")["replays"] == [note]


@pytest.mark.slow
def test_a_replay_that_is_killed_goes_on(distil: Distil, distil_here: DistilHere, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distil_here(short=True)
    cut = sum(row["reason"] == "answer_truncated" for row in whole(run))
    keys = [f"run={run}", "reason=truncated"]
    process = distil(*keys, command="replay", latency=1.0)
    until(lambda: list(run.glob("replays/*/records/*.parquet")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    # What is free may differ: the replay is the same.
    said = distil_here(*keys, "cluster.max_concurrent_rows=8", command="replay")
    assert f"of {cut:,} abstracts to distil" in said
    assert f"{cut:,} of {cut:,}" not in said
    assert all(row["reason"] != "answer_truncated" for row in whole(run))


@pytest.mark.slow
def test_dead_letters_hold_where_why_and_what_was_said(distil_here: DistilHere, tmp_path: Path) -> None:
    distil_here(short=True)
    distil_here(f"run={tmp_path / 'run'}", f"out={tmp_path / 'dataset'}", command="publish")
    table = pq.read_table(sorted((tmp_path / "dataset" / "rejected").glob("*.parquet"))[0])
    (row, *_) = [one for one in table.to_pylist() if one["reason"] == "answer_truncated"]
    assert row["stage"] == "answer"
    last = row["calls"][-1]
    assert last == {
        "agent": "answer", "prompt_hash": "0f", "finish_reason": "length",
        "output": "It had an effect in the patients.",
    }  # fmt: skip
