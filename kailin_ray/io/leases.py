"""A lock in an object store is a lease: an object that its holder keeps rewriting.

A machine that is lost cannot remove its lock, and the clocks of machines differ. Whoever finds a lock therefore looks
at it again and again: if the object does not change for ``SILENT_S`` on the observer's own clock, the holder is gone
and the lock is taken over. Each write names the version that it replaces (``If-Match``, ``If-None-Match``), so that of
several observers one succeeds. A holder that cannot renew its lease for ``LOST_S``, which is shorter, stops before
anybody takes over.

Sample of the object ``.<name>.lock``::

    {"token": "5f0c...", "renewals": 12, "host": "head-7d9f", "pid": 41, "machine": "8b1e...pid:[4026532]"}
"""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.processes import INTERRUPT, interrupt_main_thread, machine_id, process_exists

logger = logging.getLogger(__name__)

RENEW_S = 20.0
"""Seconds between two renewals."""
LOST_S = 60.0
"""Seconds without a renewal after which a holder stops. It has the rest of ``SILENT_S`` to end."""
SILENT_S = 120.0
"""Seconds without a change after which a lock is taken over."""
LOOK_S = 2.0
"""Seconds between two looks at somebody else's lock."""
CHANGED = (404, 409, 412)
"""HTTP statuses of a conditional write whose condition does not hold (any more)."""


class LeaseLostError(CommandFailedError):
    """The process has lost its lock, so it has stopped writing."""


@contextmanager
def hold_lease(path: Any) -> Iterator[None]:
    """Hold the lock object of ``path``, a folder in an object store, and renew it while the block runs.

    If the lock of a process that is gone is found, it is watched for ``SILENT_S``, then taken over. Raises
    ``BlockingIOError`` that names a holder that is alive; ``ConfigError`` if the store has no conditional writes;
    ``LeaseLostError`` out of the block, at any point, if the lease is lost.
    """
    lease = Lease(path)
    lease.take()
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(INTERRUPT, signal.default_int_handler) if is_main else None
    lease.keep()
    try:
        yield
    except BaseException:
        if not lease.loss:  # else the error is only what the interruption looks like from inside
            raise
    finally:
        lease.release()
        if is_main:
            signal.signal(INTERRUPT, before)
    if lease.loss:
        raise LeaseLostError(f"{path}: stopped, because {lease.loss}; finished work is kept")


class Lease:
    """The lease of one folder by this process."""

    def __init__(self, path: Any):
        """Prepare the lease; nothing is read or written yet."""
        self.loss: str | None = None
        """Why the lease was lost; None while it is held."""
        self._path = path
        self._lock = path.with_name(f".{path.name}.lock")
        self._mine: dict[str, Any] = {
            "token": uuid.uuid4().hex,
            "renewals": 0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": machine_id(),
        }
        self._stamp = ""
        self._renewed = 0.0
        self._released = threading.Event()
        self._renewing = threading.Lock()

    def take(self) -> None:
        """Create the lock, or take over that of a process that is gone. Raises the errors of ``hold_lease``."""
        stamp = None
        while stamp is None:
            began = time.monotonic()
            if (existing := _read(self._lock)) is None:
                stamp = self._create()
                continue
            found, holder = existing
            if "token" not in holder:
                raise BlockingIOError(
                    f"{self._path}: another process is using it: {_name(holder)}, with an earlier version of "
                    f"kailin_ray; if it was killed, remove {self._lock}"
                )
            if not _is_dead(holder, self._mine["machine"]) and not self._is_silent(found, holder):
                continue
            began = time.monotonic()
            stamp = _put(self._lock, self._content(), IfMatch=found)
            if stamp:
                logger.warning("%s: the lock of %s, which is gone, was taken over", self._path, _name(holder))
        self._stamp, self._renewed = stamp, began

    def _create(self) -> str | None:
        """Create the lock; None if another process was quicker. Raises ``ConfigError`` if the store cannot be used."""
        content = self._content()
        try:
            stamp = _put(self._lock, content, IfNoneMatch="*")
            if stamp is None:
                return None
            # A store that does not know the conditions may ignore them, and then nothing keeps two processes apart.
            is_kept = not _put(self._lock, content, IfNoneMatch="*") and not _put(self._lock, content, IfMatch='"0"')
        except OSError as error:
            if _status(error) not in (400, 501):
                raise
            is_kept = False
        if not is_kept:
            self._lock.unlink(missing_ok=True)
            raise ConfigError(
                f"{self._path}: this store has no conditional writes (If-None-Match, If-Match), so it cannot keep two "
                "processes from writing one run; use a store that has them, or a file system"
            )
        return stamp

    def _is_silent(self, stamp: str, holder: dict[str, Any]) -> bool:
        """Watch a lock; return True once it was silent for long enough, False if it was removed meanwhile.

        Raises ``BlockingIOError`` if it is renewed.
        """
        logger.warning(
            "%s: another process has its lock: %s; waiting up to %.0f s to see whether it is alive",
            self._path, _name(holder), SILENT_S,
        )  # fmt: skip
        began = time.monotonic()
        while time.monotonic() - began < SILENT_S:
            time.sleep(LOOK_S)
            now = _read(self._lock)
            if now is None:
                return False
            if now[0] != stamp:
                seen = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
                raise BlockingIOError(
                    f"{self._path}: another process is using it: {_name(now[1])}, last seen to renew its lock at {seen}"
                )
        return True

    def keep(self) -> None:
        """Renew the lease in the background until it is released or lost."""
        for target in (self._keep_renewing, self._watch):
            threading.Thread(target=target, daemon=True).start()

    def release(self) -> None:
        """Remove the lock, if it is still held. A lock that cannot be removed is taken over by the next process."""
        self._released.set()
        try:
            # The renewal makes sure that the lock is ours: some stores remove an object whatever the condition.
            if not self.loss and self._renew():
                bucket, _, key = self._lock.path.partition("/")
                self._lock.fs.call_s3("delete_object", Bucket=bucket, Key=key, IfMatch=self._stamp)
        except Exception as error:  # the work is done; a lock that stays costs the next process a wait
            logger.warning("%s: not removed: %s; the next process waits %.0f s", self._lock, error, SILENT_S)

    def _keep_renewing(self) -> None:
        while not self._released.wait(RENEW_S) and not self.loss:
            try:
                if not self._renew():
                    return
            except Exception as error:  # a store that does not answer: the next renewal may succeed
                logger.info("%s: not renewed: %s", self._lock, error)

    def _watch(self) -> None:
        """Give up the lease when it was not renewed for too long, even while a renewal waits for the store."""
        while not self._released.wait(min(1.0, RENEW_S)) and not self.loss:
            if time.monotonic() - self._renewed > LOST_S:
                self._lose(f"its lock could not be renewed for {LOST_S:.0f} s: the store does not answer")

    def _renew(self) -> bool:
        """Write the lock again; return whether it is still held. Raises the store's errors."""
        with self._renewing:
            began = time.monotonic()
            self._mine["renewals"] += 1
            stamp = _put(self._lock, self._content(), IfMatch=self._stamp)
            if stamp is None:
                # The answer to an earlier attempt of the same write may have been lost on its way.
                now = _read(self._lock)
                if now is None or now[1].get("token") != self._mine["token"]:
                    who = f"{_name(now[1])} has taken over its lock" if now else "its lock was removed"
                    self._lose(who)
                    return False
                stamp = now[0]
            self._stamp, self._renewed = stamp, began
            return True

    def _lose(self, why: str) -> None:
        if self.loss:
            return
        self.loss = why
        if not self._released.is_set():
            interrupt_main_thread()

    def _content(self) -> bytes:
        return json.dumps(self._mine).encode()


def _put(lock: Any, content: bytes, **condition: str) -> str | None:
    """Write the lock object if the condition holds; return its new ETag, or None if the condition does not hold."""
    bucket, _, key = lock.path.partition("/")
    try:
        return str(lock.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=content, **condition)["ETag"])
    except OSError as error:
        if _status(error) in CHANGED and ("IfMatch" in condition or not isinstance(error, FileNotFoundError)):
            return None
        raise


def _status(error: OSError) -> int | None:
    """Return the HTTP status of a store's answer."""
    response = getattr(error.__cause__, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) else None


def _read(lock: Any) -> tuple[str, dict[str, Any]] | None:
    """Return the ETag and the content of a lock object, or None if there is none.

    The ETag is read first: if the object changes in between, a write that names the ETag fails.
    """
    try:
        stamp = str(lock.fs.info(lock.path)["ETag"])
        holder = json.loads(lock.fs.cat_file(lock.path))
    except FileNotFoundError:
        return None
    except ValueError:
        holder = None
    return stamp, holder if isinstance(holder, dict) else {}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('pid')} on {holder.get('host')}"


def _is_dead(holder: dict[str, Any], machine: Any) -> bool:
    """Return whether the holder ran on this machine and has ended.

    A process id that exists does not prove the opposite: the system may have given it to another process.
    """
    return holder.get("machine") == machine and isinstance(holder.get("pid"), int) and not process_exists(holder["pid"])
