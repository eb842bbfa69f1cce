"""The folder for copies that save work: the platform's cache folder, or ``KAILIN_RAY_CACHE``.

Whatever lies there can be made again. So a caller treats every ``OSError`` as a copy that is not there.
"""

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

CACHE = "KAILIN_RAY_CACHE"
"""The environment variable that names another folder than the platform's (Linux: ``~/.cache/kailin_ray``)."""


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of copies; it need not exist.

    Raises ``FileNotFoundError`` where the user has no home directory.
    """
    if chosen := os.environ.get(CACHE):
        return Path(chosen, kind)
    try:
        return platformdirs.user_cache_path("kailin_ray") / kind
    except RuntimeError as error:  # such a user is usual in containers
        raise FileNotFoundError(str(error)) from error


def mark_used(path: Path) -> None:
    """Let a copy count as the newest."""
    with suppress(OSError):  # another user's copy can be read and not marked
        os.utime(path)


def remove_oldest(folder: Path, pattern: str, num_kept: int) -> None:
    """Keep the ``num_kept`` copies that were used last; unfinished ones of killed processes count, too.

    Only files whose names match ``pattern`` are touched, as the user may have named a folder with other files.
    """
    ages = []
    for path in (*folder.glob(pattern), *folder.glob(f".{pattern}.*.partial")):
        with suppress(FileNotFoundError):  # another process removed it
            ages.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(ages, reverse=True)[num_kept:]:
        path.unlink(missing_ok=True)
