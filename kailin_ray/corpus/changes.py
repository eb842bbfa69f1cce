"""The changes that an update makes to a folder of documents."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.corpus.documents import Documents, DocumentsManifest
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import DOCUMENTS

ORIGIN = ("version", "source_file", "place")
"""Columns about where a document comes from; the other columns are its content."""
CHANGES = pa.schema([("pmid", pa.int64()), ("change", pa.string()), ("fields", pa.list_(pa.string()))])
"""``change`` is new, revised, retracted (revised, and now marked as retracted) or deleted. ``fields`` lists the columns
that differ, for a revised or retracted document."""

KINDS = ("new", "revised", "retracted", "deleted")


def changes(before: pa.Table, after: pa.Table) -> pa.Table:
    """Compare two versions of the same documents; return a table of ``CHANGES``, sorted by PMID.

    ``before`` and ``after`` must be sorted by PMID.
    """
    pmids_before, pmids_after = before["pmid"].to_numpy(), after["pmid"].to_numpy()
    common, i, j = np.intersect1d(pmids_before, pmids_after, assume_unique=True, return_indices=True)
    old, new = before.take(pa.array(i)), after.take(pa.array(j))
    moved = np.zeros(len(common), dtype=bool)
    for name in ORIGIN:
        moved |= pc.not_equal(old[name], new[name]).to_numpy()
    common, old, new = common[moved], old.filter(pa.array(moved)), new.filter(pa.array(moved))
    fields: list[list[str]] = [[] for _ in common]
    for name in DOCUMENTS.names:
        if name not in ORIGIN:
            for row, (old_value, new_value) in enumerate(
                zip(old[name].to_pylist(), new[name].to_pylist(), strict=True)
            ):
                if old_value != new_value:
                    fields[row].append(name)
    retracted = pc.and_not(new["retracted"], old["retracted"]).to_pylist()
    rows = [
        {"pmid": pmid, "change": "retracted" if is_retracted else "revised", "fields": changed_fields}
        for pmid, is_retracted, changed_fields in zip(common.tolist(), retracted, fields, strict=True)
        if changed_fields
    ]
    rows += [{"pmid": pmid, "change": "new", "fields": []} for pmid in np.setdiff1d(pmids_after, pmids_before).tolist()]
    rows += [
        {"pmid": pmid, "change": "deleted", "fields": []} for pmid in np.setdiff1d(pmids_before, pmids_after).tolist()
    ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: int(row["pmid"])), CHANGES)


def count_changes(changed: pa.Table) -> dict[str, int]:
    """Return the number of documents by kind of change."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(changed["change"]).to_pylist()}


def find_changes(documents: Documents, num_updates: int, fields: Iterable[str]) -> npt.NDArray[np.int64]:
    """Return the sorted PMIDs of documents that were deleted, or changed in one of ``fields``, by later updates.

    Later updates are those after the first ``num_updates``.
    """
    changed = [np.zeros(0, dtype=np.int64)]
    relevant = set(fields)
    for number in range(num_updates + 1, len(documents.manifest.updates) + 1):
        for part in sorted((documents.path / "changes" / f"{number:04}").glob("*.parquet")):
            with open_parquet(part) as file:
                rows = file.read().filter(pc.field("change") != "new").to_pylist()
            pmids = [row["pmid"] for row in rows if row["change"] == "deleted" or relevant & set(row["fields"])]
            changed.append(np.array(pmids, dtype=np.int64))
    return np.unique(np.concatenate(changed))


def format_update(manifest: DocumentsManifest) -> str:
    """Return a one-line summary of the last update."""
    last = manifest.updates[-1]
    kinds = ", ".join(f"{last.changes.get(kind, 0):,} {kind}" for kind in KINDS)
    return f"update {len(manifest.updates)}: {kinds}; {last.parts:,} parts rewritten"
