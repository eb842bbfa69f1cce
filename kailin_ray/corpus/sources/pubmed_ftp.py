"""Download NLM's PubMed files with a few threads; check each file against the MD5 that NLM publishes with it.

A file is fetched under a temporary name. If the fetch breaks off, the temporary file is kept. When the file is complete
and its MD5 is right, it gets its own name. It is then noted in ``downloads.json`` and not fetched again.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypedDict

from kailin_ray.config import DownloadConfig
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.http import Web, WebError
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.terminal import progress_bar, terminal

NOTES = "downloads.json"
MAX_LISTING_BYTES, MAX_MD5_BYTES = 16 << 20, 1 << 12
"""NLM's listings of 1,300 files and their MD5 files take 0.4 MB."""

_LINK = re.compile(r"""href\s*=\s*["']?([^"'>\s]+)""", re.IGNORECASE)
_NAME = re.compile(r"pubmed\d\dn\d{4}\.xml\.gz", re.ASCII)
_MD5 = re.compile(r"\b[0-9a-f]{32}\b", re.IGNORECASE)


class FileNote(TypedDict):
    """A complete file with the right MD5."""

    bytes: int
    md5: str
    when: str


Notes = dict[str, FileNote]
"""Notes by file name."""


@dataclass(frozen=True, kw_only=True)
class DownloadResult:
    """The result of a download."""

    folder: Path
    fetched: list[str]
    there_already: int
    num_bytes: int
    """Bytes received over the network."""
    refused: dict[str, str]
    """Why files were refused, by name."""


def list_files(web: Web, config: DownloadConfig) -> dict[str, str]:
    """Return the addresses of the listed files that match the configuration, by name and sorted by name.

    A link counts only if it is the bare name of a PubMed file, so a listing cannot lead to another path or address.
    Raises ``ConfigError`` if no listed file matches, and ``WebError`` if no PubMed file is listed.
    """
    urls: dict[str, str] = {}
    for folder_name in config.folders:
        folder = f"{config.base_url.rstrip('/')}/{folder_name}/"
        names = {name for name in _LINK.findall(web.text(folder, MAX_LISTING_BYTES)) if _NAME.fullmatch(name)}
        if not names:
            raise WebError(f"{folder}: lists no file such as pubmed26n0001.xml.gz")
        urls |= {name: folder + name for name in names}
    globs = (config.names,) if isinstance(config.names, str) else config.names
    chosen = sorted(name for name in urls if any(fnmatchcase(name, glob) for glob in globs))
    if not chosen:
        raise ConfigError(f"names: {', '.join(globs)}: none of {len(urls):,} files, {min(urls)} to {max(urls)}")
    return {name: urls[name] for name in chosen[: config.limit]}


def download(config: DownloadConfig) -> DownloadResult:
    """Fetch the listed files that are not noted yet. A file that cannot be fetched is refused; the others continue.

    Raises ``ConfigError``, ``WebError`` if there is no listing, and ``OSError`` if a file cannot be written.
    """
    _open_folder(config.out)
    with hold_lock(config.out):
        web = Web()
        files = list_files(web, config)
        notes = _notes(config.out)
        todo = {name: url for name, url in files.items() if not _in_place(config.out / name, notes)}
        with progress_bar(terminal(), "download", len(todo), unit=" files", disable=not todo) as bar:
            counter = _Counter(bar)
            refused = _fetch_all(web, todo, config, notes, counter)
    return DownloadResult(
        folder=config.out,
        fetched=sorted(todo.keys() - refused.keys()),
        there_already=len(files) - len(todo),
        num_bytes=counter.num_bytes,
        refused=dict(sorted(refused.items())),
    )


def format_download(result: DownloadResult) -> str:
    """Return a summary of the download for people."""
    return (
        f"{result.folder}: {len(result.fetched):,} files fetched ({result.num_bytes / 1e6:,.1f} MB received), "
        f"{result.there_already:,} already present, {len(result.refused):,} refused"
    )


def _fetch_all(
    web: Web, todo: dict[str, str], config: DownloadConfig, notes: Notes, counter: "_Counter"
) -> dict[str, str]:
    """Fetch files (addresses by name) and note each; return why some were refused, by name."""
    refused = {}
    with ThreadPoolExecutor(config.connections) as threads:
        futures = {
            threads.submit(fetch_file, web, url, config.out / name, counter.add_bytes): name
            for name, url in todo.items()
        }
        try:
            for future in as_completed(futures):
                name = futures[future]
                try:
                    notes[name] = future.result()
                    write_json(config.out / NOTES, dict(sorted(notes.items())))
                except WebError as error:
                    refused[name] = str(error)
                counter.add_file()
        except BaseException as error:  # interrupted, or the disk is full: all threads must stop
            threads.shutdown(wait=False, cancel_futures=True)
            web.stop()
            if isinstance(error, OSError):
                raise OSError(f"{config.out}: {error.strerror or error}; data received is kept") from error
            raise
    return refused


def fetch_file(web: Web, url: str, path: Path, told: Callable[[int], object]) -> FileNote:
    """Fetch a file to ``path``; if its MD5 differs from the one that NLM publishes, fetch it once more from its start.

    Return its note: bytes, md5, when. ``told`` is called with the number of bytes received. Raises ``WebError``; an
    incomplete file is kept under a temporary name.
    """
    partial = path.with_name(f".{path.name}.partial")
    md5_text = web.text(f"{url}.md5", MAX_MD5_BYTES)
    expected = _MD5.search(md5_text)
    if not expected:
        raise WebError(f"{url}.md5: holds no MD5: {md5_text[:60]!r}")
    if path.exists():  # copied here by other means, complete or not
        path.rename(partial)
    for _ in range(2):
        web.download(url, partial, told)
        with partial.open("rb") as stream:
            digest = hashlib.file_digest(stream, "md5").hexdigest()
        if digest == expected[0].lower():
            note: FileNote = {
                "bytes": partial.stat().st_size,
                "md5": digest,
                "when": datetime.now(UTC).isoformat("T", "seconds"),
            }
            partial.rename(path)
            return note
        partial.unlink()
    raise WebError(f"{url}: fetched twice, and its MD5 is {digest}; its .md5 file says {expected[0].lower()}")


def _open_folder(to: Path) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: {to}: {error.strerror}") from error
    if not os.access(to, os.W_OK | os.X_OK):
        raise ConfigError(f"out: {to}: cannot be written")


def _notes(to: Path) -> Notes:
    try:
        notes: Notes = read_json(to / NOTES) if (to / NOTES).exists() else {}
    except ValueError as error:
        raise ConfigError(
            f"out: {to / NOTES} is damaged: {error}; remove it to have all files checked again"
        ) from error
    return notes


def _in_place(path: Path, notes: Notes) -> bool:
    return path.exists() and path.name in notes and path.stat().st_size == notes[path.name]["bytes"]


class _Counter:
    """Counts of all threads, shown on the progress bar: files and bytes."""

    def __init__(self, bar: Any):
        self.num_bytes = 0
        self._bar, self._lock = bar, threading.Lock()

    def add_bytes(self, num_bytes: int) -> None:
        with self._lock:
            self.num_bytes += num_bytes
            speed = self.num_bytes / max(self._bar.format_dict["elapsed"], 0.1)
            self._bar.set_postfix_str(f"{self.num_bytes / 1e6:,.1f} MB, {speed / 1e6:.1f} MB/s", refresh=False)
            self._bar.update(0)

    def add_file(self) -> None:
        with self._lock:
            self._bar.update()
