"""Small file habits used everywhere: write under a temporary name, then rename; JSON that a person can read."""

import fcntl
import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from isal import igzip, isal_zlib

from kailin_ray.errors import ConfigError
from kailin_ray.storage import is_remote, lock_object, remove, upload

GZIP_RATIO = 100
"""What a gzip file may unpack to, in times its size. PubMed's and MeSH's own: 10 to 20; zeros: 1,000."""
GZIP_FREE = 64 << 20
"""Bytes that any gzip file may unpack to."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, else remove it.

    For a path in an object store it is a local one, written there if the block succeeds.
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
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk. What is in an object store is safe already."""
    if is_remote(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock for ``path`` on this machine, shared file system or object store, while one process makes it.

    Raises ``BlockingIOError`` if another process holds it.
    """
    if is_remote(path):
        with lock_object(path):
            yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{path}: another process is at work on it") from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; rename it to ``path`` if the block succeeds, else remove it.

    In an object store, which has no rename, a local folder's files are written one by one; those at its top, which say
    what the others are, last. Raises ``FileExistsError`` if ``path`` exists and is not an empty folder.
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


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file to be read, through gzip if that is what it holds, whatever its name.

    A read raises ``gzip.BadGzipFile`` where the file unpacks to more than ``GZIP_RATIO`` times its size.
    """
    with path.open("rb") as stream:
        magic = stream.read(2)
    return cast(BinaryIO, _BoundedGzip(path)) if magic == b"\x1f\x8b" else path.open("rb")


class _BoundedGzip(igzip.IGzipFile):
    """Three times as fast as Python's own, and the same to its users."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._most = max(GZIP_FREE, GZIP_RATIO * path.stat().st_size)

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size >= 0:
            return self._checked(super().read, size)
        pieces = []
        while piece := self._checked(super().read, 1 << 20):
            pieces.append(piece)
        return b"".join(pieces)

    def read1(self, size: int = -1) -> bytes:
        return self._checked(super().read1, size)

    def _checked(self, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            data = read(size)
        except isal_zlib.error as error:  # type: ignore[misc]  # its stub does not say that this is a class
            raise gzip.BadGzipFile(f"damaged: {error}") from error
        if self.tell() > self._most:
            raise gzip.BadGzipFile(f"a gzip bomb: it unpacks to more than {self._most:,} bytes")
        return data


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
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
    """SHA-256 of a file, as hex. Of a folder: of the sorted list of its files' names and checksums."""
    if path.is_dir():
        lines = [
            f"{sha256(file)}  {file.relative_to(path).as_posix()}\n"
            for file in sorted(path.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def model_identity(path: str, revision: str | None, checksum: Callable[[Path], str] = sha256) -> str:
    """Which model it is, wherever it lies: the checksum of a local directory, or a hub id with its revision."""
    return checksum(Path(path)) if Path(path).is_dir() else f"{path}@{revision or 'main'}"


def read_manifest(folder: Path, kind: str, key: str, command: str) -> dict[str, Any]:
    """The manifest of a folder that ``command`` made; ``key`` is the configuration's name for it.

    Raises ``ConfigError`` if the folder holds none, or one of another kind.
    """
    if not folder.is_dir():
        raise ConfigError(f"{key}: {folder} is not a directory")
    note = folder / "manifest.json"
    if not note.exists():
        raise ConfigError(f"{key}: {folder} has no manifest.json: not made by `{command}`, or not to its end")
    try:
        found: dict[str, Any] = read_json(note)
    except ValueError as error:
        raise ConfigError(f"{key}: {note} is damaged: {error}") from error
    if found.get("kind") != kind:
        raise ConfigError(f"{key}: {folder} holds {found.get('kind')}, not {kind}")
    if kind == "documents" and "updates" not in found:
        raise ConfigError(f"{key}: {folder} was made by an earlier version of kailin_ray; make it anew")
    return found
