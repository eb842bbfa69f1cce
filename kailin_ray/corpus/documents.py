"""A folder of documents that is made once, and in parts made anew when its source has changed.

::

    documents/
      part-<bucket>.parquet                   documents of a range of PMIDs
      changes/<update>/part-<bucket>.parquet  what that update did to them: pmid, change, fields
      state/part-<bucket>.parquet             of a corpus only: see ingest/merge.py
      descriptors.json                        each descriptor's name and number of documents
      manifest.json                           last: ``id`` stays the folder's own, ``updates`` has an entry each

New parts are made beside the folder and take their places when all of them are whole: until then it is as it was.
"""

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, finish, read_json, write_json
from kailin_ray.io.pmids import PMIDS, READERS, num_rows, read_pmids

FORMAT = 4
"""Of the folder; to be raised with it."""
ROW_GROUP = 2_000

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


def noted(maker: str, made: Manifest | None, update: dict[str, Any]) -> dict[str, Any]:
    """What every manifest of documents begins with, with one update more than ``made``."""
    return {
        "kind": "documents",
        "maker": maker,
        "format": FORMAT,
        "id": made["id"] if made else uuid.uuid4().hex,
        "updates": [*(made["updates"] if made else []), update],
    }


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


def first_documents(folder: Path, limit: int | None) -> tuple[list[Path], int, PMIDS | None]:
    """The files that hold the first ``limit`` documents, how many documents these are, and their PMIDs, sorted.

    The PMIDs are None for all that the files hold. First is by file name, then by place: the same every time.
    Raises ``ConfigError`` that names a file that cannot be read.
    """
    files = sorted(folder.absolute().glob("part-*.parquet"))
    if limit is None:
        with ThreadPoolExecutor(READERS) as pool:
            return files, sum(pool.map(num_rows, files)), None
    chosen: list[Path] = []
    pmids: list[PMIDS] = []
    for file in files:
        left = limit - sum(map(len, pmids))
        if left <= 0:
            break
        chosen.append(file)
        pmids.append(read_pmids(file)[:left])
    wanted = np.sort(np.concatenate(pmids))
    return chosen, len(wanted), wanted
