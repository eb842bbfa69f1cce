"""The folder of documents that ``ingest`` made, as the later jobs read it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray

PMIDS = npt.NDArray[np.int64]


def first_documents(folder: Path, limit: int | None) -> tuple[list[str], int, PMIDS | None]:
    """The files that hold the first ``limit`` documents, how many documents these are, and their PMIDs, sorted.

    The PMIDs are None for all that the files hold. First is by file name, then by place: the same every time.
    """
    files = sorted(folder.absolute().glob("part-*.parquet"))
    if limit is None:
        return [str(file) for file in files], sum(pq.read_metadata(file).num_rows for file in files), None
    chosen: list[str] = []
    pmids: list[PMIDS] = []
    for file in files:
        left = limit - sum(map(len, pmids))
        if left <= 0:
            break
        chosen.append(str(file))
        pmids.append(pq.read_table(file, columns=["pmid"])["pmid"].to_numpy()[:left])
    wanted = np.sort(np.concatenate(pmids))
    return chosen, len(wanted), wanted


def among(values: PMIDS, ordered: PMIDS) -> npt.NDArray[np.bool_]:
    """Which of ``values`` are in ``ordered``, a sorted array."""
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def select_rows(block: pa.Table, wanted: Any, done: Any) -> pa.Table:
    """Those rows of a block that are wanted and not done.

    ``wanted`` (None inside for all) and ``done`` are references to sorted arrays: a node holds each once.
    """
    pmids = block["pmid"].to_numpy()
    chosen, finished = ray.get([wanted, done])
    keep = ~among(pmids, finished)
    if chosen is not None:
        keep &= among(pmids, chosen)
    return block.filter(pa.array(keep))
