"""An engine that neither answers nor dies: after a limit it is ended like one that died."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from kailin_ray.engines.metering import Account, Meter

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks at an engine's account."""
LONGEST_LOOK_S = 10.0
"""Seconds that count at most between two looks: a process that was suspended for an hour was not silent for an hour."""


class Silence:
    """How long calls have been in an engine without one of them ending.

    Any call that ends is a sign of life, whichever row it belongs to. While no call is in the engine, as when rows wait
    for their contexts, the engine is not silent.
    """

    def __init__(self) -> None:
        self._counts: Any = None
        self._looked = self._seconds = 0.0

    def seconds(self, account: Account) -> float:
        """Return the seconds of silence until ``account``, the engine's account now."""
        counts = account["prompt_tokens"], account["completion_tokens"], account["rows"]
        is_silent = account["in_flight"] and counts == self._counts
        self._seconds = self._seconds + min(account["seconds"] - self._looked, LONGEST_LOOK_S) if is_silent else 0.0
        self._counts, self._looked = counts, account["seconds"]
        return self._seconds


def end_process() -> None:
    """Kill this process and all processes that it started: a hung engine would keep its GPU."""
    import psutil  # vLLM needs it too; the driver, which imports this module, does not

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(1)


def end_when_silent(meter: Meter, minutes: float | None, end: Callable[[], None] = end_process) -> None:
    """Start a thread that calls ``end`` once the engine is silent for more than ``minutes``; None: never.

    It is a thread, because an engine that hangs may block the event loop of its actor.
    """
    if not minutes:
        return

    def look() -> None:
        silence = Silence()
        while True:
            account = meter.account()
            if silence.seconds(account) > 60 * minutes:
                logger.error(
                    "%s: the engine did not end any of its %d calls in %g minutes (cluster.max_silent_minutes); it is "
                    "killed, and its rows are suspects", account["stage"], account["in_flight"], minutes,
                )  # fmt: skip
                end()
                return
            time.sleep(LOOK_S)

    threading.Thread(target=look, daemon=True).start()
