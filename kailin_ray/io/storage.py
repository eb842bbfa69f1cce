"""Folders on a file system or in an S3 object store, and what the two do not have in common.

A local folder is a ``pathlib.Path``, one in a store (``s3://bucket/runs/a``) a ``upath.UPath``: both answer to the same
verbs, so the rest of the code, and its types, say ``Path``. A store has no rename, but an object appears whole or not
at all. Where the store is and who asks is said by the environment alone (``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``,
``AWS_ENDPOINT_URL`` ...), so that no configuration that is written down holds a secret.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
from pyarrow.fs import FSSpecHandler, PyFileSystem
from pydantic import PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from kailin_ray.errors import ConfigError

SECRET = "secret"  # noqa: S105 the type of an error
"""Type of the error whose input must not be shown."""
OPTIONS: dict[str, Any] = {"use_listings_cache": False, "default_cache_type": "none"}
"""Others write to a folder, too; and Arrow asks for just what it needs, so reading ahead would fetch whole files."""


def parse_folder(value: Any) -> Path:
    """A configuration's folder, local or in an object store, without a secret in its name.

    Raises ``PydanticCustomError`` or ``ValueError`` that says what is allowed.
    """
    if "://" not in str(value):
        return parse_local(value)
    url = urlsplit(str(value))
    if "@" in url.netloc or url.query or url.fragment:
        raise PydanticCustomError(
            SECRET, "a URL may not hold a user, password, key or query; credentials are read from the environment"
        )
    if url.scheme != "s3" or not url.netloc:
        raise ValueError(f"{value}: allowed: a local folder, or s3://bucket/folder")
    name = "/".join(part for part in url.path.split("/") if part)
    if not name:
        raise ValueError(f"{value}: name a folder of the bucket, such as s3://{url.netloc}/runs/a")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError as error:
        raise ValueError(f"{value}: object stores need pip install 'kailin_ray[s3]' ({error})") from error
    folder: Any = UPath(f"s3://{url.netloc}/{name}", **OPTIONS)
    return folder


def parse_local(value: Any) -> Path:
    """A path that must be local: it is mapped into memory, or read and written piece by piece.

    Raises ``PydanticCustomError`` for a URL, which may hold a secret.
    """
    if "://" in str(value):
        raise PydanticCustomError(SECRET, "this must be a local path; object stores serve distill, publish and report")
    if not isinstance(value, str | Path):
        raise ValueError("a path must be a text")
    return Path(value)


_as_text = PlainSerializer(str, return_type=str)
Folder = Annotated[Path, PlainValidator(parse_folder), _as_text]
"""A folder on a file system or in an object store."""
LocalPath = Annotated[Path, PlainValidator(parse_local), _as_text]
"""A path on a file system."""


def is_remote(path: Path) -> bool:
    """Whether a path is in an object store."""
    return not isinstance(path, Path)


def check_access(key: str, path: Any) -> None:
    """Raise ``ConfigError`` that names the configuration's ``key`` if a folder's object store cannot be used."""
    if path is None or not is_remote(path):
        return
    bucket, _, name = path.path.partition("/")
    try:
        path.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{name}/", MaxKeys=1)
    except Exception as error:  # whatever the store's client raises, the folder cannot be had
        raise ConfigError(f"{key}: {path}: {type(error).__name__}: {error}") from error


def log_folder(run: Path) -> Path:
    """Where a run's logs are: inside it, or for one in an object store in this machine's folder for temporary files."""
    if not is_remote(run):
        return run.absolute() / "logs"
    return Path(tempfile.gettempdir(), "kailin_ray", *Path(run.path).parts, "logs")  # type: ignore[attr-defined]


def for_arrow(paths: Sequence[Any]) -> tuple[list[str], Any]:
    """Names of files, and the file system that knows them, as Arrow and Ray Data want them; None for a local one."""
    if not paths or not is_remote(paths[0]):
        return [str(path) for path in paths], None
    return [path.path for path in paths], PyFileSystem(FSSpecHandler(paths[0].fs))


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; nothing but its footer is read yet."""
    (name,), filesystem = for_arrow([path])
    return pq.ParquetFile(name, filesystem=filesystem)


def remove(paths: Iterable[Any]) -> None:
    """Remove files; those that are gone already are no fault."""
    remote = []
    for path in paths:
        if is_remote(path):
            remote.append(path)
        else:
            path.unlink(missing_ok=True)
    if remote:
        remote[0].fs.rm([path.path for path in remote])


def upload(file: Path, path: Any) -> None:
    """Write a local file as an object, which appears whole or not at all."""
    path.fs.put_file(str(file), path.path)


def log_file(out: Path) -> Path:
    """The log beside a folder that a command makes."""
    return out.absolute().with_name(f"{out.name}.log")
