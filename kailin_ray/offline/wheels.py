"""Resolve and download, with pip, the wheels of a lock for another machine's Python and x86-64 Linux.

pip's dry run reports the wheel and SHA-256 that it would take for each pin. It downloads nothing if the index publishes
the wheels' metadata. So a pin without a wheel is refused at once, and each download is checked against its SHA-256.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from packaging.utils import canonicalize_name, parse_wheel_filename

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import sha256
from kailin_ray.io.http import Web, WebError
from kailin_ray.io.terminal import progress_bar

SOURCES_ONLY = frozenset({"antlr4-python3-runtime"})
"""Pure Python packages without a wheel on the index; their wheels are built here."""
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
AT_ONCE = 8
"""Wheels that one pip call downloads. The wheels of completed calls are kept if a later call is interrupted."""

_MANYLINUX = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 40)))
# The oldest glibc first: of two wheels of one version, pip takes the wheel that runs on more machines.
_PLATFORMS = [argument for name in (*_MANYLINUX, "linux") for argument in ("--platform", f"{name}_x86_64")]


def _for(python: str) -> list[str]:
    return ["--implementation", "cp", "--python-version", python, *_PLATFORMS]


class WheelError(RuntimeError):
    """A wheel could not be downloaded or built; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A wheel on an index."""

    name: str
    version: str
    url: str
    sha256: str

    @property
    def file(self) -> str:
        """The wheel's file name."""
        return unquote(urlsplit(self.url).path.rpartition("/")[2])


def read_pins(locks: Iterable[Path]) -> dict[str, str]:
    """Return the pins in lock files, by package; a later file overrides an earlier file.

    A pin is a version and, as in the project's own locks, the SHA-256 of the files that pip may take, as pip writes
    them: ``1.0 --hash=sha256:…``. Raises ``ConfigError`` for an unreadable file, and for a line other than a comment or
    ``name==version``, with or without hashes.
    """
    pins = {}
    for lock in locks:
        try:
            lines = lock.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"lock: {lock}: {getattr(error, 'strerror', None) or error}") from error
        for number, line in enumerate(lines, start=1):
            if not (text := line.partition("#")[0].strip()):
                continue
            if not (match := re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+( +--hash=sha256:[0-9a-f]{64})*)", text)):
                raise ConfigError(
                    f"lock: {lock}:{number}: {text!r}; expected name==version for every package, as --no-deps needs"
                )
            pins[str(canonicalize_name(match[1]))] = match[2]
    return pins


def resolve(pins: Mapping[str, str], target: str, python: str) -> list[Release]:
    """Return the wheel of each pin that is not built here.

    Raises ``ConfigError`` that names the first pin without a wheel; ``WheelError`` if pip fails for another reason.
    """
    requirements = {name: f"{name}=={pin}" for name, pin in pins.items() if name not in SOURCES_ONLY}
    releases = []
    if "torch" in requirements and target == "cpu":
        torch = [requirements.pop("torch")]
        try:
            releases = _resolve(torch, python)
        except ConfigError:
            # PyTorch's CPU build is on its own index, unless pip is configured with an index that has it.
            releases = _resolve(torch, python, "--retries", "1", "--index-url", TORCH_CPU_INDEX)
    elif "torch" in requirements:
        # == would also accept a build such as +cpu, from an index that pip is configured with.
        requirements["torch"] = f"torch==={pins['torch']}"
    return releases + (_resolve(list(requirements.values()), python) if requirements else [])


def _resolve(pins: list[str], python: str, *arguments: str) -> list[Release]:
    with tempfile.TemporaryDirectory() as scratch:
        lock, report = Path(scratch, "lock.txt"), Path(scratch, "report.json")
        lock.write_text("\n".join(pins) + "\n")
        fault = _pip(
            *("install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--quiet"),
            *("--report", str(report), "--target", str(Path(scratch, "none"))),
            *(*_for(python), *arguments, "-r", str(lock)),
        )
        if fault:
            raise _no_wheel(fault, python)
        items = json.loads(report.read_text())["install"]
    releases = []
    for item in items:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise WheelError(f"{name}=={version}: pip found no SHA-256 of {item['download_info']['url']}")
        url = item["download_info"]["url"]
        releases.append(Release(name=name, version=version, url=url, sha256=hashes["sha256"]))
    return releases


def _no_wheel(fault: str, python: str) -> Exception:
    """Return the error of a dry run: the pin without a wheel, or pip's own message."""
    if match := re.search(r"(?:No matching distribution found for|Cannot install) ([^\s=]+==+\S+)", fault):
        pin = match[1].replace("===", "==")
        return ConfigError(
            f"python: {python}: {pin} has no wheel for Python {python} on x86-64 Linux that pip can find"
        )
    return WheelError(_last_error(fault))


def num_bytes(releases: Iterable[Release]) -> int:
    """Return the total size of wheels; 0 for a wheel whose server does not report its size."""
    web = Web()

    def size(release: Release) -> int:
        if release.url.startswith("file:"):
            return Path(url2pathname(urlsplit(release.url).path)).stat().st_size
        try:
            with web.open_response("HEAD", release.url) as answer:
                return int(answer.headers.get("Content-Length", 0))
        except (WebError, ValueError):
            return 0

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(size, releases))


def download(releases: list[Release], python: str, folder: Path, terminal: TextIO) -> None:
    """Download the wheels into ``folder``; wheels there with the right checksum stay.

    Raises ``WheelError``; finished downloads are kept.
    """
    missing = [release for release in releases if not in_place(release, folder)]
    with progress_bar(terminal, "bundle: wheels", len(releases), unit="", initial=len(releases) - len(missing)) as bar:
        for start in range(0, len(missing), AT_ONCE):
            batch = missing[start : start + AT_ONCE]
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                lock = Path(scratch, "lock.txt")
                lock.write_text(
                    "".join(f"{release.name} @ {release.url} --hash=sha256:{release.sha256}\n" for release in batch)
                )
                if fault := _pip(
                    *("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch),
                    *(*_for(python), "-r", str(lock)),
                ):
                    raise WheelError(f"{_last_error(fault)}; finished downloads are kept, and the same command resumes")
                for release in batch:
                    Path(scratch, release.file).rename(folder / release.file)
            bar.update(len(batch))


def in_place(release: Release, folder: Path) -> bool:
    """Whether a wheel is in a folder, with the right checksum."""
    path = folder / release.file
    return path.is_file() and sha256(path) == release.sha256


def build_sources(pins: Mapping[str, str], folder: Path) -> list[Path]:
    """Build the wheels of the pins that the index has only as sources.

    Raises ``WheelError``, also if the wheel would not run on other machines.
    """
    return [_build_pin(f"{name}=={pins[name]}", folder) for name in sorted(SOURCES_ONLY & pins.keys())]


def _build_pin(pin: str, folder: Path) -> Path:
    """Build a wheel with this environment's setuptools: in isolation, pip would fetch any and check nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        lock = Path(scratch, "lock.txt")
        lock.write_text(f"{pin}\n")
        return _build(["--no-build-isolation", "-r", str(lock)], folder, pin.partition(" ")[0])


def build_project(checkout: Path, folder: Path) -> Path:
    """Build this project's wheel from a copy of its sources: a ``build/`` in the checkout may hold old modules."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(checkout / name, scratch)
        for name in ("kailin_ray", "conf"):
            shutil.copytree(checkout / name, Path(scratch, name), ignore=shutil.ignore_patterns("__pycache__"))
        return _build(["--no-build-isolation", scratch], folder, "kailin_ray")


def _build(what: list[str], folder: Path, name: str) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fault = _pip("wheel", "--quiet", "--no-deps", "--use-pep517", "--wheel-dir", scratch, *what)
        if fault:
            raise WheelError(f"{name}: {_last_error(fault)}")
        (wheel,) = Path(scratch).glob("*.whl")
        if not wheel.name.endswith("-none-any.whl"):
            raise WheelError(f"{name}: the wheel built here, {wheel.name}, runs only on machines like this one")
        return wheel.replace(folder / wheel.name)


def list_pins(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """Return ``name==version`` and the file name of each wheel."""
    parsed = [(parse_wheel_filename(path.name), path.name) for path in paths]
    return sorted((f"{name}=={version}", file) for (name, version, *_), file in parsed)


def least_glibc(names: Iterable[str]) -> str:
    """Return the oldest glibc that wheels of these names run on, such as ``2.28``."""
    minor_of = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
    newest = 17
    for name in names:
        minors = []
        for tag in parse_wheel_filename(name)[3]:
            base = tag.platform.removesuffix("_x86_64")
            if base in minor_of or base.startswith("manylinux_2_"):
                minors.append(minor_of.get(base) or int(base.removeprefix("manylinux_2_")))
        newest = max(newest, min(minors, default=0))
    return f"2.{newest}"


def sum_unpacked_bytes(paths: Iterable[Path]) -> int:
    """Return the bytes that the wheels take when they are installed."""
    total = 0
    for path in paths:
        with zipfile.ZipFile(path) as wheel:
            total += sum(member.file_size for member in wheel.infolist())
    return total


def _pip(*arguments: str) -> str:
    """Run pip. Return its error output if it failed, else an empty string."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(pip, capture_output=True, text=True)
    return (done.stderr or f"pip ended with {done.returncode}") if done.returncode else ""


def _last_error(fault: str) -> str:
    lines = [line.removeprefix("ERROR: ") for line in fault.splitlines() if line.startswith("ERROR")]
    return f"pip: {(lines or fault.split(chr(10))[-1:])[-1].strip()[:300]}"
