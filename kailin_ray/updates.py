"""A folder of documents that is made once, and in parts made anew when its source has changed.

::

    documents/
      part-<bucket>.parquet                   documents of a range of PMIDs
      changes/<update>/part-<bucket>.parquet  what that update did to them: pmid, change, fields
      state/part-<bucket>.parquet             of a corpus only: see merge.py
      descriptors.json                        each descriptor's name and number of documents
      manifest.json                           last: ``id`` stays the folder's own, ``updates`` has an entry each

New parts are made beside the folder and take their places when all of them are whole: until then it is as it was.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.config import ConfigError
from kailin_ray.files import atomic_file, atomic_folder, read_json, sync, write_json
from kailin_ray.schema import DOCUMENTS
from kailin_ray.storage import open_parquet

FORMAT = 4
"""Of the folder; to be raised with it."""
ROW_GROUP = 2_000
ORIGIN = ("version", "source_file", "place")
"""Columns that say where a document comes from, not what it says."""
CHANGES = pa.schema([("pmid", pa.int64()), ("change", pa.string()), ("fields", pa.list_(pa.string()))])
"""``change`` is new, revised, retracted (revised, and retracted since) or deleted; ``fields`` are the columns that
differ, of a revised or retracted one."""

KINDS = ("new", "revised", "retracted", "deleted")

Manifest = dict[str, Any]
Descriptors = dict[str, dict[str, Any]]
"""By UI ``name`` and number of ``documents``."""


def opened(out: Path, maker: str) -> Manifest | None:
    """The manifest of the documents in ``out``, None where there are none yet. ``maker``: ingest or select.

    An update that was stopped while its parts took their places is finished first. Raises ``ConfigError`` if ``out``
    holds something else, or documents of another maker.
    """
    finish(out.absolute())
    if (out / "manifest.json").exists():
        manifest: Manifest = read_json(out / "manifest.json")
        if manifest.get("kind") != "documents":
            raise ConfigError(f"out: {out} holds {manifest.get('kind')}, not documents; choose another")
        if manifest.get("format") != FORMAT:
            raise ConfigError(f"out: {out} was made by another version of kailin_ray; remove it, or choose another")
        if manifest["maker"] != maker:
            raise ConfigError(f"out: {out} was made by `{manifest['maker']}`; choose another")
        return manifest
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists and is not a folder of documents; choose another")
    return None


@contextmanager
def updating(out: Path) -> Iterator[Path]:
    """Yield an empty folder; if the block succeeds, its files take their places in ``out``, else it is removed."""
    out = out.absolute()
    with atomic_folder(_beside(out)) as folder:
        yield folder
    finish(out)


def noted(maker: str, made: Manifest | None, update: dict[str, Any]) -> dict[str, Any]:
    """What every manifest of documents begins with, with one update more than ``made``."""
    return {
        "kind": "documents",
        "maker": maker,
        "format": FORMAT,
        "id": made["id"] if made else uuid.uuid4().hex,
        "updates": [*(made["updates"] if made else []), update],
    }


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.update")


def finish(out: Path) -> None:
    """Move the files of a whole update, the manifest last: without it the folder counts for nothing.

    Stopped between two of them, it goes on with the others.
    """
    update = _beside(out)
    if not update.is_dir():
        return
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        for file in update.rglob("*"):
            sync(file)  # what it was made from may go then
        update.replace(out)
        return
    if (update / "manifest.json").exists():  # else all of it has moved already
        (out / "manifest.json").unlink(missing_ok=True)
        files = [file for file in update.rglob("*") if file.is_file()]
        for file in sorted(files, key=lambda file: file.name == "manifest.json"):
            target = out / file.relative_to(update)
            target.parent.mkdir(parents=True, exist_ok=True)
            sync(file)  # before the only other copy goes
            file.replace(target)
    shutil.rmtree(update)


def part_name(bucket: int) -> str:
    """Name of a bucket's files. Sorted by name, PubMed's are sorted by PMID."""
    return f"part-{bucket:05}.parquet"


def read_part(path: Path, schema: pa.Schema) -> pa.Table:
    """The rows of a part, none where there is no such file."""
    return pq.read_table(path, schema=schema) if path.exists() else schema.empty_table()


def write_part(rows: pa.Table, folder: Path, out: Path, name: str) -> None:
    """Write rows to ``folder/name``: an empty file where one of ``out`` is to be replaced, none where there is no row.

    A part has a page index and small row groups, so that rows of few PMIDs are read without the others.
    """
    if len(rows) or (out / name).exists():
        with atomic_file(folder / name) as partial:
            pq.write_table(rows, partial, compression="zstd", row_group_size=ROW_GROUP)


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


def changed_since(documents: Path, num_updates: int, fields: Iterable[str]) -> npt.NDArray[np.int64]:
    """PMIDs, sorted, of what the updates after the first ``num_updates`` deleted, or changed in one of ``fields``."""
    found = [np.zeros(0, dtype=np.int64)]
    wanted = set(fields)
    for number in range(num_updates + 1, len(read_json(documents / "manifest.json")["updates"]) + 1):
        for part in sorted((documents / "changes" / f"{number:04}").glob("*.parquet")):
            with open_parquet(part) as file:
                rows = file.read().filter(pc.field("change") != "new").to_pylist()
            pmids = [row["pmid"] for row in rows if row["change"] == "deleted" or wanted & set(row["fields"])]
            found.append(np.array(pmids, dtype=np.int64))
    return np.unique(np.concatenate(found))


def told_update(manifest: Manifest) -> str:
    """What the last update of documents changed, on one line."""
    last = manifest["updates"][-1]
    kinds = ", ".join(f"{last['changes'].get(kind, 0):,} {kind}" for kind in KINDS)
    return f"update {len(manifest['updates'])}: {kinds}; {last['parts']:,} parts made anew"


def has(documents: pa.Table, name: str) -> pa.Array:
    """Which documents have an ``abstract``, or ``mesh`` headings."""
    lengths = pc.list_value_length(documents["mesh"]) if name == "mesh" else pc.utf8_length(documents["abstract"])
    return pc.fill_null(pc.greater(lengths, 0), False)


def descriptors(documents: pa.Table) -> Descriptors:
    """Of each descriptor its name, and the documents that have it."""
    headings = pa.Table.from_struct_array(pc.list_flatten(documents["mesh"].combine_chunks()))
    found = headings.group_by("ui").aggregate([("ui", "count"), ("name", "max")])
    columns = (found[name].to_pylist() for name in ("ui", "name_max", "ui_count"))
    return {ui: {"name": name, "documents": number} for ui, name, number in zip(*columns, strict=True)}


def difference(now: Descriptors, before: Descriptors) -> Descriptors:
    """What is to be added to the counts of a folder when a part with ``before`` becomes one with ``now``."""
    counts = Counter({ui: one["documents"] for ui, one in now.items()})
    counts.subtract({ui: one["documents"] for ui, one in before.items()})
    names = before | now
    return {ui: {"name": names[ui]["name"], "documents": number} for ui, number in counts.items() if number}


def add_descriptors(total: Descriptors, more: Descriptors) -> None:
    """Add counts to others. Of several names of a descriptor, which a corpus of many years has, the last counts."""
    for ui, one in more.items():
        entry = total.setdefault(ui, {"name": one["name"], "documents": 0})
        entry |= {"name": max(entry["name"], one["name"]), "documents": entry["documents"] + one["documents"]}


def write_descriptors(folder: Path, total: Descriptors) -> None:
    """Write the counts of a folder; descriptors that no document has any more are left out."""
    write_json(folder / "descriptors.json", {ui: one for ui, one in sorted(total.items()) if one["documents"]})
