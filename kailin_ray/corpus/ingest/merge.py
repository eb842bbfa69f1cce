"""The second pass of ``ingest``: merge a bucket's existing rows with the rows of new files into its documents.

The last row of each version of a PMID is kept. For the highest version that is not deleted, the row is a document. All
other rows (deletions, lower versions) are kept in ``state/``. Nothing else is needed to ingest later files, and the
result does not depend on the order in which files are read.
"""

from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.corpus.changes import CHANGES, changes, count_changes
from kailin_ray.corpus.documents import Descriptors, descriptors, difference, has, part_name, read_part, write_part
from kailin_ray.corpus.ingest.parse import DEALT
from kailin_ray.schema import DOCUMENTS

Rows = npt.NDArray[np.int64]


class BucketItem(TypedDict):
    """A bucket to merge."""

    bucket: int
    bits: int
    dealt: list[str]
    """Paths of the parsed files that have rows of the bucket."""


class BucketReport(TypedDict):
    """The differences between a bucket before and after the merge."""

    counts: dict[str, int]
    """Differences in the numbers of ``documents``, documents ``with_mesh``, and ``deleted`` citations."""
    changes: dict[str, int]
    """Number of documents by kind of change; empty for the first update."""
    descriptors: Descriptors


def merge_bucket(item: BucketItem, out: str, folder: str, number: int) -> BucketReport:
    """Merge the rows in ``out`` and the ``dealt`` files; write a bucket's documents, state and changes to ``folder``.

    Nothing in ``out`` is touched. ``number`` is the number of the update; the first update has no changes.
    """
    name, bits = part_name(item["bucket"]), item["bits"]
    before, state = read_part(Path(out, name), DOCUMENTS), read_part(Path(out, "state", name), DEALT)
    ids = [("pmid", ">=", item["bucket"] << bits), ("pmid", "<=", ((item["bucket"] + 1) << bits) - 1)]
    dealt = [pq.read_table(file, schema=DEALT, filters=ids) for file in item["dealt"]]
    table = pa.concat_tables([_with_marks(before), state, *dealt])
    documents, others, cited = last_words(table)
    after = table.select(DOCUMENTS.names).take(pa.array(documents))
    kept = table.drop_columns("cited").take(pa.array(others)).append_column("cited", pa.array(cited))
    changed = changes(before, after) if number > 1 else CHANGES.empty_table()
    write_part(after, Path(folder), Path(out), name)
    write_part(kept, Path(folder), Path(out), f"state/{name}")
    write_part(changed, Path(folder), Path(out), f"changes/{number:04}/{name}")
    counts_before, counts_after = _counts(before, state), _counts(after, kept)
    return {
        "counts": {key: counts_after[key] - counts_before[key] for key in counts_after},
        "changes": count_changes(changed),
        "descriptors": difference(descriptors(after), descriptors(before)),
    }


def _with_marks(documents: pa.Table) -> pa.Table:
    marks = {"deleted": np.zeros(len(documents), dtype=bool), "cited": np.ones(len(documents), dtype=bool)}
    for name, values in marks.items():
        documents = documents.append_column(name, pa.array(values))
    return documents


def last_words(table: pa.Table) -> tuple[Rows, Rows, npt.NDArray[np.bool_]]:
    """Select the last row (by file name, then place) of each version of each PMID, sorted by PMID and version.

    Return the rows that are documents, which are the highest version of a PMID that is not deleted; all other rows; and
    for each other row, whether there ever was a citation of it.
    """
    names = pc.unique(table["source_file"]).to_pylist()
    file = pc.index_in(table["source_file"], pa.array(sorted(names), pa.string())).to_numpy()
    pmid, version, place = (table[name].to_numpy() for name in ("pmid", "version", "place"))
    order = np.lexsort((place, file, version, pmid))
    if not len(order):
        return order, order, np.zeros(0, dtype=bool)
    pmid, version = pmid[order], version[order]
    first = np.append(True, (pmid[1:] != pmid[:-1]) | (version[1:] != version[:-1]))
    ever = np.logical_or.reduceat(table["cited"].to_numpy()[order], np.flatnonzero(first))
    rows = order[np.append(first[1:], True)]
    alive = np.flatnonzero(~table["deleted"].to_numpy()[rows])
    alive_pmids = pmid[first][alive]
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[alive[np.append(alive_pmids[1:] != alive_pmids[:-1], True)] if len(alive) else alive] = True
    return rows[chosen], rows[~chosen], ever[~chosen]


def _counts(documents: pa.Table, others: pa.Table) -> dict[str, int]:
    return {
        "documents": len(documents),
        "with_mesh": pc.sum(has(documents, "mesh")).as_py() or 0,
        "deleted": pc.sum(pc.and_(others["deleted"], others["cited"])).as_py() or 0,
    }
