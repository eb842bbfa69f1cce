"""A folder of documents that is made once, and in parts made anew when its source has changed.

::

    documents/
      part-<bucket>.parquet                   documents of a range of PMIDs
      changes/<update>/part-<bucket>.parquet  what that update did to them: pmid, change, fields
      state/part-<bucket>.parquet             of a corpus only: see ingest/merge.py
      descriptors.json                        each descriptor's name and number of documents
      its manifest                            last: ``id`` stays the folder's own, ``updates`` has an entry each

New parts are made beside the folder and take their places when all of them are whole: until then it is as it was.
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

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file, finish, write_json
from kailin_ray.io.manifests import Manifest, has_manifest, read_manifest
from kailin_ray.io.pmids import PMIDS, READERS, num_rows, read_pmids
from kailin_ray.mesh.figures import Heading, SampleFigures
from kailin_ray.schema import Json

FORMAT = 4
"""Of the folder; to be raised with it."""
ROW_GROUP = 2_000

Descriptors = dict[str, Heading]
"""By UI."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file that citations were taken from."""

    name: str
    bytes: int
    sha256: str
    columns: dict[str, str] | None = None
    """Of a table: the column of each field."""


@dataclass(frozen=True, kw_only=True)
class DocumentsUpdate:
    """One run of the command that made the folder."""

    files: int | None = None
    """Files that it took in; None of a selection."""
    parts: int
    """Parts that it wrote."""
    seconds: float
    changes: dict[str, int]
    """Documents by the kind of change; empty for the first."""


@dataclass(frozen=True, kw_only=True)
class SelectionInputs:
    """What a selection was made from: a corpus at one of its updates, and every setting that says what is chosen."""

    corpus: str
    corpus_updates: int
    mesh: str | None
    """Checksum of the hierarchy."""
    benchmarks: tuple[str, ...]
    """Checksums of the files."""
    filters: Json
    duplicates: Json
    subtree: tuple[str, ...]
    subtree_major: bool
    sample: Json
    tolerate_orphans: bool


@dataclass(frozen=True, kw_only=True)
class DocumentsManifest(Manifest):
    """What a folder of documents holds. Some fields are only of one ``maker``."""

    FORMAT_VERSION: ClassVar[int] = FORMAT
    OLDEST_VERSION: ClassVar[int] = FORMAT
    COMMAND: ClassVar[str] = "ingest"

    kind: Literal["documents"] = "documents"
    maker: Literal["ingest", "select"]
    format: int = FORMAT
    id: str
    """The folder's own; it stays the same through all updates."""
    updates: tuple[DocumentsUpdate, ...]
    num_documents: int
    num_with_mesh: int
    num_citations: int
    num_left_out: dict[str, int]
    """Citations that are no documents: ``superseded``, ``deleted``."""
    num_skipped: dict[str, int]
    """Records of the files that are no citation, by reason."""
    files: tuple[SourceFile, ...]
    versions: dict[str, str]
    config: Json
    damaged: tuple[str, ...] = ()
    """Of ``ingest``: why files were left out by the last update."""
    bucket_bits: int | None = None
    """Of ``ingest``: bits of a PMID that a bucket holds."""
    made_from: SelectionInputs | None = None
    """Of ``select``, as the next ones are."""
    num_considered: int | None = None
    num_removed: dict[str, int] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Paths of the benchmarks that the documents were cleaned of, by checksum."""
    sample: SampleFigures | None = None


@dataclass(frozen=True)
class Documents:
    """A folder of documents with its manifest."""

    path: Path
    manifest: DocumentsManifest

    @classmethod
    def open(cls, path: Path, key: str = "documents") -> Self:
        """Open a folder; ``key`` is the configuration's name for it. Raises ``ConfigError``."""
        return cls(path, read_manifest(path, DocumentsManifest, key))

    def parts(self) -> list[Path]:
        """The files of the documents, by name."""
        return sorted(self.path.absolute().glob("part-*.parquet"))


def resume_documents(out: Path, maker: Literal["ingest", "select"]) -> Documents | None:
    """Open the documents that ``maker`` made in ``out``; None where there are none yet.

    An update that was stopped while its parts took their places is finished first. Raises ``ConfigError`` if ``out``
    holds something else, or documents of another maker.
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
    """An id for a folder that is made for the first time."""
    return uuid.uuid4().hex


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
        entry["name"] = max(entry["name"], one["name"])
        entry["documents"] += one["documents"]


def write_descriptors(folder: Path, total: Descriptors) -> None:
    """Write the counts of a folder; descriptors that no document has any more are left out."""
    write_json(folder / "descriptors.json", {ui: one for ui, one in sorted(total.items()) if one["documents"]})


def first_documents(documents: Documents, limit: int | None) -> tuple[list[Path], int, PMIDS | None]:
    """The files that hold the first ``limit`` documents, how many documents these are, and their PMIDs, sorted.

    The PMIDs are None for all that the files hold. First is by file name, then by place: the same every time.
    Raises ``ConfigError`` that names a file that cannot be read.
    """
    files = documents.parts()
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
