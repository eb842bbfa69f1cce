"""Locks: one process at a time writes a folder."""

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kailin_ray.io.storage import is_remote


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock for ``path`` on this machine, shared file system or object store while this process writes it.

    Raises ``BlockingIOError`` if another process holds it.
    """
    if is_remote(path):
        with lock_object(path):
            yield
        return
    path = path.resolve()  # a folder has one lock, whichever link leads to it
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    handle = _lock_file(lock, path)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _lock_file(lock: Path, path: Path) -> int:
    """Return the handle of the locked file ``lock``. Raises ``BlockingIOError`` if another process holds it."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the file between the two calls; ours would then lock nothing.
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise BlockingIOError(f"{path}: another process is using it") from error
        except FileNotFoundError:
            pass
        os.close(handle)


@contextmanager
def lock_object(path: Any) -> Iterator[None]:
    """Hold the lock object ``.<name>.lock`` next to ``path``; it is created only if there is none (a conditional put).

    A killed process leaves it behind. A process on the same machine takes it over. On another machine, a person has to
    remove it, which confirms that the first process is gone. Raises ``BlockingIOError`` that names the holder.
    """
    lock = path.with_name(f".{path.name}.lock")
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
    _take(lock, path, mine)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _take(lock: Any, path: Any, mine: dict[str, Any]) -> None:
    content = json.dumps(mine).encode()
    try:
        lock.fs.pipe_file(lock.path, content, mode="create")
        return
    except FileExistsError:
        pass
    stamp = lock.fs.info(lock.path)["ETag"]
    holder = json.loads(lock.read_bytes())
    if holder["machine"] == mine["machine"] and not _alive(holder["pid"]):
        try:
            lock.fs.pipe_file(lock.path, content, IfMatch=stamp)
            return
        except OSError:  # another process was quicker
            pass
    who = f"{holder['pid']} on {holder['host']}"
    raise BlockingIOError(f"{path}: another process is using it: {who}; if it was killed, remove {lock}")


def _machine() -> str:
    """Return an id of where a process id is valid: one boot of a machine and one container's process table."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux: an id that equals no other
        return uuid.uuid4().hex


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
