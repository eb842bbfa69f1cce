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
               "model.adapter={at}/adapter"], ["dataset", "adapter"]),
}  # fmt: skip
"""The keys of each command, and the folders that it opens."""
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


@pytest.mark.parametrize("command", list(COMMANDS))
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
            lost = [other for other in whole if other != name and now.get(other) != whole[other]]
            if lost:
                problem = f"{problem or ''} lost: {lost}"
            if damaged[name] not in now.values():
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
    shutil.rmtree(folders / "out", ignore_errors=True)
    for name, content in whole.items():
        (folders / name).write_bytes(content)
