"""File helpers: write under a temporary name, then rename; write JSON that a person can read."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kailin_ray.io.storage import is_remote, remove, upload


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it to ``path`` if the block succeeds, else remove it.

    For a path in an object store, the temporary path is local, and its file is uploaded if the block succeeds.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            upload(Path(folder, path.name), path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        # Both on disk, or a power failure can leave an empty file under the final name.
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk. Nothing to do for an object store."""
    if is_remote(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to ``path``; rename it to ``path`` if the block succeeds, else remove it.

    An object store has no rename, so the files of a local folder are uploaded one by one. The files at its top level,
    which describe the others, come last. Raises ``FileExistsError`` if ``path`` exists and is not an empty folder.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
            if path.exists():
                raise FileExistsError(f"{path} appeared while it was being made")
            files = [file for file in Path(name).rglob("*") if file.is_file()]
            for file in sorted(files, key=lambda file: -len(file.parts)):
                upload(file, path / file.relative_to(name).as_posix())
        return
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        if path.exists():
            raise FileExistsError(f"{path} appeared while it was being made")
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder with everything in it, if it exists."""
    if is_remote(path):
        remove(file for file in path.rglob("*") if file.is_file())
    else:
        shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex; for a folder, that of the sorted list of its files' names and checksums."""
    if path.is_dir():
        lines = [
            f"{sha256(file)}  {file.relative_to(path).as_posix()}\n"
            for file in sorted(path.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def updating(out: Path) -> Iterator[Path]:
    """Yield an empty folder; if the block succeeds, move its files to their places in ``out``, else remove it.

    A link is followed, so that the new files are made on the disk of the old ones.
    """
    out = out.resolve()
    with atomic_folder(_beside(out)) as folder:
        yield folder
    finish(out)


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.update")


def finish(out: Path) -> None:
    """Move the files of a complete update into ``out``, the manifest last: a folder without one is not complete.

    After an interruption, the next call moves the remaining files.
    """
    out = out.resolve()
    update = _beside(out)
    if not update.is_dir():
        return
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        for file in update.rglob("*"):
            sync(file)  # the files that it was made from may be removed afterwards
        update.replace(out)
        return
    if (update / "manifest.json").exists():  # else all files have been moved already
        (out / "manifest.json").unlink(missing_ok=True)
        files = [file for file in update.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == "manifest.json"):
            target = out / file.relative_to(update)
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(file)  # before the only other copy is removed
            file.replace(target)
    shutil.rmtree(update)
