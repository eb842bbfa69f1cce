"""A small bundle, made by the command line from wheels made here, and installed where no index answers."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter

from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import read_manifest
from kailin_ray.offline import bundle as packing
from kailin_ray.offline import wheels
from kailin_ray.offline.archive import write_parts
from kailin_ray.offline.assets import FetchError, fetch
from tests.cli.test_refusals import refused
from tests.conftest import ASSETS, ROOT, Command
from tests.support.weights import safetensors

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
PURE, NATIVE = "kailin_tiny", "kailin_native"
LICENCES = {
    PURE: "License-Expression: MIT OR Apache-2.0\n",
    NATIVE: "License: UNKNOWN\n"
    "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: BSD License\n",
}
NO_INDEX = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:1/simple"}


def make_wheel(folder: Path, name: str, version: str, tag: str) -> Path:
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{LICENCES[name]}")
        wheel.writestr(f"{info}/licenses/LICENSE.txt", "Do as you please.\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def hash_of(path: Path) -> str:
    return f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels, a lock of them, and a model's directory."""
    shop = tmp_path_factory.mktemp("shop")
    make_wheel(shop, PURE, "1.0", "py3-none-any")
    make_wheel(shop, NATIVE, "2.0", f"{TAG}-{TAG}-manylinux_2_24_x86_64")
    lines = [f"{path.name.split('-')[0]}=={path.name.split('-')[1]} {hash_of(path)}" for path in shop.glob("*.whl")]
    (shop / "tiny.lock").write_text("# Complete.\n" + "  # one\n".join(lines) + "\n")
    model = shop / "model"
    (model / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "1_Pooling/config.json"):
        (model / name).write_text("{}")
    (model / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A model\n")
    for name in ("pytorch_model.bin", "modeling_own.py", ".hidden.json"):
        (model / name).write_text("no")
    (shop / "blob").write_bytes(safetensors(os.urandom(40 << 20)))
    (model / "model.safetensors").symlink_to(shop / "blob")
    return shop


@pytest.fixture(scope="module")
def offered(shop: Path) -> Any:
    """Pip finds the shop's wheels and no others."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (NO_INDEX | {"PIP_FIND_LINKS": str(shop)}).items():
            patch.setenv(name, value)
        yield shop


@pytest.fixture(scope="module")
def made(offered: Path, kailin_subprocess: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    done = kailin_subprocess(
        "bundle",
        f"out={out}",
        f"python={PYTHON}",
        f"lock={offered}/tiny.lock",
        f"models=[{offered}/model]",
        "assets=[mesh]",
        f"assets_dir={ASSETS}",
        "part_mib=16",
    )
    assert done.returncode == 0, done.stderr
    assert "0.05 GB in 3 parts" in done.stdout
    assert f"3 wheels for cpu, Python {PYTHON}, x86-64 Linux with glibc 2.24 or later" in done.stdout
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    return out


def install(bundle: Path, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bundle / "install.sh", folder],
        env=os.environ | NO_INDEX | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


def unpack(bundle: Path, *folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", bundle / "unpack.py", *folder], capture_output=True, text=True)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "bundle", copy_function=os.link)
    return tmp_path / "bundle"


def parts(bundle: Path) -> list[Path]:
    return sorted(bundle.glob("*.tar.*"))


def change(path: Path, by: Callable[[bytes], bytes]) -> None:
    """Write another content, not through the link to the original."""
    content = by(path.read_bytes())
    path.unlink()
    path.write_bytes(content)


def test_the_manifest_lists_what_is_there_and_standard_tools_read_it(made: Path, tmp_path: Path) -> None:
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS"], cwd=made, check=True)
    listed = {line.split()[1] for line in (made / "SHA256SUMS").read_text().splitlines()}
    assert listed | {"SHA256SUMS"} == {path.name for path in made.iterdir()}
    manifest = json.loads((made / "manifest.json").read_text())
    typed = read_manifest(made, packing.BundleManifest, "bundle")
    assert TypeAdapter(packing.BundleManifest).dump_python(typed, mode="json") | {"format_version": 1} == manifest
    assert list(manifest) == [
        "kind", "format_version", "id", "made", "version", "commit", "target", "python", "platform", "installed_bytes",
        "models", "assets", "parts", "files",
    ]  # fmt: skip
    assert [part["name"] for part in manifest["parts"]] == [path.name for path in parts(made)]
    assert all(path.stat().st_size <= 16 << 20 for path in parts(made))
    assert (manifest["target"], manifest["python"], manifest["kind"]) == ("cpu", PYTHON, "bundle")
    assert manifest["models"] == [{"name": "model", "from": "model", "revision": None}]
    assert [one["asset"] for one in manifest["assets"]] == ["mesh"]
    subprocess.run(f"cat {made}/*.tar.* | tar x -C {tmp_path}", shell=True, check=True)
    found = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in found if name.startswith("models")} == {
        f"models/model/{name}" for name in ("README.md", "config.json", "1_Pooling/config.json", "model.safetensors")
    }
    sums = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    assert sums == {piece["name"]: piece["sha256"] for piece in manifest["files"]}


def test_the_bill_of_materials_lists_all_that_is_shipped_with_its_licence(made: Path) -> None:
    listed = json.loads((made / "bom.json").read_text())
    assert (listed["bomFormat"], listed["specVersion"], listed["version"]) == ("CycloneDX", "1.6", 1)
    manifest = json.loads((made / "manifest.json").read_text())
    assert listed["metadata"]["component"]["name"] == manifest["id"]
    components = {component["name"]: component for component in listed["components"]}
    assert len(components) == len({component["bom-ref"] for component in listed["components"]}) == 5
    pure, native, own = (components[name.replace("_", "-")] for name in (PURE, NATIVE, "kailin_ray"))
    assert (pure["version"], pure["purl"]) == ("1.0", "pkg:pypi/kailin-tiny@1.0")
    assert pure["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert native["licenses"] == [{"license": {"name": "BSD License"}}]
    assert own["licenses"] == [{"expression": "Apache-2.0"}]
    assert [one["value"] for one in pure["properties"]] == [
        "wheels/kailin_tiny-1.0-py3-none-any.whl", "kailin_tiny-1.0.dist-info/licenses/LICENSE.txt",
    ]  # fmt: skip
    assert (components["model"]["type"], components["model"]["licenses"]) == (
        "machine-learning-model",
        [{"license": {"name": "cc-by-4.0"}}],
    )
    assert components["mesh"]["type"] == "data"
    assert components["mesh"]["licenses"][0]["license"]["name"].startswith("NLM terms")
    sums = {}
    for component in listed["components"]:
        if component["type"] == "library":
            sums[component["properties"][0]["value"]] = component["hashes"][0]["content"]
        for file in component.get("components", []):
            sums[file["name"]] = file["hashes"][0]["content"]
    notes = {"assets/.mesh.tsv.json"}
    assert sums == {piece["name"]: piece["sha256"] for piece in manifest["files"] if piece["name"] not in notes}


def test_a_wheel_with_another_hash_than_the_lock_s_is_not_bundled(
    kailin_here: Command, offered: Path, tmp_path: Path
) -> None:
    text = (offered / "tiny.lock").read_text()
    (tmp_path / "other.lock").write_text(text.replace(hash_of(offered / f"{PURE}-1.0-py3-none-any.whl")[-8:], "0" * 8))
    done = kailin_here("bundle", f"out={tmp_path}/out", f"python={PYTHON}", f"lock={tmp_path}/other.lock", "assets=[]")
    assert done.returncode == 1
    assert "HASHES" in done.stderr
    assert not (tmp_path / "out").exists()


def test_it_installs_where_no_index_answers_and_an_interrupted_installation_begins_anew(
    made: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "there"
    begun = subprocess.Popen(
        [made / "install.sh", folder],
        env=os.environ | NO_INDEX | {"PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (folder / "venv").exists():
        assert begun.poll() is None
        time.sleep(0.01)
    os.killpg(begun.pid, signal.SIGKILL)
    begun.wait()
    (folder / "venv" / "left.over").touch()
    assert not (folder / "installed.json").exists()

    done = install(made, folder)
    assert done.returncode == 0, done.stderr
    assert "models/model" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["assets", "bom.json", "installed.json", "models", "venv"]
    assert not (folder / "venv" / "left.over").exists()
    code = f"import {PURE}, {NATIVE}, kailin_ray; print({PURE}.version, {NATIVE}.version, kailin_ray.__file__)"
    ran = subprocess.run([folder / "venv/bin/python", "-I", "-c", code], capture_output=True, text=True, check=True)
    pure, native, package = ran.stdout.split()
    assert (pure, native) == ("1.0", "2.0")
    assert Path(package).is_relative_to(folder)
    assert Path(package).with_name("conf").joinpath("bundle.yaml").is_file()
    # In place by its note, as `fetch` left it: no index is asked.
    assert fetch("mesh", folder / "assets") == folder / "assets" / "mesh.tsv"

    again = install(made, folder)
    assert (again.returncode, again.stdout) == (0, f"{folder}: installed already\n")


def test_a_folder_that_is_not_its_own_is_left_alone(made: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    for folder, fault in ((tmp_path, "is not empty"), (tmp_path / "mine", "is not a folder")):
        done = install(made, folder)
        assert (done.returncode, fault in done.stderr) == (2, True), done.stderr
    (tmp_path / "installed.json").write_text("{}")
    assert "the installation of another bundle" in install(made, tmp_path).stderr
    assert "is not on PATH" in install(made, tmp_path / "new", PYTHON="python3.nonesuch").stderr
    assert (tmp_path / "mine").read_text() == "keep"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lambda at: parts(at)[1].unlink(), [".tar.002 is missing"]),
        (lambda at: change(parts(at)[1], lambda data: data[:-1]), [".tar.002 has 16,777,215 bytes, not 16,777,216"]),
        (lambda at: change(parts(at)[2], lambda data: data + b"x"), [".tar.003 has "]),
        (lambda at: change(parts(at)[0], lambda data: b"\xff" + data[1:]), [".tar.001 was altered"]),
        (lambda at: change(parts(at)[1], lambda _: parts(at)[0].read_bytes()), [".tar.002 was altered, or is another"]),
        (lambda at: (at / "kailin_ray-0.1.0-cpu-py3.11-00000000.tar.001").touch(), ["00000000.tar.001 is no part"]),
        (lambda at: (at / "SHA256SUMS").unlink(), ["SHA256SUMS is missing"]),
        (lambda at: change(at / "SHA256SUMS", lambda data: data[:-5]), ["SHA256SUMS is damaged"]),
        (lambda at: change(at / "manifest.json", lambda data: data + b" "), ["manifest.json was altered"]),
        (lambda at: change(at / "requirements.lock", lambda data: data + b"\n"), ["requirements.lock was altered"]),
        (lambda at: change(at / "bom.json", lambda data: data + b"\n"), ["bom.json was altered"]),
    ],
)
def test_damage_is_refused_by_name(copy: Path, tmp_path: Path, damage: Callable[[Path], Any], names: list[str]) -> None:
    damage(copy)
    for done in (unpack(copy), install(copy, tmp_path / "there")):
        said = [line for line in done.stderr.splitlines() if line.startswith("refused: ")]
        assert (done.returncode, len(said)) == (2, 1), done.stderr
        assert "Traceback" not in done.stderr
        for name in names:
            assert name in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def seal(bundle: Path, **changes: Any) -> None:
    """Write the manifest with other values, and sums that fit all that is there, as an attacker would."""
    manifest = json.loads((bundle / "manifest.json").read_text()) | changes
    change(bundle / "manifest.json", lambda _: json.dumps(manifest, indent=2).encode())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(bundle.iterdir())
        if path.name != "SHA256SUMS"
    ]
    change(bundle / "SHA256SUMS", lambda _: "".join(lines).encode())


@pytest.mark.parametrize(
    "name", ["assets/../../../evil", "/tmp/evil", "../evil", "venv/evil", "assets//evil", "assets"]
)
def test_a_name_that_leads_out_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "content").write_bytes(b"evil")
    for part in parts(copy):
        part.unlink()
    files, cut = write_parts([(name, tmp_path / "content")], copy, "x", 16 << 20, lambda _: None)
    seal(copy, parts=[vars(part) for part in cut], files=[vars(file) for file in files])
    done = unpack(copy, tmp_path / "deep" / "there")
    assert (done.returncode, "outside the folder" in done.stderr) == (2, True), done.stderr
    seal(copy, files=[])
    done = unpack(copy, tmp_path / "deep" / "there")
    assert (done.returncode, "no file that the manifest lists" in done.stderr) == (2, True), done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*") if path.parent != copy) == ["bundle", "content", "deep"]


def test_a_link_and_another_content_are_refused(copy: Path, tmp_path: Path) -> None:
    for part in parts(copy):
        part.unlink()
    link = tarfile.TarInfo("assets/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(copy / "x.tar.001", "w") as tar:
        tar.addfile(link)
    part = {"name": "x.tar.001", "size": (copy / "x.tar.001").stat().st_size}
    part["sha256"] = hashlib.sha256((copy / "x.tar.001").read_bytes()).hexdigest()
    listed = [{"name": "assets/link", "sha256": "0" * 64, "size": 0}]
    seal(copy, parts=[part], files=listed)
    assert "'assets/link' in the parts is no file" in unpack(copy, tmp_path / "there").stderr
    (copy / "x.tar.001").unlink()
    (tmp_path / "content").write_bytes(b"other")
    _, cut = write_parts([("assets/link", tmp_path / "content")], copy, "x", 16 << 20, lambda _: None)
    seal(copy, parts=[vars(part) for part in cut], files=listed)
    assert "assets/link is not what the manifest says" in unpack(copy, tmp_path / "there").stderr
    seal(copy, files=[*listed, listed[0] | {"name": "assets/more"}])
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"python": "3.99"}, f"the bundle is for Python 3.99, this is cpython {PYTHON}"),
        ({"platform": {"system": "Linux", "machine": "aarch64", "glibc": "2.17"}}, "for Linux on aarch64"),
        ({"platform": {"system": "Linux", "machine": "x86_64", "glibc": "2.99"}}, "need glibc 2.99, this machine has"),
        ({"installed_bytes": 10**18}, "GB are needed"),
    ],
)
def test_a_machine_that_cannot_run_it_is_refused(
    copy: Path, tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    seal(copy, **changes)
    done = unpack(copy, tmp_path / "there")
    assert (done.returncode, fault in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["target=tpu"], ["target", "'cpu' or 'gpu'", "tpu"]),
        (["python=3.9"], ["python: 3.9", "3.11 or later"]),
        (["python=two"], ["python", "two"]),
        (["python=3.99"], ["python: 3.99", "kailin-native==2.0", "no wheel for Python 3.99 on x86-64 Linux"]),
        (["part_mib=15"], ["part_mib", "greater than or equal to 16", "15"]),
        (["out={at}/there"], ["out", "there exists"]),
        (["assets=[mush]"], ["assets: unknown 'mush'", "allowed: mesh"]),
        (["models=[{at}/none]"], ["models", "/none: no such directory"]),
        (["models=[{at}/there]"], ["models", "no config.json"]),
        (["models=[{at}/pickled]"], ["models", "no *.safetensors, only pytorch_model.bin", "pickled weights"]),
        (["models=[{shop}/model,{at}/model]"], ["models: two of them are named model"]),
        (["lock={at}/none.lock"], ["lock", "none.lock", "No such file"]),
        (["lock={at}/loose.lock"], ["lock", "loose.lock:2", "'six>=1'", "name==version"]),
        (["lock={at}/unknown.lock"], ["kailin-nonesuch==1.0", "no wheel"]),
        (["lock={at}/cut.lock"], ["lock", "cut.lock:1", "--hash=sha256:00"]),
    ],
)
def test_what_cannot_be_bundled_is_refused_before_anything_is_downloaded(
    kailin_here: Command, offered: Path, tmp_path: Path, arguments: list[str], names: list[str]
) -> None:
    for name in ("there", "pickled", "model"):
        (tmp_path / name).mkdir()
    for file in ("pickled/config.json", "pickled/pytorch_model.bin", "model/config.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(safetensors())
    (tmp_path / "loose.lock").write_text("six==1.17.0\nsix>=1\n")
    (tmp_path / "cut.lock").write_text("six==1.17.0 --hash=sha256:00\n")
    (tmp_path / "unknown.lock").write_text("kailin-nonesuch==1.0\n")
    usual = [f"out={tmp_path}/out", f"python={PYTHON}", f"lock={offered}/tiny.lock", "assets=[]"]
    given = [text.format(at=tmp_path, shop=offered) for text in arguments]
    keys = {text.partition("=")[0] for text in given}
    refused(
        kailin_here,
        tmp_path,
        "bundle",
        *[text for text in usual if text.partition("=")[0] not in keys],
        *given,
        names=tuple(names),
    )


def test_a_full_disk_is_refused_with_what_is_needed(
    kailin_here: Command, offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(100, 99, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(
        kailin_here,
        tmp_path,
        "bundle",
        *(f"out={tmp_path}/out", f"python={PYTHON}", f"lock={offered}/tiny.lock", f"models=[{offered}/model]"),
        f"assets_dir={tmp_path}/none",
        names=("out: ", "0.0 GB free", "0.3 GB are needed"),
    )


def test_a_wheel_that_is_not_the_one_pip_found_is_fetched_again(offered: Path, tmp_path: Path) -> None:
    (found,) = wheels.resolve({PURE.replace("_", "-"): "1.0"}, "cpu", PYTHON)
    (tmp_path / found.file).write_bytes(b"half of it")
    wheels.download([found], PYTHON, tmp_path, sys.stderr)
    assert (tmp_path / found.file).read_bytes() == (offered / found.file).read_bytes()
    moved = wheels.Release(name=found.name, version="1.0", url=found.url, sha256="0" * 64)
    with pytest.raises(wheels.WheelError, match="HASHES|hash"):
        wheels.download([moved], PYTHON, tmp_path, sys.stderr)


def test_torch_for_cpus_comes_from_its_own_index_where_pip_knows_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def pip(*arguments: str) -> str:
        pins = Path(arguments[-1]).read_text().split()
        asked.append((pins, wheels.TORCH_CPU_INDEX in arguments))
        if pins == ["torch==1.0+cpu"] and wheels.TORCH_CPU_INDEX not in arguments:
            return "ERROR: No matching distribution found for torch==1.0+cpu\n"
        Path(arguments[arguments.index("--report") + 1]).write_text('{"install": []}')
        return ""

    monkeypatch.setattr(wheels, "_pip", pip)
    wheels.resolve({"torch": "1.0+cpu", "six": "1.0", "antlr4-python3-runtime": "4.9.3"}, "cpu", "3.11")
    assert asked == [(["torch==1.0+cpu"], False), (["torch==1.0+cpu"], True), (["six==1.0"], False)]
    asked.clear()
    wheels.resolve({"torch": "1.0"}, "gpu", "3.11")
    assert asked == [(["torch===1.0"], False)]


def test_a_model_of_the_hub_is_pinned_and_only_safetensors_are_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    files = {"config.json": 10, "model.safetensors": 90, "pytorch_model.bin": 900, "own.py": 7}
    asked: dict[str, Any] = {}

    def model_info(self: Any, repo: str, revision: str | None, **_: Any) -> Any:
        listed = files if repo == "good/model" else {"pytorch_model.bin": 1}
        return SimpleNamespace(sha="c0ffee", siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in listed.items()])

    def snapshot(repo: str, **keys: Any) -> None:
        asked.update(keys, repo=repo)
        raise ConnectionError("gone")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    (model,) = packing.resolve_models(["good/model@main"], tmp_path)
    assert (model.name, model.revision, model.size) == ("good--model", "c0ffee", 100)
    with pytest.raises(FetchError, match="good/model@main: ConnectionError: gone; finished downloads are kept"):
        packing._download_model(model)
    assert (asked["repo"], asked["revision"], asked["local_dir"]) == ("good/model", "c0ffee", model.path)
    assert not {"*.bin", "*.py"} & set(asked["allow_patterns"])
    with pytest.raises(ConfigError, match="bad/model has no .*safetensors"):
        packing.resolve_models(["bad/model"], tmp_path)


def test_the_scripts_are_executable() -> None:
    assert os.access(ROOT / "cluster" / "offline" / "install.sh", os.X_OK)
