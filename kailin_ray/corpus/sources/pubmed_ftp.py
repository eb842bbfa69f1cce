"""NLM's PubMed files: listed, fetched by a few threads, each checked by the MD5 that NLM publishes beside it.

A file comes under a temporary name, which stays where a fetch breaks off, and takes its own when it is whole and right;
then it is noted in ``downloads.json``, and not fetched again.
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
    """A file that is whole and right."""

    bytes: int
    md5: str
    when: str


Notes = dict[str, FileNote]
"""By name."""


@dataclass(frozen=True, kw_only=True)
class DownloadResult:
    """What a download did."""

    folder: Path
    fetched: list[str]
    there_already: int
    num_bytes: int
    """That came over the network."""
    refused: dict[str, str]
    """Why, by name."""


def list_files(web: Web, config: DownloadConfig) -> dict[str, str]:
    """Addresses of the files that NLM lists and the configuration asks for, by name, in the order of the names.

    A link counts only where it is a PubMed file's bare name: what a listing says is no path and no other address.
    Raises ``ConfigError`` where none is asked for, ``WebError`` where there is none.
    """
    found: dict[str, str] = {}
    for what in config.what:
        folder = f"{config.base_url.rstrip('/')}/{what}/"
        names = {name for name in _LINK.findall(web.text(folder, MAX_LISTING_BYTES)) if _NAME.fullmatch(name)}
        if not names:
            raise WebError(f"{folder}: lists no file such as pubmed26n0001.xml.gz")
        found |= {name: folder + name for name in names}
    globs = (config.names,) if isinstance(config.names, str) else config.names
    chosen = sorted(name for name in found if any(fnmatchcase(name, glob) for glob in globs))
    if not chosen:
        raise ConfigError(f"names: {', '.join(globs)}: none of {len(found):,} files, {min(found)} to {max(found)}")
    return {name: found[name] for name in chosen[: config.limit]}


def download(config: DownloadConfig) -> DownloadResult:
    """Fetch what is listed and not noted yet; a file that cannot be had is refused, the others go on.

    Raises ``WebError`` where there is no listing, ``ConfigError``, and ``OSError`` where a file cannot be written.
    """
    _open_folder(config.to)
    with hold_lock(config.to):
        web = Web()
        files = list_files(web, config)
        notes = _notes(config.to)
        todo = {name: url for name, url in files.items() if not _in_place(config.to / name, notes)}
        with progress_bar(terminal(), "download", len(todo), unit=" files", disable=not todo) as bar:
            counter = _Counter(bar)
            refused = _fetch_all(web, todo, config, notes, counter)
    return DownloadResult(
        folder=config.to,
        fetched=sorted(todo.keys() - refused.keys()),
        there_already=len(files) - len(todo),
        num_bytes=counter.num_bytes,
        refused=dict(sorted(refused.items())),
    )


def format_download(result: DownloadResult) -> str:
    """What was fetched, for a person."""
    return (
        f"{result.folder}: {len(result.fetched):,} files fetched ({result.num_bytes / 1e6:,.1f} MB came), "
        f"{result.there_already:,} were there already, {len(result.refused):,} refused"
    )


def _fetch_all(
    web: Web, todo: dict[str, str], config: DownloadConfig, notes: Notes, counter: "_Counter"
) -> dict[str, str]:
    """Fetch files by name and address, note each; return why some were refused, by name."""
    refused = {}
    with ThreadPoolExecutor(config.connections) as threads:
        futures = {
            threads.submit(fetch_file, web, url, config.to / name, counter.add_bytes): name
            for name, url in todo.items()
        }
        try:
            for future in as_completed(futures):
                name = futures[future]
                try:
                    notes[name] = future.result()
                    write_json(config.to / NOTES, dict(sorted(notes.items())))
                except WebError as error:
                    refused[name] = str(error)
                counter.add_file()
        except BaseException as error:  # interrupted, or the disk is full: no thread may go on
            threads.shutdown(wait=False, cancel_futures=True)
            web.stop()
            if isinstance(error, OSError):
                raise OSError(f"{config.to}: {error.strerror or error}; what came is kept") from error
            raise
    return refused


def fetch_file(web: Web, url: str, path: Path, told: Callable[[int], object]) -> FileNote:
    """Fetch a file to ``path``, and again from its start if its MD5 is not the one that NLM publishes.

    Returns its note: bytes, md5, when. Raises ``WebError``; what broke off stays under a temporary name.
    """
    partial = path.with_name(f".{path.name}.partial")
    said = web.text(f"{url}.md5", MAX_MD5_BYTES)
    expected = _MD5.search(said)
    if not expected:
        raise WebError(f"{url}.md5: holds no MD5: {said[:60]!r}")
    if path.exists():  # it came by another way, whole or not
        path.rename(partial)
    for _ in range(2):
        web.download(url, partial, told)
        with partial.open("rb") as stream:
            found = hashlib.file_digest(stream, "md5").hexdigest()
        if found == expected[0].lower():
            note: FileNote = {
                "bytes": partial.stat().st_size,
                "md5": found,
                "when": datetime.now(UTC).isoformat("T", "seconds"),
            }
            partial.rename(path)
            return note
        partial.unlink()
    raise WebError(f"{url}: fetched twice, and its MD5 is {found}; its .md5 file says {expected[0].lower()}")


def _open_folder(to: Path) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"to: {to}: {error.strerror}") from error
    if not os.access(to, os.W_OK | os.X_OK):
        raise ConfigError(f"to: {to}: cannot be written")


def _notes(to: Path) -> Notes:
    try:
        notes: Notes = read_json(to / NOTES) if (to / NOTES).exists() else {}
    except ValueError as error:
        raise ConfigError(f"to: {to / NOTES} is damaged: {error}; remove it, and all files are checked anew") from error
    return notes


def _in_place(path: Path, notes: Notes) -> bool:
    return path.exists() and path.name in notes and path.stat().st_size == notes[path.name]["bytes"]


class _Counter:
    """What all threads did, on the bar: files, and beside them bytes."""

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
