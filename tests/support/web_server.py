"""A server on this machine that serves a few files, notes what it was asked, and fails as it is told."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Asked:
    """A request, and how many bytes of a body it was answered with."""

    path: str
    headers: dict[str, str]
    form: dict[str, list[str]]
    sent: int = 0


@dataclass
class Site:
    """What is served."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, Callable[[dict[str, list[str]]], bytes]] = field(default_factory=dict)
    """Of a path that is computed, from the query or form."""
    faults: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    """Of a path, one a request in their order: a status, its headers and perhaps a body; or how many bytes to send
    before dropping."""
    takes_ranges: bool = True
    asked: list[Asked] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def requests(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]

    def num_bytes(self, path: str) -> int:
        return sum(one.sent for one in self.requests(path))


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self._answer(url.path, parse_qs(url.query))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer(urlsplit(self.path).path, parse_qs(body))

    def _answer(self, path: str, form: dict[str, list[str]]) -> None:
        asked = Asked(path, dict(self.headers.items()), form)
        with self.site.lock:
            self.site.asked.append(asked)
            fault = self.site.faults[path].pop(0) if self.site.faults[path] else None
        if isinstance(fault, tuple):
            self._send(asked, fault[0], b"".join(fault[2:]), fault[1])
            return
        if path in self.site.answers:
            data = self.site.answers[path](form)
        elif path in self.site.files:
            data = self.site.files[path]
        else:
            self._send(asked, 404, b"", {})
            return
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if not self.site.takes_ranges or not start:
            self._send(asked, 200, data, {}, fault)
        elif start >= len(data):
            self._send(asked, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
        else:
            span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self._send(asked, 206, data[start:], span, fault)

    def _send(self, asked: Asked, status: int, data: bytes, headers: dict[str, str], drop: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        asked.sent = len(data[:drop])
        self.wfile.write(data[:drop])
        if drop is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served() -> Iterator[Site]:
    """Serve a site until the block ends."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
