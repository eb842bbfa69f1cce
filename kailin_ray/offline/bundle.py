"""Pack what a cluster without internet needs: wheels, this project, models and assets, with an installer.

A bundle is a folder with ``install.sh`` and ``unpack.py``, which need only Python, the parts of the archive, a manifest
that lists the parts and their files, a bill of materials, and ``SHA256SUMS`` of everything. The folder appears when it
is complete. Its downloads are kept next to it until then.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Literal, TextIO

from typing_extensions import TypedDict  # pydantic refuses typing.TypedDict before Python 3.12

from kailin_ray import __version__
from kailin_ray.config import BundleConfig
from kailin_ray.engines.models import check_files
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import atomic_folder, read_json, remove_folder, sha256, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import NAME, Manifest, manifest_checksum, write_manifest
from kailin_ray.io.terminal import progress_bar, terminal
from kailin_ray.offline import assets, bom, wheels
from kailin_ray.offline.archive import Piece, write_parts
from kailin_ray.schema import Json
from kailin_ray.versions import CHECKOUT, versions

LEAST_PYTHON = 11
SUMS = "SHA256SUMS"
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "*.md", "LICENSE*", "NOTICE*")
"""The files taken from a model: weights, tokenizer, settings and licence, but no pickle and no code."""

Files = list[tuple[str, Path]]


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """A model that goes into a bundle."""

    name: str
    """Name of its folder in the bundle."""
    given: str
    path: Path
    """Its local folder, or the folder of its download."""
    revision: str | None = None
    """The commit of a hub model."""
    size: int = 0


class ModelNote(TypedDict("ModelNote", {"from": str})):
    """A model, as a bundle's manifest lists it. ``from``: its hub id, or its folder's name."""

    name: str
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Platform:
    """The machines that a bundle's wheels run on."""

    system: str = "Linux"
    machine: str = "x86_64"
    glibc: str
    """The oldest version that works."""


@dataclass(frozen=True, kw_only=True)
class BundleManifest(Manifest):
    """The manifest of a bundle. ``unpack.py`` reads it too, without this package."""

    COMMAND: ClassVar[str] = "bundle"

    kind: Literal["bundle"] = "bundle"
    id: str
    made: str
    version: str
    commit: str | None
    target: Literal["cpu", "gpu"]
    python: str
    platform: Platform
    installed_bytes: int
    models: tuple[ModelNote, ...]
    assets: tuple[Json, ...]
    """The notes that ``fetch`` writes next to the assets."""
    parts: tuple[Piece, ...]
    files: tuple[Piece, ...]


@dataclass(frozen=True)
class BundleResult:
    """A finished bundle."""

    out: Path
    manifest: BundleManifest
    sums_sha256: str
    """Checksum of ``SHA256SUMS``, which holds the checksums of all other files."""


def bundle(config: BundleConfig) -> BundleResult:
    """Create a bundle.

    Raises ``ConfigError`` for everything that can be refused before a download; ``CommandFailedError`` and ``OSError``
    later, and then the downloads are kept.
    """
    with hold_lock(config.out.absolute()):
        try:
            return _bundle(config, terminal())
        except (wheels.WheelError, assets.FetchError) as error:
            raise CommandFailedError(str(error)) from error


def _bundle(config: BundleConfig, stream: TextIO) -> BundleResult:
    pins = check(config)
    downloads = downloads_of(config.out)
    models = resolve_models(config.models, downloads)
    with progress_bar(stream, "bundle: resolving with pip, which takes minutes", len(pins), unit=" wheels") as bar:
        releases = wheels.resolve(pins, config.target, config.python)
        bar.update(len(pins))
    check_room(config, releases, models, downloads)

    (downloads / "wheels").mkdir(parents=True, exist_ok=True)
    for name in config.assets:
        assets.fetch(name, config.assets_dir)
    wheels.download(releases, config.python, downloads / "wheels", stream)
    built = [*wheels.build_sources(pins, downloads / "wheels"), wheels.build_project(CHECKOUT, downloads / "wheels")]
    for model in models:
        if model.revision:
            _download_model(model)
    files = sorted(
        [
            (f"wheels/{path.name}", path)
            for path in (*(downloads / "wheels" / release.file for release in releases), *built)
        ]
        + [(f"models/{model.name}/{name}", path) for model in models for name, path in model_files(model.path)]
        + [file for name in config.assets for file in asset_files(name, config.assets_dir)]
    )
    with atomic_folder(config.out) as folder:
        manifest = write(config, files, models, folder, stream)
    remove_folder(downloads)
    return BundleResult(config.out, manifest, sha256(config.out / SUMS))


def downloads_of(out: Path) -> Path:
    """Return the folder of a bundle's downloads until the bundle is complete."""
    return out.absolute().with_name(f".{out.name}.downloads")


def check(config: BundleConfig) -> dict[str, str]:
    """Return the pins of the bundle. Raises ``ConfigError`` for everything that can be refused without a network."""
    if config.out.exists():
        raise ConfigError(f"out: {config.out} exists; choose a new folder, or remove it")
    if int(config.python.partition(".")[2]) < LEAST_PYTHON:
        raise ConfigError(f"python: {config.python}; kailin_ray needs 3.{LEAST_PYTHON} or later")
    for name in config.assets:
        if name not in assets.ASSETS:
            raise ConfigError(f"assets: unknown {name!r}; allowed: {', '.join(assets.ASSETS)}")
    requirements = CHECKOUT / "requirements"
    if not requirements.is_dir():
        raise ConfigError(f"bundle needs a checkout of kailin_ray; {CHECKOUT} has no requirements/")
    locks = [requirements / f"{name}.lock" for name in (config.target, "s3", "train")]
    pins = wheels.read_pins([config.lock] if config.lock else locks)
    if not pins:
        raise ConfigError(f"lock: {config.lock} names no package")
    return pins


def resolve_models(given: Sequence[str], downloads: Path) -> list[BundledModel]:
    """Return the checked models. Raises ``ConfigError`` that names a model that is not found or has no safetensors."""
    models = [_local(text) if Path(text).is_dir() else _of_hub(text, downloads) for text in given]
    names = [model.name for model in models]
    for model in models:
        if names.count(model.name) > 1:
            raise ConfigError(f"models: two of them are named {model.name}; rename one directory")
    return models


def _local(text: str) -> BundledModel:
    path = Path(text).absolute()
    if not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ConfigError(f"models: {text} is not a model directory: it has no config.json or adapter_config.json")
    check_files("models", text)
    return BundledModel(name=path.name, given=text, path=path, size=_size(path for _, path in model_files(path)))


def _of_hub(text: str, downloads: Path) -> BundledModel:
    repo, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ConfigError(f"models: {text}: no such directory, and not a hub id either (owner/name@revision)")
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True, timeout=60)
    except Exception as error:  # whatever the hub's client raises, the model cannot be used
        raise ConfigError(
            f"models: {text}: no such directory, and the hub does not provide it ({type(error).__name__})"
        ) from error
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if not any(name.endswith(".safetensors") for name in files):
        raise ConfigError(f"models: {text} has no *.safetensors: pickled weights can run code and are refused")
    name = repo.replace("/", "--")
    size = sum(size for file, size in files.items() if _is_model_file(Path(file)))
    return BundledModel(name=name, given=text, path=downloads / "models" / name, revision=info.sha, size=size)


def _download_model(model: BundledModel) -> None:
    from huggingface_hub import snapshot_download

    repo = model.given.partition("@")[0]
    try:
        snapshot_download(repo, revision=model.revision, local_dir=model.path, allow_patterns=list(MODEL_FILES))
    except Exception as error:  # the network and the hub raise many kinds
        raise assets.FetchError(
            f"{model.given}: {type(error).__name__}: {' '.join(str(error).split())[:300]}; finished downloads are kept"
        ) from error


def model_files(folder: Path) -> Files:
    """Return the files to take from a model's directory, with their relative names; links are followed."""
    candidates = [(path.relative_to(folder), path) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [(name.as_posix(), path) for name, path in candidates if _is_model_file(name)]


def _is_model_file(name: Path) -> bool:
    return not any(component.startswith(".") for component in name.parts) and any(
        name.match(glob) for glob in MODEL_FILES
    )


def asset_files(name: str, folder: Path) -> Files:
    """Return the files of an asset that is in place, and the note by which ``fetch`` recognises it."""
    path = folder / assets.ASSETS[name].target.rstrip("/")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    kept_files = [file for file in files if not file.name.startswith(".")] + [path.with_name(f".{path.name}.json")]
    return [(f"assets/{file.relative_to(folder).as_posix()}", file) for file in kept_files]


def check_room(
    config: BundleConfig, releases: Iterable[wheels.Release], models: Iterable[BundledModel], downloads: Path
) -> None:
    """Raise ``ConfigError`` if the disk has no room for the remaining downloads and the bundle."""
    releases = list(releases)
    missing = [release for release in releases if not wheels.in_place(release, downloads / "wheels")]
    to_download = wheels.num_bytes(missing)
    total = to_download + _size(downloads / "wheels" / release.file for release in releases if release not in missing)
    for model in models:
        total += model.size
        if model.revision:
            to_download += model.size
    for name in config.assets:
        path = config.assets_dir / assets.ASSETS[name].target.rstrip("/")
        size = _size(path for _, path in asset_files(name, config.assets_dir)) if path.exists() else 0
        total += size or assets.ASSETS[name].size_mb * 10**6
    existing = next(parent for parent in downloads.parents if parent.is_dir())
    needed, free = to_download + total, shutil.disk_usage(existing).free
    if needed > free:
        raise ConfigError(
            f"out: {config.out}: the disk has {free / 1e9:,.1f} GB free; {needed / 1e9:,.1f} GB are needed: "
            f"{to_download / 1e9:,.1f} for downloads, which are removed in the end, and "
            f"{total / 1e9:,.1f} for the bundle"
        )


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def write(
    config: BundleConfig, files: Files, models: Sequence[BundledModel], folder: Path, shown: TextIO
) -> BundleManifest:
    """Write the bundle's folder with ``files``, given by name in the bundle; return its manifest."""
    wheel_paths = [path for name, path in files if name.startswith("wheels/")]
    glibc = wheels.least_glibc(path.name for path in wheel_paths)
    stem = f"kailin_ray-{__version__}-{config.target}-py{config.python}-{_identity(files)}"
    with progress_bar(shown, "bundle: packed", _size(path for _, path in files), unit="B") as bar:
        pieces, parts = write_parts(files, folder, stem, config.part_mib << 20, bar.update)
    sums = {piece.name: piece.sha256 for piece in pieces}
    lock = folder / "requirements.lock"
    lines = [f"{name} --hash=sha256:{sums[f'wheels/{file}']}" for name, file in wheels.list_pins(wheel_paths)]
    lock.write_text("# Made by bundle: install with --no-deps.\n" + "\n".join(lines) + "\n")
    for name in ("install.sh", "unpack.py"):
        shutil.copy(CHECKOUT / "cluster" / "offline" / name, folder)
    manifest = BundleManifest(
        id=stem,
        made=datetime.now(UTC).isoformat("T", "seconds"),
        version=__version__,
        commit=versions().get("commit"),
        target=config.target,
        python=config.python,
        platform=Platform(glibc=glibc),
        installed_bytes=wheels.sum_unpacked_bytes(wheel_paths)
        + sum(p.size for p in pieces if not p.name.startswith("wheels/")),
        models=tuple({"name": m.name, "from": _format_origin(m), "revision": m.revision} for m in models),
        assets=tuple(read_json(path) for name, path in files if re.fullmatch(r"assets/\.[^/]+\.json", name)),
        parts=tuple(parts),
        files=tuple(pieces),
    )
    write_manifest(folder, manifest)
    notes = [*_describe_models(models, sums), *_describe_assets(manifest.assets, sums)]
    write_json(folder / bom.NAME, bom.list_materials(stem, __version__, manifest.made, wheel_paths, notes, sums))
    sums = {part.name: part.sha256 for part in parts} | {NAME: manifest_checksum(folder)}
    sums |= {name: sha256(folder / name) for name in ("install.sh", "requirements.lock", "unpack.py", bom.NAME)}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    return manifest


def _describe_models(models: Sequence[BundledModel], sums: Mapping[str, str]) -> list[Json]:
    return [
        bom.describe_files(
            "machine-learning-model",
            model.name,
            bom.read_model_licence(model.path),
            [name for name in sums if name.startswith(f"models/{model.name}/")],
            sums,
            **({"version": model.revision} if model.revision else {}),
        )
        for model in models
    ]


def _describe_assets(notes: Sequence[Json], sums: Mapping[str, str]) -> list[Json]:
    targets = {name: asset.target.rstrip("/") for name, asset in assets.ASSETS.items()}
    return [
        bom.describe_files(
            "data",
            name,
            assets.ASSETS[name].licence,
            [file for file in sums if (file + "/").startswith(f"assets/{targets[name]}/")],
            sums,
        )
        for name in (str(note["asset"]) for note in notes)
    ]


def _format_origin(model: BundledModel) -> str:
    """Return the hub id of a model, or the name of a local model, as its path means nothing on other machines."""
    return model.given.partition("@")[0] if model.revision else model.name


def _identity(files: Files) -> str:
    """Return a short hash for the parts' names, so that the parts of different bundles have different names."""
    listed = [[name, path.stat().st_size, path.stat().st_mtime_ns] for name, path in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:8]


def format_bundle(result: BundleResult) -> str:
    """Return a summary of the bundle, and what to do next."""
    manifest, out = result.manifest, result.out
    num_wheels = sum(piece.name.startswith("wheels/") for piece in manifest.files)
    names = ", ".join([model["name"] for model in manifest.models] + [str(asset["asset"]) for asset in manifest.assets])
    return "\n".join(
        (
            f"{out}: {sum(part.size for part in manifest.parts) / 1e9:,.2f} GB in {len(manifest.parts):,} parts",
            f"  {manifest.installed_bytes / 1e9:,.2f} GB when installed",
            f"  {num_wheels:,} wheels for {manifest.target}, Python {manifest.python}, x86-64 Linux with glibc "
            f"{manifest.platform.glibc} or later",
            f"  {names or 'no models and assets'}",
            f"  sha256 of {SUMS}: {result.sums_sha256}",
            f"Copy the folder to the cluster and run there: {out.name}/install.sh FOLDER",
        )
    )
