"""Manifests: the file that marks a folder complete and describes its content.

Each kind of folder (documents, index, run, dataset, adapter ...) has a frozen dataclass for its manifest, a subclass of
``Manifest``; only this module reads and writes manifests. A handle (``Documents.open(path)``, ``Index.open(path)`` ...)
is a folder with its manifest: it is opened once and passed on.

A manifest's JSON begins with its ``kind`` and ``format_version``. In older folders without a ``format_version``, the
version is their ``format``, or 1.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import MANIFEST as NAME
from kailin_ray.io.files import sha256, write_json


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a folder. A subclass narrows ``kind`` to a ``Literal`` with a default, and names its command."""

    FORMAT_VERSION: ClassVar[int] = 1
    """Version of the JSON that is written; raise it when older readers could not understand it."""
    OLDEST_VERSION: ClassVar[int] = 1
    """The oldest version that is still read."""
    COMMAND: ClassVar[str]
    """The command that creates such a folder."""

    kind: str

    @classmethod
    def upgrade(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return current JSON for the JSON of an earlier version."""
        return values


M = TypeVar("M", bound=Manifest)


def read_manifest(folder: Path, kind: type[M], key: str) -> M:
    """Return the manifest of a folder, as ``kind``; ``key`` is the configuration key for the folder.

    Raises ``ConfigError`` if the manifest is missing, damaged, of another kind, or of an unsupported version.
    """
    values = _read_values(folder, kind, key)
    _check_kind(values, kind, folder, key)
    return _parse_values(values, kind, folder, key)


def find_manifest(folder: Path, kind: type[M], key: str) -> M | None:
    """Return the manifest of a folder that may be something else; None if it has none of this kind.

    Raises ``ConfigError`` if the manifest is of an unsupported version, or has invalid fields.
    """
    if not has_manifest(folder):
        return None
    try:
        values = _read_values(folder, kind, key)
    except ConfigError:  # unreadable, so of no known kind
        return None
    if _kind_of(values) not in _kinds(kind):
        return None
    _check_kind(values, kind, folder, key)
    return _parse_values(values, kind, folder, key)


def _read_values(folder: Path, kind: type[Manifest], key: str) -> Any:
    if not folder.is_dir():
        raise ConfigError(f"{key}: {folder} is not a directory")
    path = folder / NAME
    if not path.exists():
        raise ConfigError(f"{key}: {folder} has no {NAME}: not made by `{kind.COMMAND}`, or not finished")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(
            f"{key}: {path} is damaged: {error}; restore it from a copy, or make the folder again with `{kind.COMMAND}`"
        ) from error


def _parse_values(values: Any, kind: type[M], folder: Path, key: str) -> M:
    try:
        if _version_of(values) < kind.FORMAT_VERSION:
            values = kind.upgrade(values)
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{key}: {folder / NAME} is damaged: {where}: {first['msg']}") from error


def _kind_of(values: Any) -> str | None:
    kind = values.get("kind") if isinstance(values, dict) else None
    return kind if isinstance(kind, str) else None


def _kinds(kind: type[Manifest]) -> tuple[str, ...]:
    return get_args(get_type_hints(kind)["kind"])


def _check_kind(values: Any, kind: type[Manifest], folder: Path, key: str) -> None:
    kinds, actual = _kinds(kind), _kind_of(values)
    if actual not in kinds:
        raise ConfigError(f"{key}: {folder} holds {actual or 'something else'}, not {' or '.join(kinds)}")
    version = _version_of(values)
    if not isinstance(version, int) or version > kind.FORMAT_VERSION:
        raise ConfigError(
            f"{key}: {folder} is of format version {version}; this kailin_ray reads up to {kind.FORMAT_VERSION}: "
            "upgrade it"
        )
    if version < kind.OLDEST_VERSION:
        raise ConfigError(f"{key}: {folder} was made by an earlier version of kailin_ray; make it again")


def _version_of(values: Any) -> Any:
    return values.get("format_version", values.get("format", 1))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder atomically. Call it last, because a manifest marks the folder complete."""
    values = TypeAdapter(type(manifest)).dump_python(manifest, mode="json")
    head = {"kind": values.pop("kind"), "format_version": manifest.FORMAT_VERSION}
    write_json(folder / NAME, head | values)


def has_manifest(folder: Path) -> bool:
    """Return whether a folder is marked complete."""
    return (folder / NAME).exists()


def has_damaged_manifest(folder: Path) -> bool:
    """Return whether a folder has a manifest that is no JSON, such as an empty one after a power failure."""
    if not has_manifest(folder):
        return False
    try:
        json.loads((folder / NAME).read_text(encoding="utf-8"))
    except ValueError:
        return True
    return False


def remove_manifest(folder: Path) -> None:
    """Mark a folder as incomplete."""
    (folder / NAME).unlink(missing_ok=True)


def manifest_checksum(folder: Path) -> str:
    """Return the SHA-256 of a folder's manifest, which changes whenever the folder does."""
    return sha256(folder / NAME)
