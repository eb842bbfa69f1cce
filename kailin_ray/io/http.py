"""HTTP requests to servers that fail now and then: retries, a limited request rate and resumed downloads.

A request is retried after a temporary fault (a dropped connection, a busy server). The pause before it doubles each
time, or the server sets it with ``Retry-After``. A permanent fault (404, an invalid address) is an error at once. Only
http and https are used, even after a redirect.
"""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus, urljoin, urlsplit

import requests
import urllib3

from kailin_ray import __version__
from kailin_ray.io.terminal import printable

CHUNK = 1 << 18
TIMEOUT_S = (20, 30)
"""Seconds to connect, and between two bytes."""
MAX_REDIRECTS = 10
ATTEMPTS = 6
"""Attempts in a row without ``CHUNK`` bytes of progress."""
PAUSE_S = 1.0
"""Pause before the second attempt; it doubles each time. With ``ATTEMPTS``, a server may be down for half a minute."""
LONGEST_PAUSE_S = 600.0
"""If a server asks for a longer pause, the request fails."""
MAX_BODY_BYTES, MAX_QUOTED = 1 << 12, 200
"""The bytes of an error's body that are read, and the characters of a server's text that an error quotes."""

_TAG = re.compile(r"<[^<>]*+>")
_BUSY = frozenset((408, 425, 429, 500, 502, 503, 504))

T = TypeVar("T")


class WebError(RuntimeError):
    """A failed request and its reason, in one line."""


class PassingError(WebError):
    """A temporary fault."""

    def __init__(self, message: str, pause: float = 0.0):
        """``pause``: seconds that the server asks for."""
        super().__init__(message)
        self.pause = pause


class Web:
    """A client of a server for several threads. It reuses connections, limits the request rate and can be stopped."""

    def __init__(self, per_second: float | None = None, secret: str = ""):
        """``per_second``: the most requests that may start per second; None for no limit.

        ``secret``: a value in the forms that are sent, which no error may contain; empty if there is none.
        """
        self._session = requests.Session()
        # Identity, so that a byte range refers to the file's own bytes.
        headers = {"User-Agent": f"kailin_ray/{__version__} (PubMed to training data)", "Accept-Encoding": "identity"}
        self._session.headers.update(headers)
        self._interval = 1 / per_second if per_second else 0.0
        self._turn = threading.Lock()
        self._next = 0.0
        self._stop = threading.Event()
        self._secrets = tuple(dict.fromkeys((secret, json.dumps(secret)[1:-1], quote_plus(secret)))) if secret else ()

    def stop(self) -> None:
        """Make the next step of every thread raise ``WebError``."""
        self._stop.set()

    def persistently(self, ask: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Return ``ask()``; retry on ``PassingError``, up to ``ATTEMPTS`` times. Progress resets the count."""
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
                # Random, so that clients do not all retry at the same moment.
                self._wait(max(error.pause, PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)))  # noqa: S311

    @contextmanager
    def open_response(
        self, method: str, url: str, allowed: tuple[int, ...] = (), **keys: Any
    ) -> Iterator[requests.Response]:
        """Yield a response before its body is read. ``allowed``: statuses from 400 on that are not errors.

        Raises ``PassingError`` or ``WebError``, also inside the block if the body breaks off.
        """
        self._take_turn()
        try:
            with self._follow(method, url, keys) as answer:
                if answer.status_code >= 400 and answer.status_code not in allowed:
                    body = self.quote(self._read_body(answer))
                    fault = f"{url}: {answer.status_code} {self.quote(answer.reason)}" + (f": {body}" if body else "")
                    raise PassingError(fault, _pause(answer)) if answer.status_code in _BUSY else WebError(fault)
                yield answer
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            fault = f"{url}: {self.quote(_last_words(error))}"
            raise WebError(fault) if isinstance(error, requests.exceptions.SSLError) else PassingError(fault) from error
        except requests.RequestException as error:
            raise WebError(f"{url}: {self.quote(str(error))}") from error

    def quote(self, text: str | None) -> str:
        """Return text of a server for an error: one printable line without the secret, cut to ``MAX_QUOTED``."""
        line = printable(" ".join(self._hide_secrets(text or "").split()))
        return line if len(line) <= MAX_QUOTED else line[: MAX_QUOTED - 3] + "..."

    def _hide_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "(secret)")
        return text

    def _read_body(self, answer: requests.Response) -> str:
        """Return what an error's body says; empty for a page for browsers, and if the body cannot be read."""
        kind, encoding = answer.headers.get("Content-Type", ""), answer.headers.get("Content-Encoding", "identity")
        body = b""
        if "html" in kind.lower() or encoding != "identity":
            return ""
        with suppress(urllib3.exceptions.HTTPError, OSError):
            # One piece: a server that sends single bytes must not hold up the error.
            body = answer.raw.read1(MAX_BODY_BYTES, decode_content=False)
        text = self._hide_secrets(read_message(body))
        # Where the body is cut, it may end within the secret.
        ends = (secret[:size] for secret in self._secrets for size in range(len(secret) - 1, 3, -1))
        return text.removesuffix(next((end for end in ends if text.endswith(end)), ""))

    def _follow(self, method: str, url: str, keys: dict[str, Any]) -> requests.Response:
        """Send a request, and follow redirects: never from https to http, and data only to the same server."""
        origin = url
        for _ in range(MAX_REDIRECTS):
            answer = self._session.request(method, url, stream=True, timeout=TIMEOUT_S, allow_redirects=False, **keys)
            target = self._session.get_redirect_target(answer)
            if target is None:
                return answer
            answer.close()
            url = urljoin(url, target)
            fault = _redirect_fault(origin, url, bool(keys.get("data")) and answer.status_code in (307, 308))
            if fault:
                raise WebError(f"{origin}: redirected to {self.quote(url)}: {fault}")
            if answer.status_code not in (307, 308) and method == "POST":
                method, keys = "GET", {name: value for name, value in keys.items() if name != "data"}
        raise WebError(f"{origin}: more than {MAX_REDIRECTS} redirects")

    def pieces(self, answer: requests.Response, most: int | None = None) -> Iterator[bytes]:
        """Yield the body as it is sent: a file that is served as ``Content-Encoding: gzip`` stays compressed.

        Raises ``WebError`` if it has more than ``most`` bytes.
        """
        num_bytes = 0
        for piece in answer.raw.stream(CHUNK, decode_content=False):
            num_bytes += len(piece)
            if self._stop.is_set():
                raise WebError("stopped")
            if most is not None and num_bytes > most:
                raise WebError(f"{answer.url}: more than {most:,} bytes, the limit here")
            yield piece

    def text(self, url: str, most: int) -> str:
        """Return a page of at most ``most`` bytes."""

        def ask() -> str:
            with self.open_response("GET", url) as answer:
                return b"".join(self.pieces(answer, most)).decode("utf-8", "replace")

        return self.persistently(ask)

    def download(self, url: str, to: Path, told: Callable[[int], Any]) -> None:
        """Download a file and resume after the bytes in ``to``. ``told`` is called with the size of each piece.

        Raises ``WebError`` if the server does not send all of it; the received bytes are kept. The caller must check
        the bytes: a file that changed on the server during the download is not detected here.
        """
        self.persistently(lambda: self._go_on(url, to, told), lambda: _size(to))

    def _go_on(self, url: str, to: Path, report: Callable[[int], Any]) -> None:
        num_received = _size(to)
        with self.open_response(
            "GET", url, (416,), headers={"Range": f"bytes={num_received}-"} if num_received else {}
        ) as answer:
            start, total = _span(answer)
            if start is None:
                raise WebError(f"{url}: 206 without a Content-Range")
            if answer.status_code == 416:
                if total == num_received:
                    return
                to.unlink(missing_ok=True)
                raise PassingError(f"{url}: has no byte {num_received:,}; the bytes downloaded so far are dropped")
            if start not in (0, num_received):
                raise WebError(
                    f"{url}: asked for the bytes from {num_received:,}, the server sends those from {start:,}"
                )
            with to.open("ab" if start else "wb") as sink:
                for piece in self.pieces(answer):
                    sink.write(piece)
                    report(len(piece))
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


def read_message(body: bytes) -> str:
    """Return what the body of an error says: ``error`` of a JSON object, else its text, without XML's tags."""
    text = body.decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        value = json.loads(text, strict=False)
        if isinstance(value, dict) and isinstance(value.get("error"), str):
            return str(value["error"])
    return _TAG.sub(" ", text)


def _redirect_fault(origin: str, target: str, has_data: bool) -> str | None:
    """Return why a redirect is not followed. A form may hold a key, which no other server may see."""
    old, new = urlsplit(origin), urlsplit(target)
    if new.scheme not in ("http", "https"):
        return "only http and https are used"
    if old.scheme == "https" and new.scheme == "http":
        return "from https to http"
    return "data is sent only to the same server" if has_data and old.netloc != new.netloc else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _span(answer: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte that a response sends and the size of the file; each is None if unknown."""
    if answer.status_code not in (206, 416):
        return 0, _number(answer.headers.get("Content-Length"))
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    return 0 if answer.status_code == 416 else _number(span.partition("-")[0]), _number(total)


def _number(text: str | None) -> int | None:
    # Check the length first: Python refuses to parse numbers with thousands of digits.
    return int(text) if text and len(text) < 16 and text.isascii() and text.isdigit() else None


def _pause(answer: requests.Response) -> float:
    """Return the pause of ``Retry-After``, a number of seconds or a date, in seconds; 0 if there is none."""
    header = answer.headers.get("Retry-After", "").strip()
    if (seconds := _number(header)) is not None:
        return float(seconds)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _last_words(error: BaseException) -> str:
    """Return the message of the innermost exception; the outer exceptions only add their names."""
    while isinstance(inner := getattr(error, "reason", None) or next(iter(error.args), None), BaseException):
        error = inner
    return " ".join(str(error).split()) or type(error).__name__
