"""Read PMIDs from Parquet files, and look them up in sorted arrays."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.errors import ConfigError
from kailin_ray.io.storage import open_parquet

PMIDS = npt.NDArray[np.int64]
READERS = 16
"""Number of files that are read at the same time."""


def num_rows(file: Path) -> int:
    """Return the number of rows of a Parquet file, from its footer. Raises ``ConfigError`` for a damaged file."""
    with _name_file(file), open_parquet(file) as opened:
        return int(opened.metadata.num_rows)


def read_pmids(file: Path) -> PMIDS:
    """Return the PMIDs of a file of documents or records, in file order. Raises ``ConfigError`` for a damaged file."""
    with _name_file(file), open_parquet(file) as opened:
        return opened.read(columns=["pmid"])["pmid"].to_numpy()


def files_with(files: list[Path], pmids: PMIDS) -> list[Path]:
    """Return those of ``files`` that contain at least one of ``pmids``, a sorted array."""
    with ThreadPoolExecutor(READERS) as pool:
        flags = pool.map(lambda file: bool(among(read_pmids(file), pmids).any()), files)
        return [file for file, flag in zip(files, flags, strict=True) if flag]


@contextmanager
def _name_file(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error


def among(values: PMIDS, ordered: PMIDS) -> npt.NDArray[np.bool_]:
    """Return which of ``values`` are in ``ordered``, a sorted array."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
