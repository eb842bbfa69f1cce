"""The Dockerfile, as far as it can be judged without building it."""

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.kubernetes_manifests import KUBERNETES, rendered

Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """The instructions of each stage, with those of the stages that it begins from, by the stage's name."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    found: dict[str, list[Instruction]] = {}
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not line.strip():
            continue
        word, rest = line.split(maxsplit=1)
        if word == "ARG" and not found:  # before the first stage: what the build may name
            continue
        if word == "FROM":
            source, _, name = rest.split()
            found[name] = [(word, source), *found.get(source, [])]
        else:
            found[name].append((word, rest))
    return found


def given(instructions: list[Instruction], word: str) -> list[str]:
    return [rest for one, rest in instructions if one == word]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_target_is_made_of_its_locks_and_this_code(target: str) -> None:
    packages = stages()[f"{target}-packages"]
    copied = {source for rest in given(packages, "COPY") for source in rest.split()[:-1]}
    wanted = {f"requirements/{name}.lock" for name in (target, "s3", "train")}
    assert copied == wanted | {
        "requirements/install.sh",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "conf",
        "kailin_ray",
    }
    assert all((ROOT / source).exists() for source in copied)
    runs = [shlex.split(rest) for rest in given(packages, "RUN")]
    assert [words for words in runs if words[0] == "requirements/install.sh"] == [
        ["requirements/install.sh", "python", target, "s3", "train"]
    ]
    # pyproject.toml says what a package of this code is made of, and what it is built with.
    build = re.findall(r'requires = \["(\w+)', (ROOT / "pyproject.toml").read_text())
    lock = (ROOT / "requirements" / f"{target}.lock").read_text()
    assert all(re.search(rf"^{name}==", lock, re.MULTILINE) for name in build)
    # Nothing else is fetched: this code needs no network, and no other line runs pip.
    assert [words for words in runs if "pip" in words] == [["pip", "install", "--no-deps", "--no-build-isolation", "."]]


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_a_target_runs_as_the_manifests_user_with_what_was_installed(target: str) -> None:
    instructions = stages()[target]
    user, group = given(instructions, "USER")[-1].split(":")
    assert instructions[-1][0] == "USER"
    assert int(user) > 0
    (job,) = (manifest for manifest in rendered(KUBERNETES / "base") if manifest["kind"] == "RayJob")
    for pod in (job["spec"]["submitterPodTemplate"], job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]):
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert f"--uid {user} " in " ".join(given(instructions, "RUN"))
    # A named volume takes the owner of the folder that it covers; without one it would be root's.
    assert "install -d -o kailin -g kailin /home/kailin/.cache" in " ".join(given(stages()["base"], "RUN"))
    assert given(instructions, "COPY") == [f"--from={target}-packages /usr/local /usr/local"]
    assert given(instructions, "ENTRYPOINT") == []  # KubeRay gives the command


def test_the_base_image_has_a_version_and_may_be_named_by_its_digest() -> None:
    made = stages()
    sources = {source for instructions in made.values() for source in given(instructions, "FROM")} - set(made)
    assert sources == {"${BASE}"}
    assert re.findall(r"^ARG (.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == [
        "BASE=python:3.11-slim-bookworm"
    ]


def test_what_is_copied_is_let_in_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {source.split("/")[0] for name in ("cpu", "gpu") for rest in given(stages()[f"{name}-packages"], "COPY")
              for source in rest.split()[:-1]}  # fmt: skip
    assert let_in == copied


def test_the_package_brings_its_configuration(tmp_path: Path) -> None:
    """What `pip install .` makes of exactly what the image copies."""
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("conf", "kailin_ray"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path / "out",
    ]
    subprocess.run([*wheel, tmp_path], check=True, capture_output=True, timeout=300)
    (made,) = (tmp_path / "out").glob("*.whl")
    names = set(zipfile.ZipFile(made).namelist())
    ours = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {f"kailin_ray/conf/{name}" for name in ours} <= names
