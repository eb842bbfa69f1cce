"""A folder of documents, written once and updated part by part when its source changes.

::

    documents/
      part-<bucket>.parquet                   the documents of a range of PMIDs
      changes/<update>/part-<bucket>.parquet  how that update changed them: pmid, change, fields
      state/part-<bucket>.parquet             only in a corpus: see ingest/merge.py
      descriptors.json                        the name and number of documents of each descriptor
      the manifest                            written last; ``id`` never changes, ``updates`` has one entry per update

New parts are written next to the folder. They are moved into it when all of them are complete. Until then the folder
does not change.
"""

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.config.renamed import rename_keys
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, finish, write_json
from kailin_ray.io.manifests import Manifest, has_manifest, read_manifest
from kailin_ray.io.pmids import PMIDS, READERS, num_rows, read_pmids
from kailin_ray.mesh.figures import Heading, SampleFigures
from kailin_ray.schema import Json

FORMAT = 5
"""Version of the folder's format; raise it when the format changes. Since 5, settings use the keys of
``config.renamed``."""
ROW_GROUP = 2_000

Descriptors = dict[str, Heading]
"""Name and number of documents of each descriptor, by UI."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that citations were read from."""

    name: str
    bytes: int
    sha256: str
    columns: dict[str, str] | None = None
    """For a table: the column of each field."""


@dataclass(frozen=True, kw_only=True)
class DocumentsUpdate:
    """One run of the command that wrote the folder."""

    files: int | None = None
    """Number of files read; None for a selection."""
    parts: int
    """Number of parts written."""
    seconds: float
    changes: dict[str, int]
    """Number of documents by kind of change; empty for the first update."""


@dataclass(frozen=True, kw_only=True)
class SelectionInputs:
    """The inputs of a selection: a corpus after a certain update, and all settings that decide what is selected."""

    corpus: str
    corpus_updates: int
    mesh: str | None
    """Checksum of the hierarchy."""
    benchmarks: tuple[str, ...]
    """Checksums of the benchmark files."""
    filters: Json
    dedup_threshold: float | None
    subtree: tuple[str, ...]
    subtree_major_only: bool
    sample: Json
    tolerate_orphans: bool


@dataclass(frozen=True, kw_only=True)
class DocumentsManifest(Manifest):
    """The contents of a folder of documents. Some fields are set by one ``maker`` only."""

    FORMAT_VERSION: ClassVar[int] = FORMAT
    OLDEST_VERSION: ClassVar[int] = 4
    COMMAND: ClassVar[str] = "ingest"

    kind: Literal["documents"] = "documents"
    maker: Literal["ingest", "select"]
    format: int = FORMAT
    id: str
    """Identifies the folder; updates do not change it."""
    updates: tuple[DocumentsUpdate, ...]
    num_documents: int
    num_with_mesh: int
    num_citations: int
    num_left_out: dict[str, int]
    """Citations that did not become documents: ``superseded``, ``deleted``."""
    num_skipped: dict[str, int]
    """Records in the files that are not citations, by reason."""
    num_unescaped: int = 0
    """Citations of PubMed whose texts were escaped twice."""
    files: tuple[SourceFile, ...]
    versions: dict[str, str]
    config: Json
    damaged: tuple[str, ...] = ()
    """Set by ``ingest``: why the last update left files out."""
    bucket_bits: int | None = None
    """Set by ``ingest``: a bucket covers ``2**bucket_bits`` consecutive PMIDs."""
    made_from: SelectionInputs | None = None
    """Set by ``select``, as are the fields below."""
    num_considered: int | None = None
    num_removed: dict[str, int] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Paths of the benchmarks whose texts were removed from the documents, by checksum."""
    sample: SampleFigures | None = None

    @classmethod
    def upgrade(cls, values: Json) -> Json:
        """Convert the JSON of an earlier version to the current one."""
        renamed = {name: rename_keys(values.get(name)) for name in ("config", "made_from")}
        if values.get("sample"):
            design = rename_keys({"sample": values["sample"]["design"]})["sample"]
            design["size"] = design.pop("budget", design.get("size"))
            renamed["sample"] = values["sample"] | {"design": design}
        return values | renamed | {"format": FORMAT}


@dataclass(frozen=True)
class Documents:
    """A folder of documents with its manifest."""

    path: Path
    manifest: DocumentsManifest

    @classmethod
    def open(cls, path: Path, key: str = "documents") -> Self:
        """Open a folder; ``key`` is its name in the configuration. Raises ``ConfigError``."""
        return cls(path, read_manifest(path, DocumentsManifest, key))

    def parts(self) -> list[Path]:
        """Return the part files of documents, sorted by name."""
        return sorted(self.path.absolute().glob("part-*.parquet"))


def resume_documents(out: Path, maker: Literal["ingest", "select"]) -> Documents | None:
    """Open the documents that ``maker`` wrote to ``out``; return None if there are none yet.

    If an update was stopped while its parts were being moved into the folder, this is finished first. Raises
    ``ConfigError`` if ``out`` holds something else, or documents of another maker.
    """
    finish(out.absolute())
    if has_manifest(out):
        documents = Documents.open(out, "out")
        if documents.manifest.maker != maker:
            raise ConfigError(f"out: {out} was made by `{documents.manifest.maker}`; choose another")
        return documents
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists and is not a folder of documents; choose another")
    return None


def new_identity() -> str:
    """Return an id for a new folder."""
    return uuid.uuid4().hex


def part_name(bucket: int) -> str:
    """Return the file name of a bucket. Sorting PubMed's part files by name sorts their documents by PMID."""
    return f"part-{bucket:05}.parquet"


def read_part(path: Path, schema: pa.Schema) -> pa.Table:
    """Return the rows of a part; no rows if the file does not exist."""
    return pq.read_table(path, schema=schema) if path.exists() else schema.empty_table()


def write_part(rows: pa.Table, folder: Path, out: Path, name: str) -> None:
    """Write rows to ``folder/name``.

    If there are no rows, write an empty file where ``out`` has a file to replace, and no file otherwise. Row groups are
    small, so that the rows of a few PMIDs can be read without the others.
    """
    if len(rows) or (out / name).exists():
        with atomic_file(folder / name) as partial:
            pq.write_table(rows, partial, compression="zstd", row_group_size=ROW_GROUP)


def has(documents: pa.Table, name: str) -> pa.Array:
    """Return which documents have an ``abstract`` or ``mesh`` headings, whichever ``name`` says."""
    lengths = pc.list_value_length(documents["mesh"]) if name == "mesh" else pc.utf8_length(documents["abstract"])
    return pc.fill_null(pc.greater(lengths, 0), False)


def descriptors(documents: pa.Table) -> Descriptors:
    """Return the name of each descriptor and the number of documents that have it."""
    headings = pa.Table.from_struct_array(pc.list_flatten(documents["mesh"].combine_chunks()))
    counts = headings.group_by("ui").aggregate([("ui", "count"), ("name", "max")])
    columns = (counts[name].to_pylist() for name in ("ui", "name_max", "ui_count"))
    return {ui: {"name": name, "documents": number} for ui, name, number in zip(*columns, strict=True)}


def difference(now: Descriptors, before: Descriptors) -> Descriptors:
    """Return what to add to the counts of a folder when the counts of a part change from ``before`` to ``now``."""
    counts = Counter({ui: entry["documents"] for ui, entry in now.items()})
    counts.subtract({ui: entry["documents"] for ui, entry in before.items()})
    names = before | now
    return {ui: {"name": names[ui]["name"], "documents": number} for ui, number in counts.items() if number}


def add_descriptors(total: Descriptors, more: Descriptors) -> None:
    """Add the counts in ``more`` to ``total``.

    A descriptor can have several names in a corpus of many years. The alphabetically last one is kept.
    """
    for ui, added in more.items():
        entry = total.setdefault(ui, {"name": added["name"], "documents": 0})
        entry["name"] = max(entry["name"], added["name"])
        entry["documents"] += added["documents"]


def write_descriptors(folder: Path, total: Descriptors) -> None:
    """Write the counts of a folder, except descriptors that no document has any more."""
    write_json(folder / "descriptors.json", {ui: entry for ui, entry in sorted(total.items()) if entry["documents"]})


def first_documents(documents: Documents, limit: int | None) -> tuple[list[Path], int, PMIDS | None]:
    """Return the files that hold the first ``limit`` documents, the number of these documents, and their sorted PMIDs.

    The PMIDs are None if ``limit`` is None, which means all documents. Documents are ordered by file name, then by
    place in the file, so the result is the same every time. Raises ``ConfigError`` that names an unreadable file.
    """
    files = documents.parts()
    if limit is None:
        with ThreadPoolExecutor(READERS) as pool:
            return files, sum(pool.map(num_rows, files)), None
    chosen: list[Path] = []
    pmids: list[PMIDS] = []
    for file in files:
        remaining = limit - sum(map(len, pmids))
        if remaining <= 0:
            break
        chosen.append(file)
        pmids.append(read_pmids(file)[:remaining])
    first_pmids = np.sort(np.concatenate(pmids))
    return chosen, len(first_pmids), first_pmids
