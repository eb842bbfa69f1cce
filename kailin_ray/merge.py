"""The second pass of ``ingest``: what is known of a bucket's PMIDs, and what new files say of them, to its documents.

The last word on each version of a PMID is kept: of the highest version that is not deleted as a document, of all others
(deletions, lower versions) in ``state/``. Nothing else is needed to go on with files that come later, and in whatever
order files are read, the same comes out.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.deal import BUCKET_BITS, DEALT
from kailin_ray.files import atomic_file
from kailin_ray.schema import DOCUMENTS

ROW_GROUP = 2_000
ORIGIN = ("version", "source_file", "place")
"""Columns that say where a document comes from, not what it says."""
CHANGES = pa.schema([("pmid", pa.int64()), ("change", pa.string()), ("fields", pa.list_(pa.string()))])
"""What an update did to a document: ``change`` is new, revised, retracted (revised, and retracted since) or deleted;
``fields`` are the columns that differ."""

Rows = npt.NDArray[np.int64]


def part_name(bucket: int) -> str:
    """Name of a bucket's files. Sorted by name, they are sorted by PMID."""
    return f"part-{bucket:05}.parquet"


def merge_bucket(item: dict[str, Any], out: str, folder: str, number: int) -> dict[str, Any]:
    """Write a bucket's documents, state and changes into ``folder``, from those in ``out`` and the ``dealt`` files.

    Nothing in ``out`` is touched. The report: what the bucket has more (or less) than before, of documents, of those
    with MeSH, of deleted citations, of each descriptor; and how many documents changed in which way.
    """
    name = part_name(item["bucket"])
    before, state = _read(Path(out, name), DOCUMENTS), _read(Path(out, "state", name), DEALT)
    ids = [("pmid", ">=", item["bucket"] << BUCKET_BITS), ("pmid", "<", (item["bucket"] + 1) << BUCKET_BITS)]
    dealt = [pq.read_table(file, schema=DEALT, filters=ids) for file in item["dealt"]]
    table = pa.concat_tables([_with_marks(before), state, *dealt])
    documents, others, cited = last_words(table)
    after = table.select(DOCUMENTS.names).take(pa.array(documents))
    kept = table.drop_columns("cited").take(pa.array(others)).append_column("cited", pa.array(cited))
    changed = changes(before, after) if number > 1 else CHANGES.empty_table()
    for path, rows in (name, after), (f"state/{name}", kept), (f"changes/{number:04}/{name}", changed):
        # An empty file where one is to be replaced; none where there is nothing to say.
        if len(rows) or Path(out, path).exists():
            with atomic_file(Path(folder, path)) as partial:
                pq.write_table(rows, partial, compression="zstd", row_group_size=ROW_GROUP)
    was, now = _counts(before, state), _counts(after, kept)
    kinds = pc.value_counts(changed["change"]).to_pylist()
    return {
        "counts": {key: now[key] - was[key] for key in now},
        "changes": {one["values"]: one["counts"] for one in kinds},
        "descriptors": _descriptors(before, -1) + _descriptors(after, 1),
    }


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    return pq.read_table(path, schema=schema) if path.exists() else schema.empty_table()


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


def changes(before: pa.Table, after: pa.Table) -> pa.Table:
    """What differs between documents then and now, both sorted by PMID: a table of ``CHANGES``, sorted by PMID."""
    then, now = before["pmid"].to_numpy(), after["pmid"].to_numpy()
    common, i, j = np.intersect1d(then, now, assume_unique=True, return_indices=True)
    old, new = before.take(pa.array(i)), after.take(pa.array(j))
    moved = np.zeros(len(common), dtype=bool)
    for name in ORIGIN:
        moved |= pc.not_equal(old[name], new[name]).to_numpy()
    common, old, new = common[moved], old.filter(pa.array(moved)), new.filter(pa.array(moved))
    fields: list[list[str]] = [[] for _ in common]
    for name in DOCUMENTS.names:
        if name not in ORIGIN:
            for row, (one, other) in enumerate(zip(old[name].to_pylist(), new[name].to_pylist(), strict=True)):
                if one != other:
                    fields[row].append(name)
    retracted = pc.and_not(new["retracted"], old["retracted"]).to_pylist()
    rows = [
        {"pmid": pmid, "change": "retracted" if gone else "revised", "fields": differs}
        for pmid, gone, differs in zip(common.tolist(), retracted, fields, strict=True)
        if differs
    ]
    rows += [{"pmid": pmid, "change": "new", "fields": []} for pmid in np.setdiff1d(now, then).tolist()]
    rows += [{"pmid": pmid, "change": "deleted", "fields": []} for pmid in np.setdiff1d(then, now).tolist()]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: int(row["pmid"])), CHANGES)


def has(documents: pa.Table, name: str) -> pa.Array:
    """Which documents have an ``abstract``, or ``mesh`` headings."""
    lengths = pc.list_value_length(documents["mesh"]) if name == "mesh" else pc.utf8_length(documents["abstract"])
    return pc.fill_null(pc.greater(lengths, 0), False)


def _counts(documents: pa.Table, others: pa.Table) -> dict[str, int]:
    return {
        "documents": len(documents),
        "with_mesh": pc.sum(has(documents, "mesh")).as_py() or 0,
        "deleted": pc.sum(pc.and_(others["deleted"], others["cited"])).as_py() or 0,
    }


def _descriptors(documents: pa.Table, sign: int) -> list[dict[str, Any]]:
    """Of each descriptor its UI, name, and ``sign`` times the documents that have it."""
    headings = pa.Table.from_struct_array(pc.list_flatten(documents["mesh"].combine_chunks()))
    found = headings.group_by("ui").aggregate([("ui", "count"), ("name", "max")])
    counts = pc.multiply(found["ui_count"], sign).to_pylist()
    named = zip(found["ui"].to_pylist(), found["name_max"].to_pylist(), counts, strict=True)
    return [{"ui": ui, "name": name, "documents": number} for ui, name, number in named]
