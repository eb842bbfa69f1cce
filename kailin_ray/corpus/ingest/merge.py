"""The second pass of ``ingest``: what is known of a bucket's PMIDs, and what new files say of them, to its documents.

The last word on each version of a PMID is kept: of the highest version that is not deleted as a document, of all others
(deletions, lower versions) in ``state/``. Nothing else is needed to go on with files that come later, and in whatever
order files are read, the same comes out.
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
    """A bucket that is to be merged."""

    bucket: int
    bits: int
    dealt: list[str]
    """The parsed files that have rows of it."""


class BucketReport(TypedDict):
    """What a bucket has more (or less) than before."""

    counts: dict[str, int]
    """Of ``documents``, those ``with_mesh``, and ``deleted`` citations."""
    changes: dict[str, int]
    """Documents by the kind of change; empty of the first update."""
    descriptors: Descriptors


def merge_bucket(item: BucketItem, out: str, folder: str, number: int) -> BucketReport:
    """Write a bucket's documents, state and changes into ``folder``, from those in ``out`` and the ``dealt`` files.

    Nothing in ``out`` is touched. ``number``: of the update; the first one leaves changes out.
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
    was, now = _counts(before, state), _counts(after, kept)
    return {
        "counts": {key: now[key] - was[key] for key in now},
        "changes": count_changes(changed),
        "descriptors": difference(descriptors(after), descriptors(before)),
    }


def _with_marks(documents: pa.Table) -> pa.Table:
    marks = {"deleted": np.zeros(len(documents), dtype=bool), "cited": np.ones(len(documents), dtype=bool)}
    for name, values in marks.items():
        documents = documents.append_column(name, pa.array(values))
    return documents


def last_words(table: pa.Table) -> tuple[Rows, Rows, npt.NDArray[np.bool_]]:
    """Of each version of a PMID the row that came last (by file name, then place), by PMID and version.

    First the rows that are documents: of a PMID the highest version that is not deleted. Then all others, and whether
    there ever was a citation of each.
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
    of = pmid[first][alive]
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[alive[np.append(of[1:] != of[:-1], True)] if len(alive) else alive] = True
    return rows[chosen], rows[~chosen], ever[~chosen]


def _counts(documents: pa.Table, others: pa.Table) -> dict[str, int]:
    return {
        "documents": len(documents),
        "with_mesh": pc.sum(has(documents, "mesh")).as_py() or 0,
        "deleted": pc.sum(pc.and_(others["deleted"], others["cited"])).as_py() or 0,
    }
