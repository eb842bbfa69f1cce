"""Locks: one process at a time writes a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kailin_ray.io.leases import hold_lease
from kailin_ray.io.storage import is_remote


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock for ``path`` on this machine, shared file system or object store while this process writes it.

    Raises ``BlockingIOError`` if another process holds it, ``OSError`` if the file system has no locks. For an object
    store, see ``hold_lease``.
    """
    if is_remote(path):
        with hold_lease(path):
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
    """Return the handle of the locked file ``lock``.

    Raises ``BlockingIOError`` if another process holds it, ``OSError`` if the file system has no locks.
    """
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
        except OSError as error:  # as of Lustre that is mounted without them
            os.close(handle)
            raise OSError(
                f"{path}: its file system has no locks ({error.strerror}), and two processes could write it at once; "
                "mount it with locks (Lustre: flock), or give another folder"
            ) from error
        os.close(handle)
