"""What an update changed in a folder of documents."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.corpus.documents import Documents, DocumentsManifest
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import DOCUMENTS

ORIGIN = ("version", "source_file", "place")
"""Columns that say where a document comes from, not what it says."""
CHANGES = pa.schema([("pmid", pa.int64()), ("change", pa.string()), ("fields", pa.list_(pa.string()))])
"""``change`` is new, revised, retracted (revised, and retracted since) or deleted; ``fields`` are the columns that
differ, of a revised or retracted one."""

KINDS = ("new", "revised", "retracted", "deleted")


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


def count_changes(changed: pa.Table) -> dict[str, int]:
    """How many documents changed in which way."""
    return {one["values"]: one["counts"] for one in pc.value_counts(changed["change"]).to_pylist()}


def find_changes(documents: Documents, num_updates: int, fields: Iterable[str]) -> npt.NDArray[np.int64]:
    """PMIDs, sorted, of what the updates after the first ``num_updates`` deleted, or changed in one of ``fields``."""
    found = [np.zeros(0, dtype=np.int64)]
    wanted = set(fields)
    for number in range(num_updates + 1, len(documents.manifest.updates) + 1):
        for part in sorted((documents.path / "changes" / f"{number:04}").glob("*.parquet")):
            with open_parquet(part) as file:
                rows = file.read().filter(pc.field("change") != "new").to_pylist()
            pmids = [row["pmid"] for row in rows if row["change"] == "deleted" or wanted & set(row["fields"])]
            found.append(np.array(pmids, dtype=np.int64))
    return np.unique(np.concatenate(found))


def format_update(manifest: DocumentsManifest) -> str:
    """What the last update of documents changed, on one line."""
    last = manifest.updates[-1]
    kinds = ", ".join(f"{last.changes.get(kind, 0):,} {kind}" for kind in KINDS)
    return f"update {len(manifest.updates)}: {kinds}; {last.parts:,} parts made anew"
