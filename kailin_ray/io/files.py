"""File helpers: write under a temporary name, then rename; write JSON that a person can read."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kailin_ray.errors import ConfigError
from kailin_ray.io.storage import is_remote, remove, upload

MANIFEST = "manifest.json"
"""The file that marks a folder complete; see ``manifests``."""
PROBE = ".rename.partial"
"""An empty file that is renamed to find out whether others can be."""


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
    except OSError as error:
        # Some file systems (CIFS, FUSE) have no sync of a folder, and say so with these numbers.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
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
    path = path.resolve()  # a link is kept, and the folder that it leads to is filled
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(f"{path} appeared while it was being made")
        for file in partial.rglob("*"):
            sync(file)
        if not _rename_folder(partial, path):
            _move_files(partial, path)
        sync(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename_folder(folder: Path, path: Path) -> bool:
    """Rename a folder to ``path``, which may be an empty folder; return False if ``path`` is on another file system."""
    try:
        folder.replace(path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EBUSY):  # EBUSY: a file system is mounted there
            raise
        return False
    return True


def _move_files(folder: Path, path: Path) -> None:
    """Move the files of a folder to their places in ``path``, which may be on other file systems.

    What can fail comes first: files that a rename cannot move are copied next to their places. Then the manifest of
    ``path`` is removed, and all files get their names, those at the top level, which describe the others, last and the
    manifest as the very last. If this is interrupted, the next call moves the remaining files.
    """
    files = sorted(
        (file for file in folder.rglob("*") if file.is_file() and file.name != PROBE),
        key=lambda file: (-len(file.parts), file.name == MANIFEST),
    )
    targets = [path / file.relative_to(folder) for file in files]
    for parent in {target.parent for target in targets}:
        parent.mkdir(parents=True, exist_ok=True)
    near = {parent: _can_rename(folder, parent) for parent in {target.parent for target in targets}}
    moves = [
        (file if near[target.parent] else _copy_beside(file, target), target)
        for file, target in zip(files, targets, strict=True)
    ]
    for file, _ in moves:
        sync(file)  # before the only other copy is removed
    (path / MANIFEST).unlink(missing_ok=True)
    for file, target in moves:
        file.replace(target)
    for parent in near:
        sync(parent)


def _copy_beside(file: Path, target: Path) -> Path:
    """Return a copy of ``file`` that a rename can move to ``target``."""
    copy = target.with_name(f".{target.name}.update")
    shutil.copyfile(file, copy)
    return copy


def _can_rename(folder: Path, other: Path) -> bool:
    """Return whether files can be renamed from one folder to another.

    Only an attempt tells: two mounts of one file system have the same device, and no file can be renamed between them.
    """
    (folder / PROBE).touch()
    try:
        (folder / PROBE).replace(other / PROBE)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    finally:
        (folder / PROBE).unlink(missing_ok=True)
        (other / PROBE).unlink(missing_ok=True)
    return True


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
    """Read a JSON file. Raises ``ConfigError``, which is a ``ValueError``, that names a damaged file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


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
    """Yield an empty folder; if the block succeeds, move its files to their places in ``out``, else remove it."""
    out = out.resolve()
    with atomic_folder(_beside(out)) as folder:
        yield folder
    finish(out)


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.update")


def finish(out: Path) -> None:
    """Move the files of a complete update into ``out``, the manifest last: a folder without one is not complete.

    After an interruption, the next call moves the remaining files. ``out`` may be a link or a mounted file system.
    """
    out = out.resolve()
    update = _beside(out)
    if not update.is_dir():
        return
    if (not out.exists() or (out.is_dir() and not any(out.iterdir()))) and _rename_folder(update, out):
        return
    if (update / MANIFEST).exists():  # else all files have been moved already
        _move_files(update, out)
    shutil.rmtree(update)
