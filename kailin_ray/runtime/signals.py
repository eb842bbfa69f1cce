"""Stop requests: SIGTERM, or the time limit."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests(max_hours: float | None) -> Iterator[threading.Event]:
    """Yield an event that is set by SIGTERM or after ``max_hours``. It must run in the main thread."""
    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    timer = threading.Timer((max_hours or 0) * 3600, stop.set)
    timer.daemon = True
    if max_hours is not None:
        timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, previous)
