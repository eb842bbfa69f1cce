"""Whether a driver is alive, without trusting the clock of its machine.

On the driver's machine, its process is looked up. From another machine, only the age of the session's file tells. Both
ends of that age are measured by one clock, that of the server of the run's folder, which stamps each file.
"""

import os
import tempfile
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypedDict

from kailin_ray.io.processes import machine_id, process_exists
from kailin_ray.io.storage import is_remote


class ProcessId(TypedDict):
    """What identifies a process for ever: its number is used again later, but not with the same start."""

    machine: str
    """Where the number is valid: one boot of a machine, and one container's process table."""
    pid: int
    started: int
    """Clock ticks between the machine's boot and the start of the process."""


def this_process() -> ProcessId:
    """Return the identity of this process."""
    pid = os.getpid()
    return {"machine": machine_id(), "pid": pid, "started": _start_of(pid) or 0}


def is_alive(process: ProcessId | None) -> bool | None:
    """Return whether a process is alive; None if it is on another machine, hidden here, or not noted by its session."""
    if not process or process["machine"] != machine_id():
        return None
    if started := _start_of(process["pid"]):
        return started == process["started"]
    # One that exists is hidden: the machine shows nobody the processes of other users.
    return None if process_exists(process["pid"]) else False


def age_of(file: Path) -> float | None:
    """Return the seconds since a file was written, by the clock of its folder's server; never negative.

    A temporary file is written next to a local file, to read that clock. None if that is not allowed.
    """
    now = _store_clock(file) if is_remote(file) else _folder_clock(file.parent)
    return None if now is None else max(0.0, now - file.stat().st_mtime)


def _start_of(pid: int) -> int | None:
    """Return the clock ticks from the machine's boot to the start of a process; None if it cannot be seen.

    A zombie has the start -1: it is dead, and only its parent has not noticed.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # after the name, which is any text
    except OSError:
        return None
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])


def _folder_clock(folder: Path) -> float | None:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as probe:
            probe.write(b"0")
            probe.flush()
            os.fsync(probe.fileno())
            return os.stat(probe.name).st_mtime  # noqa: PTH116 by name, as the server stamped it
    except OSError:
        return None


def _store_clock(file: Any) -> float | None:
    bucket, _, name = file.path.partition("/")
    try:
        answer = file.fs.call_s3("head_object", Bucket=bucket, Key=name)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (OSError, KeyError, ValueError):
        return None
