"""Processes of this machine: where their ids are valid, whether they exist, and how the main thread is interrupted."""

import os
import signal
import threading
import uuid
from pathlib import Path

INTERRUPT = signal.SIGUSR2
"""Interrupts the main thread, where ``signal.default_int_handler`` handles it. It raises ``KeyboardInterrupt``, because
Ray ignores what other handlers raise. It is not SIGINT: a shell starts background commands with that ignored."""


def interrupt_main_thread() -> None:
    """Send ``INTERRUPT`` to the main thread of this process, from any thread."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, INTERRUPT)


def process_exists(pid: int) -> bool:
    """Return whether a process with this id exists, whoever owns it. It may be another one that got the same id."""
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def machine_id() -> str:
    """Return an id of where a process id is valid: one boot of a machine and one container's process table."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux: an id that equals no other
        return uuid.uuid4().hex
