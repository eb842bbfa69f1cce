"""Every file of a small folder, empty, cut or filled with NUL as after a power failure, given to every command."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.errors import CommandFailedError
from kailin_ray.runtime import session
from tests.conftest import ENCODER, MESH, MODEL, Command
from tests.support.folders_of_before import copy_folders

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "nul": lambda content: bytes(len(content)),
}
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "status": (["run={at}/run"], ["run"]),
    "report": (["run={at}/run", "examples=1"], ["run"]),
    "publish": (["run={at}/run", "out={at}/out"], ["run"]),
    "compare": (["old={at}/run", "new={at}/other", "out={at}/out", "judge=false"], ["run"]),
    "distill": (
        ["documents={at}/documents", "index={at}/index", f"mesh={MESH}", "out={at}/run", "limit=10", "retrieval=brief"],
        ["documents", "index", "run"],
    ),
    "replay": (
        ["run={at}/run", "reason=answer_truncated", "documents={at}/documents", "index={at}/index", f"mesh={MESH}",
         f"model.path={MODEL}"],
        ["documents", "index", "run"],
    ),
    "plan": (
        ["model.general.adapter={at}/adapter", "model.general.examples=false", f"model.path={MODEL}",
         "cluster.nodes={{count: 1, cpus: 8, memory_gib: 64, gpus: 0, gpu_memory_gib: 0}}"],
        ["adapter"],
    ),
    "index": (["documents={at}/documents", "out={at}/index", f"encoder.path={ENCODER}", "limit=20"],
              ["documents", "index"]),
    "select": (["corpus={at}/corpus", "out={at}/documents", "filters.require_mesh=true"], ["corpus", "documents"]),
    "ingest": (["source=table", "source.path={at}/source.csv", "out={at}/corpus"], ["corpus"]),
    "train": (["data.path={at}/dataset", "out={at}/out", "task=dpo", f"model.path={MODEL}",
               "model.adapter={at}/adapter", "min_examples=1"], ["dataset", "adapter"]),
}  # fmt: skip
"""The keys of each command, and the folders that it opens."""
REWRITTEN = ("run/manifest.json", "run/run.json")
"""Files that distill makes again, or adds to."""
STARTS = "here a Ray session would start"


@contextmanager
def refuse_to_start(*_: Any, **__: Any) -> Iterator[Any]:
    raise CommandFailedError(STARTS)
    yield


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(session, "ray_session", refuse_to_start)
    at = copy_folders(tmp_path / "at")
    shutil.copytree(at / "run", at / "other")
    (at / "source.csv").write_text("pmid,title,abstract\n1,A title,An abstract of some words.\n")
    note = {"folder": "x", "reasons": [], "changed": {}, "stages": [], "rows": {}}
    (at / "run" / "replays.json").write_text(json.dumps([note]))
    return at


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


SLOW = ("distill", "replay", "train")  # up to a minute each


@pytest.mark.parametrize(
    "command", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in COMMANDS]
)
def test_a_damaged_file_is_one_line_and_nothing_is_lost(kailin_here: Command, folders: Path, command: str) -> None:
    keys, opened = COMMANDS[command]
    arguments = [command, *(key.format(at=folders) for key in keys)]
    whole = contents(folders)
    problems = []
    for name in sorted(whole):
        if name.partition("/")[0] not in opened or not name.endswith((".json", ".parquet", ".npy", ".arrow", ".f16")):
            continue
        for damage, spoil in DAMAGES.items():
            (folders / name).write_bytes(spoil(whole[name]))
            damaged = contents(folders)
            done = kailin_here(*arguments)
            problem = find_problem(done, name)
            now = contents(folders)
            lost = [
                other for other in whole if other != name and now.get(other) != whole[other] and other not in REWRITTEN
            ]
            if lost:
                problem = f"{problem or ''} lost: {lost}"
            if name in REWRITTEN and now[name] != damaged[name]:
                json.loads(now[name])  # mended, and said
            elif damaged[name] not in now.values():
                problem = f"{problem or ''} the damaged file is gone: {sorted(set(now) - set(damaged))}"
            if problem:
                problems.append(f"{name}, {damage}: {problem}\n      {done.stderr.strip()[-400:]}")
            restore(folders, whole)
    assert not problems, "\n" + "\n".join(problems)


def find_problem(done: Any, name: str) -> str | None:
    said = [line for line in done.stderr.splitlines() if line.startswith("kailin_ray: ")]
    if "Traceback" in done.stdout + done.stderr or "unexpected " in done.stderr:
        return "a fault of the program"
    if done.returncode not in (0, 1, 2):
        return f"exit code {done.returncode}"
    errors = [line for line in said if STARTS not in line]
    if done.returncode and STARTS not in done.stderr and not any(Path(name).name in line for line in errors):
        return f"exit code {done.returncode}, and no line names the file"
    if len(errors) > 2:
        return f"{len(errors)} lines"
    return None


def restore(folders: Path, whole: dict[str, bytes]) -> None:
    for path in folders.rglob("*"):
        if path.is_file() and path.relative_to(folders).as_posix() not in whole:
            path.unlink()
    for left in ("out", "run/replays", "run/logs"):
        shutil.rmtree(folders / left, ignore_errors=True)
    for name, content in whole.items():
        (folders / name).write_bytes(content)


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_manifest_of_a_run_is_written_again(kailin_here: Command, folders: Path, damage: str) -> None:
    manifest = folders / "run" / "manifest.json"
    before = json.loads(manifest.read_text())
    manifest.write_bytes(DAMAGES[damage](manifest.read_bytes()))
    keys = [key.format(at=folders) for key in COMMANDS["distill"][0]]
    refused = kailin_here("publish", f"run={folders}/run", f"out={folders}/out")
    assert refused.returncode == 2
    assert f"{manifest} is damaged" in refused.stderr and "with `distill`" in refused.stderr
    done = kailin_here("distill", *keys)
    assert done.returncode == 0, done.stderr
    assert f"{manifest} is damaged; it is written again from the records" in done.stderr
    after = json.loads(manifest.read_text())
    for key in ("num_documents", "num_by_status", "num_by_reason", "sha256", "tokens"):
        assert after[key] == before[key]
    assert kailin_here("publish", f"run={folders}/run", f"out={folders}/out").returncode == 0


def test_a_damaged_note_of_a_replay_begins_it_again(kailin_here: Command, folders: Path) -> None:
    note = folders / "run" / "replays" / "0123456789abcdef.json"
    note.parent.mkdir()
    note.write_text("")
    done = kailin_here("replay", *(key.format(at=folders) for key in COMMANDS["replay"][0]))
    assert STARTS in done.stderr
    assert f"{note}: this unfinished replay begins again" in done.stderr
    assert not note.exists()
