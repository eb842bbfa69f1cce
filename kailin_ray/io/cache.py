"""The folder for cached copies: the platform's cache folder, or ``KAILIN_RAY_CACHE``.

Everything in it can be recreated, so a caller treats every ``OSError`` as a missing copy.
"""

import os
from contextlib import suppress
from pathlib import Path

import platformdirs

CACHE = "KAILIN_RAY_CACHE"
"""The environment variable for a folder other than the platform's (Linux: ``~/.cache/kailin_ray``)."""


def cache_folder(kind: str) -> Path:
    """Return the folder for one kind of copy; it may not exist yet.

    Raises ``FileNotFoundError`` if the user has no home directory.
    """
    if chosen := os.environ.get(CACHE):
        return Path(chosen, kind)
    try:
        return platformdirs.user_cache_path("kailin_ray") / kind
    except RuntimeError as error:  # such users are common in containers
        raise FileNotFoundError(str(error)) from error


def mark_used(path: Path) -> None:
    """Mark a copy as the most recently used."""
    with suppress(OSError):  # another user's copy can be read but not marked
        os.utime(path)


def remove_oldest(folder: Path, pattern: str, num_kept: int) -> None:
    """Keep the ``num_kept`` most recently used copies; unfinished copies of killed processes count too.

    Only files whose names match ``pattern`` are removed, because the user may have chosen a folder with other files.
    """
    ages = []
    for path in (*folder.glob(pattern), *folder.glob(f".{pattern}.*.partial")):
        with suppress(FileNotFoundError):  # another process removed it
            ages.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(ages, reverse=True)[num_kept:]:
        path.unlink(missing_ok=True)
