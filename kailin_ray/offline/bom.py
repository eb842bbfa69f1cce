"""List what a bundle ships in a CycloneDX bill of materials: packages, models and assets, with their licences.

A wheel's metadata says its licence: ``License-Expression`` (an SPDX expression), in older wheels ``License`` or a
classifier. Nothing is guessed: a component whose licence nobody says has none in the list.
"""

import re
import zipfile
from collections.abc import Iterable, Mapping
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

from packaging.utils import canonicalize_name

from kailin_ray.schema import Json

NAME = "bom.json"
LONGEST_NAME = 100
"""Characters of a licence's name; some wheels have the whole text in its place."""
_LICENCE_FILE = re.compile(r"[^/]+\.dist-info/(.*/)?(licen[cs]e|copying|notice|authors)[^/]*", re.IGNORECASE)


def list_materials(
    title: str, version: str, made: str, wheels: Iterable[Path], others: Iterable[Json], sums: Mapping[str, str]
) -> Json:
    """Return the bill of materials (CycloneDX 1.6).

    ``sums`` has the SHA-256 of each file by its name in the bundle; ``others`` are the components of models and assets.
    """
    packages = [describe_wheel(path, sums[f"wheels/{path.name}"]) for path in wheels]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": made,
            "component": {"type": "application", "bom-ref": title, "name": title, "version": version},
        },
        "components": [*sorted(packages, key=lambda package: str(package["bom-ref"])), *others],
    }


def describe_wheel(path: Path, sha256: str) -> Json:
    """Return the component of a wheel: name, version, SHA-256, licence, and where the texts of its licence are."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (metadata,) = (name for name in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        message = HeaderParser().parsestr(wheel.read(metadata).decode("utf-8", "replace"))
    name, version = canonicalize_name(str(message["Name"])), str(message["Version"])
    purl = f"pkg:pypi/{name}@{quote(version)}"
    texts = [text for text in names if _LICENCE_FILE.fullmatch(text)]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
        **_licences(_licence_names(message), message["License-Expression"]),
        "properties": [
            _property("file", f"wheels/{path.name}"),
            *(_property("licence_text", text) for text in sorted(texts)),
        ],
    }


def describe_files(
    kind: str, name: str, licence: str | None, files: Iterable[str], sums: Mapping[str, str], **more: str
) -> Json:
    """Return the component of a model (``machine-learning-model``) or an asset (``data``), with its files' SHA-256."""
    inner = [
        {
            "type": "file",
            "bom-ref": file,
            "name": file,
            "hashes": [{"alg": "SHA-256", "content": sums[file]}],
        }
        for file in files
    ]
    return {
        "type": kind,
        "bom-ref": f"{kind}:{name}",
        "name": name,
        **more,
        **_licences([licence] if licence else []),
        "components": inner,
    }


def read_model_licence(folder: Path) -> str | None:
    """Return the licence that a model's card (``README.md``) names in its front matter, or None."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license: *[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None


def _licence_names(message: Message) -> list[str]:
    """Return what older metadata says: the classifiers, or the first line of ``License``."""
    classifiers = [text for text in message.get_all("Classifier", []) if text.startswith("License ::")]
    names = [text.rpartition(" :: ")[2] for text in classifiers if text != "License :: OSI Approved"]
    stated = (message["License"] or "").strip().partition("\n")[0].strip()
    return names or ([stated[:LONGEST_NAME]] if stated and stated != "UNKNOWN" else [])


def _licences(names: list[str], expression: str | None = None) -> Json:
    """Return the field ``licenses``, or nothing."""
    if expression:
        return {"licenses": [{"expression": expression}]}
    return {"licenses": [{"license": {"name": name}} for name in names]} if names else {}


def _property(name: str, value: str) -> Json:
    return {"name": f"kailin_ray:{name}", "value": value}
