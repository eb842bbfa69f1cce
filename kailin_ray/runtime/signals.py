"""Stop requests: SIGTERM, or the end of the time."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stop_requests(max_hours: float | None) -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets, or that so many hours do. It takes the main thread."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    timer = threading.Timer((max_hours or 0) * 3600, stop.set)
    timer.daemon = True
    if max_hours is not None:
        timer.start()
    try:
        yield stop
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
