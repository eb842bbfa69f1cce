"""Folders on a file system or in an S3 object store, and the differences between the two.

A local folder is a ``pathlib.Path``; a folder in a store (``s3://bucket/runs/a``) is a ``upath.UPath``. Both have the
same methods, so the rest of the code and its types use ``Path``. A store has no rename, but an object appears whole or
not at all. The address of the store and the credentials come only from the environment (``AWS_ACCESS_KEY_ID``,
``AWS_PROFILE``, ``AWS_ENDPOINT_URL`` ...), so that no saved configuration contains a secret.
"""

import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import pyarrow.parquet as pq
from pyarrow import ArrowInvalid
from pyarrow.fs import FSSpecHandler, PyFileSystem
from pydantic import PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from kailin_ray.errors import ConfigError

SECRET = "secret"  # noqa: S105 the type of an error
"""Type of the error whose input must not be shown."""
OPTIONS: dict[str, Any] = {"use_listings_cache": False, "default_cache_type": "none"}
"""No caches: others write to a folder too. Arrow asks for exactly what it needs, and read-ahead would fetch whole
files."""


def parse_folder(value: Any) -> Path:
    """Return a configured folder, local or in an object store; its name may not contain a secret.

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
    name = "/".join(piece for piece in url.path.split("/") if piece)
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
    """Return a path that must be local, because it is memory-mapped, or read and written piece by piece.

    Raises ``PydanticCustomError`` for a URL, which may hold a secret.
    """
    if "://" in str(value):
        raise PydanticCustomError(
            SECRET, "this must be a local path; object stores work for distill, publish and report"
        )
    if not isinstance(value, str | Path):
        raise ValueError("a path must be a text")
    return Path(value)


_as_text = PlainSerializer(str, return_type=str)
Folder = Annotated[Path, PlainValidator(parse_folder), _as_text]
"""A folder on a file system or in an object store."""
LocalPath = Annotated[Path, PlainValidator(parse_local), _as_text]
"""A path on a file system."""


def is_remote(path: Path) -> bool:
    """Return whether a path is in an object store."""
    return not isinstance(path, Path)


def check_access(key: str, path: Any) -> None:
    """Raise ``ConfigError`` that names the configuration key ``key`` if a folder's object store cannot be used."""
    if path is None or not is_remote(path):
        return
    bucket, _, name = path.path.partition("/")
    try:
        path.fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{name}/", MaxKeys=1)
    except Exception as error:  # whatever the store's client raises, the folder cannot be used
        raise ConfigError(f"{key}: {path}: {type(error).__name__}: {error}") from error


def log_folder(run: Path) -> Path:
    """Return the folder of a run's logs: inside it, or this process's own temporary folder for an object store.

    Only this user may enter such a folder, and nobody can know its name before: other users write in the machine's
    temporary folder too, and could otherwise put a link where the log goes.
    """
    if not is_remote(run):
        return run.absolute() / "logs"
    return _temporary_log_folder(run.path)  # type: ignore[attr-defined]


@cache
def _temporary_log_folder(path: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"kailin_ray-{path.rpartition('/')[2]}-"))


def for_arrow(paths: Sequence[Any]) -> tuple[list[str], Any]:
    """Return the names of files and their file system (None if local), as Arrow and Ray Data take them."""
    if not paths or not is_remote(paths[0]):
        return [str(path) for path in paths], None
    return [path.path for path in paths], PyFileSystem(FSSpecHandler(paths[0].fs))


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file; only its footer is read at first. Raises ``ConfigError`` that names a damaged file."""
    (name,), filesystem = for_arrow([path])
    try:
        return pq.ParquetFile(name, filesystem=filesystem)
    except ArrowInvalid as error:
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error


def remove(paths: Iterable[Any]) -> None:
    """Remove files; missing files are not an error."""
    remote = []
    for path in paths:
        if is_remote(path):
            remote.append(path)
        else:
            path.unlink(missing_ok=True)
    if remote:
        remote[0].fs.rm([path.path for path in remote])


def upload(file: Path, path: Any) -> None:
    """Upload a local file as an object, which appears whole or not at all."""
    path.fs.put_file(str(file), path.path)


def log_file(out: Path) -> Path:
    """Return the log file next to a folder that a command creates."""
    return out.absolute().with_name(f"{out.name}.log")
