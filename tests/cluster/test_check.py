"""`check.sh`: what it refuses, by name, with a `kubectl` that knows a made-up cluster."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.kubernetes_manifests import KUBERNETES

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl, which renders the manifests")

# Renders as the real one does; of a cluster it knows the files beside it, named by the words before the first option.
FAKE = """#!/bin/bash
[ "$1" != kustomize ] || exec {kubectl} "$@"
words=()
for word; do [ "${{word#-}}" = "$word" ] || break; words+=("$word"); done
cat "$0.knows/${{words[*]}}"
"""
DIGEST = f"sha256:{'0a' * 32}"
READY = {
    "apply": "",
    "version": "", "crd rayjobs.ray.io": "string", "crd rayclusters.ray.io": "string", "namespace kailin-ray": "",
    "secret kailin-ray-token": "c2VjcmV0", "storageclass shared": "", "nodes": "\n8\n1\n",
    "pvc kailin-ray-data": "Bound shared", "pvc kailin-ray-models": "Pending shared",
}  # fmt: skip


@pytest.fixture
def overlays(tmp_path: Path) -> Path:
    """A copy of the folder whose overlays name an image."""
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    for overlay in (copy / "overlays").glob("*/kustomization.yaml"):
        text = overlay.read_text().replace("newName: registry.example/", "newName: mine/")
        overlay.write_text(re.sub(r"newTag: [\w.-]+", f'digest: "{DIGEST}"', text))
    return copy


def checked(
    folder: Path, tmp_path: Path, *arguments: str, state: dict[str, str | None] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    fake = tmp_path / "bin" / "kubectl"
    knows = tmp_path / "bin" / "kubectl.knows"
    knows.mkdir(parents=True)
    fake.write_text(FAKE.format(kubectl=shutil.which("kubectl")))
    fake.chmod(0o755)
    asked = {f"get {key}" if key not in ("version", "apply") else key: value for key, value in READY.items()} | (
        state or {}
    )
    for words, answer in asked.items():
        if answer is not None:
            (knows / words).write_text(answer)
    environment = {"PATH": f"{fake.parent}:{os.environ['PATH']}"} | environment
    return subprocess.run(
        [folder / "check.sh", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("overlay", ["cpu-trial", "one-gpu", "eight-gpus", "many-nodes", "interactive"])
def test_a_cluster_that_has_everything_is_let_pass(overlay: str, overlays: Path, tmp_path: Path) -> None:
    done = checked(overlays, tmp_path, overlay)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"kubectl apply -k {overlays}/overlays/{overlay}" in done.stdout


@pytest.mark.parametrize(
    ("overlay", "state", "names"),
    [
        ("one-gpu", {"version": None}, ["cluster: kubectl reaches none"]),
        ("one-gpu", {"get crd rayjobs.ray.io": None}, ["KubeRay: rayjobs.ray.io is not defined", "helm install"]),
        ("interactive", {"get crd rayclusters.ray.io": None}, ["KubeRay: rayclusters.ray.io is not defined"]),
        ("one-gpu", {"get crd rayjobs.ray.io": ""}, ["KubeRay: its rayjobs.ray.io", "authOptions.secretName", "1.6"]),
        ("one-gpu", {"get namespace kailin-ray": None}, ["namespace: kailin-ray", "kubectl create namespace"]),
        ("one-gpu", {"get secret kailin-ray-token": None}, ["secret: kailin-ray-token", "create secret generic"]),
        ("one-gpu", {"get secret kailin-ray-token": ""}, ["secret: kailin-ray-token", "auth_token"]),
        ("one-gpu", {"get pvc kailin-ray-data": None}, ["volume: kailin-ray-data is missing", "apply -k", "storage"]),
        ("one-gpu", {"get pvc kailin-ray-models": "Lost shared"}, ["volume: kailin-ray-models is lost"]),
        (
            "one-gpu",
            {"get pvc kailin-ray-models": "Pending "},
            ["volume: kailin-ray-models", "no default storage class"],
        ),
        ("one-gpu", {"get storageclass shared": None}, ["volume: kailin-ray-models", "class shared does not exist"]),
        ("one-gpu", {"get nodes": "\n\n"}, ["GPUs: no node is seen to offer 1", "device plugin", "GROWS_FROM_ZERO"]),
        ("eight-gpus", {"get nodes": "\n4\n1\n"}, ["GPUs: no node is seen to offer 8", "most: 4"]),
        ("one-gpu", {"apply": None}, ["cluster: it would not take the manifests: "]),
    ],
)
def test_what_is_missing_is_named_in_one_line(
    overlay: str, state: dict[str, str | None], names: list[str], overlays: Path, tmp_path: Path
) -> None:
    done = checked(overlays, tmp_path, overlay, state=state)
    said = done.stderr.splitlines()
    assert (done.returncode, len(said), done.stdout) == (2, 1, ""), done.stderr
    for name in names:
        assert name in said[0]


def test_all_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    gone = {"get crd rayjobs.ray.io": None, "get secret kailin-ray-token": None, "get nodes": None}
    done = checked(KUBERNETES, tmp_path, "one-gpu", state=gone)
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["KubeRay", "secret", "GPUs", "image"]
    assert done.returncode == 2


@pytest.mark.parametrize("overlay", ["cpu-trial", "one-gpu", "eight-gpus", "many-nodes", "interactive"])
def test_an_image_without_a_digest_is_refused_unless_the_user_says_so(
    overlay: str, overlays: Path, tmp_path: Path
) -> None:
    for path in (overlays / "overlays").glob("*/kustomization.yaml"):
        path.write_text(path.read_text().replace(f'digest: "{DIGEST}"', "newTag: 0.1.0"))
    done = checked(overlays, tmp_path / "one", overlay)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith("image: mine/kailin-ray:0.1.0 has no digest; set digest: sha256:")
    assert f"{overlay}/kustomization.yaml" in line
    allowed = checked(overlays, tmp_path / "two", overlay, TAG_IS_ENOUGH="yes")
    assert (allowed.returncode, allowed.stderr) == (0, "")


def test_a_node_pool_may_start_empty(overlays: Path, tmp_path: Path) -> None:
    assert checked(overlays, tmp_path, "eight-gpus", state={"get nodes": None}, GROWS_FROM_ZERO="yes").returncode == 0


@pytest.mark.parametrize("arguments", [(), ("two-gpus",), ("one-gpu", "more")])
def test_an_overlay_that_is_none_is_refused(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = checked(KUBERNETES, tmp_path, *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "many-nodes" in done.stderr


def test_without_kubectl_it_says_so(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [KUBERNETES / "check.sh", "one-gpu"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.partition(":")[0]) == (2, "kubectl")
