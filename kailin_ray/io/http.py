"""Asking servers that fail now and then: patiently, politely, and going on where a download broke off.

What passes by itself (a dropped connection, a server that is busy) is asked again, after a pause that doubles each
time, or for as long as the server says in ``Retry-After``. What does not (404, an address that is none) is an error at
once. Only http and https are spoken, after a redirect too.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import requests
import urllib3

from kailin_ray import __version__

CHUNK = 1 << 18
TIMEOUT_S = (20, 30)
"""To connect, and between two bytes."""
ATTEMPTS = 6
"""In a row, without a byte of progress."""
PAUSE_S = 1.0
"""Before the second attempt; it doubles each time. With ``ATTEMPTS`` a server may be away for half a minute."""
LONGEST_PAUSE_S = 600.0
"""A server that asks for a longer one is not waited for."""

_BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))

T = TypeVar("T")


class WebError(RuntimeError):
    """What a server did not give, and why; one line."""


class PassingError(WebError):
    """A fault that may be over soon."""

    def __init__(self, message: str, pause: float = 0.0):
        """``pause``: seconds that the server asks for."""
        super().__init__(message)
        self.pause = pause


class Web:
    """One client of a server, for several threads: keeps connections open, paces requests, can be told to stop."""

    def __init__(self, per_second: float | None = None):
        """``per_second``: the most requests that may begin in a second; None for no limit."""
        self._session = requests.Session()
        # Identity: a byte range is one of the file's own bytes.
        about = {"User-Agent": f"kailin_ray/{__version__} (PubMed to training data)", "Accept-Encoding": "identity"}
        self._session.headers.update(about)
        self._interval = 1 / per_second if per_second else 0.0
        self._turn = threading.Lock()
        self._next = 0.0
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let every thread's next step raise ``WebError``."""
        self._stop.set()

    def persistently(self, ask: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """What ``ask`` gives, asked again where it raises ``PassingError``: so many times, or after progress anew."""
        attempt, mark = 0, progress()
        while True:
            try:
                return ask()
            except PassingError as error:
                attempt += 1
                if (reached := progress()) >= mark + CHUNK:
                    attempt, mark = 1, reached
                if attempt == ATTEMPTS or error.pause > LONGEST_PAUSE_S:
                    raise
                # Not all clients at the same moment again.
                self._wait(max(error.pause, PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)))  # noqa: S311

    @contextmanager
    def open_response(
        self, method: str, url: str, allowed: tuple[int, ...] = (), **keys: Any
    ) -> Iterator[requests.Response]:
        """A server's answer, its body unread. ``allowed``: statuses from 400 on that are no error.

        Raises ``PassingError`` or ``WebError``; in the block too, where the body breaks off.
        """
        self._take_turn()
        try:
            with self._session.request(method, url, stream=True, timeout=TIMEOUT_S, **keys) as answer:
                if answer.status_code >= 400 and answer.status_code not in allowed:
                    fault = f"{url}: {answer.status_code} {answer.reason}"
                    raise PassingError(fault, _pause(answer)) if answer.status_code in _BUSY else WebError(fault)
                yield answer
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            fault = f"{url}: {_last_words(error)}"
            raise WebError(fault) if isinstance(error, requests.exceptions.SSLError) else PassingError(fault) from error
        except requests.RequestException as error:
            raise WebError(f"{url}: {error}") from error

    def pieces(self, answer: requests.Response, most: int | None = None) -> Iterator[bytes]:
        """The body as it is sent: a file that is served as ``Content-Encoding: gzip`` stays packed.

        Raises ``WebError`` where it has more than ``most`` bytes.
        """
        num_bytes = 0
        for piece in answer.raw.stream(CHUNK, decode_content=False):
            num_bytes += len(piece)
            if self._stop.is_set():
                raise WebError("stopped")
            if most is not None and num_bytes > most:
                raise WebError(f"{answer.url}: more than {most:,} bytes, which it should not have")
            yield piece

    def text(self, url: str, most: int) -> str:
        """A page of at most so many bytes."""

        def ask() -> str:
            with self.open_response("GET", url) as answer:
                return b"".join(self.pieces(answer, most)).decode("utf-8", "replace")

        return self.persistently(ask)

    def download(self, url: str, to: Path, told: Callable[[int], Any]) -> None:
        """Fetch a file, going on after the bytes of it that are in ``to``. ``told``: how many bytes came.

        Raises ``WebError`` where the server does not give all of it; what came is kept. Whether the bytes are right is
        for the caller to say: a file that changed since its first half came cannot be told here.
        """
        self.persistently(lambda: self._go_on(url, to, told), lambda: _size(to))

    def _go_on(self, url: str, to: Path, told: Callable[[int], Any]) -> None:
        have = _size(to)
        with self.open_response("GET", url, (416,), headers={"Range": f"bytes={have}-"} if have else {}) as answer:
            start, total = _span(answer)
            if start is None:
                raise WebError(f"{url}: 206 without a Content-Range")
            if answer.status_code == 416:
                if total == have:
                    return
                to.unlink(missing_ok=True)
                raise PassingError(f"{url}: does not have byte {have:,}; what was there is dropped")
            if start not in (0, have):
                raise WebError(f"{url}: asked for the bytes from {have:,}, the server sends those from {start:,}")
            with to.open("ab" if start else "wb") as sink:
                for piece in self.pieces(answer):
                    sink.write(piece)
                    told(len(piece))
        if total is not None and _size(to) != total:
            raise PassingError(f"{url}: broke off after {_size(to):,} of {total:,} bytes")

    def _take_turn(self) -> None:
        with self._turn:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._interval
        self._wait(begin - now)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise WebError("stopped")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _span(answer: requests.Response) -> tuple[int | None, int | None]:
    """The first byte that an answer brings, and how many the file has; each None where it does not say so."""
    if answer.status_code not in (206, 416):
        return 0, _number(answer.headers.get("Content-Length"))
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    return 0 if answer.status_code == 416 else _number(span.partition("-")[0]), _number(total)


def _number(given: str | None) -> int | None:
    # The length first: Python refuses to read numbers of thousands of digits.
    return int(given) if given and len(given) < 16 and given.isascii() and given.isdigit() else None


def _pause(answer: requests.Response) -> float:
    """Seconds that ``Retry-After`` asks for, which are given as such or as a date; 0 where it asks for none."""
    given = answer.headers.get("Retry-After", "").strip()
    if (seconds := _number(given)) is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _last_words(error: BaseException) -> str:
    """What the innermost of nested exceptions says: the others only wrap it in their names."""
    while isinstance(inner := getattr(error, "reason", None) or next(iter(error.args), None), BaseException):
        error = inner
    return " ".join(str(error).split()) or type(error).__name__
