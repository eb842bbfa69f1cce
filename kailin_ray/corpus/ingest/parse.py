"""The first pass of ``ingest``: parse each file of citations into one Parquet file of rows, sorted by PMID in runs.

A *bucket* is a range of PMIDs; its documents are in one ``part-<bucket>.parquet``. Ranges, unlike hashes, never have to
be split again as PubMed grows. Files of PubMed hold neighbouring PMIDs, so most rows of a file go to few buckets.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.corpus.readers.arrow_columns import column
from kailin_ray.corpus.readers.citation import Citation
from kailin_ray.corpus.readers.gc_pause import no_search
from kailin_ray.corpus.readers.pubmed_xml import DamagedFileError, read_citations
from kailin_ray.corpus.readers.tables import read_rows
from kailin_ray.io.files import atomic_file, read_json, sha256, write_json
from kailin_ray.schema import DOCUMENTS

BUCKET_BITS = 15
"""A bucket covers 32,768 PMIDs, which is about 25 MB as Parquet. All of PubMed has 1,200 buckets."""
ROWS_AT_ONCE = 2_000
CHARACTERS_AT_ONCE = 64 << 20
"""Characters of titles and abstracts: 2,000 rows hold about 3 million, but one hostile row may hold 10 million."""
RUN_ROWS, RUN_BYTES = 32_768, 128 << 20
"""Rows that are sorted together, and their size in Arrow. A PubMed file has 30,000 rows of about 80 MB."""
ROW_GROUP = 1_000

DEALT = pa.schema([*DOCUMENTS, ("deleted", pa.bool_()), ("cited", pa.bool_())])
"""A row is a citation, or the deletion of a citation (``deleted``, without text). ``cited``: there was a citation of
this PMID and version, even if it is deleted now."""


class FileItem(TypedDict):
    """A file to parse."""

    path: str
    columns: NotRequired[dict[str, str]]
    """For a table: the column of each field. A file without columns is PubMed XML."""


class FileReport(TypedDict):
    """The result of parsing a file."""

    name: str
    bytes: int
    modified: int
    """Modification time in nanoseconds, from the file system."""
    sha256: str
    columns: dict[str, str] | None
    damaged: str
    """Why the file could not be read; empty if it was read."""
    citations: int
    skipped: dict[str, int]
    """Records that are not citations, by reason; and citations that were ``UNESCAPED``."""
    buckets: list[int]
    """Buckets that the file has rows of."""


def deal_file(item: FileItem, dealt: str) -> FileReport:
    """Parse one file into ``dealt/<name>.parquet``: all of it, or nothing if it is damaged.

    A file that a killed job parsed completely is not parsed again.
    """
    path, columns = Path(item["path"]), item.get("columns")
    note = Path(dealt, f"{path.name}.json")
    report: FileReport = {
        "name": path.name, "bytes": 0, "modified": 0, "sha256": "", "columns": columns, "damaged": "", "citations": 0,
        "skipped": {}, "buckets": [],
    }  # fmt: skip
    skipped: Counter[str] = Counter()
    buckets: set[int] = set()
    try:
        state = path.stat()
        identity = {"bytes": state.st_size, "modified": state.st_mtime_ns, "columns": columns}
        if note.exists() and (before := read_json(note)).items() >= identity.items():
            parsed: FileReport = before
            return parsed
        report["bytes"], report["modified"], report["sha256"] = state.st_size, state.st_mtime_ns, sha256(path)
        with (
            atomic_file(Path(dealt, f"{path.name}.parquet")) as partial,
            pq.ParquetWriter(partial, DEALT, compression="zstd") as writer,
        ):
            for table in runs(tables(_citations(path, columns, skipped), path.name)):
                report["citations"] += int(np.count_nonzero(~table["deleted"].to_numpy()))
                buckets.update(np.unique(table["pmid"].to_numpy() >> BUCKET_BITS).tolist())
                writer.write_table(table, row_group_size=ROW_GROUP)
    except (DamagedFileError, OSError) as error:
        report["damaged"], report["citations"] = str(error), 0
        return report
    report["skipped"], report["buckets"] = dict(skipped), sorted(buckets)
    write_json(note, report)
    return report


def find_damage(path: Path, columns: dict[str, str] | None) -> str:
    """Return why a file cannot be read; empty if its first citation can be read. Cheap, because it reads no further."""
    try:
        next(_citations(path, columns, Counter()), None)
    except (DamagedFileError, OSError) as error:
        return str(error)
    return ""


def _citations(path: Path, columns: dict[str, str] | None, skipped: Counter[str]) -> Iterator[Citation]:
    return read_rows(path, columns, skipped) if columns else read_citations(path, skipped)


def tables(citations: Iterable[Citation], source: str) -> Iterator[pa.Table]:
    """Yield the citations of the file ``source`` as tables of ``DEALT`` that fit in memory."""
    chunk: list[Citation] = []
    characters = place = 0
    for citation in citations:
        chunk.append(citation)
        characters += len(citation.title or "") + 2 * len(citation.abstract or "")  # as text and as sections
        if len(chunk) == ROWS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield _table(chunk, source, place)
            place += len(chunk)
            chunk, characters = [], 0
    if chunk:
        yield _table(chunk, source, place)


@no_search()
def _table(citations: list[Citation], source: str, place: int) -> pa.Table:
    """Return a table of ``DEALT``. ``place`` is that of the first citation."""
    values: dict[str, Sequence[Any]] = dict(zip(Citation._fields, zip(*citations, strict=True), strict=True))
    values |= {
        "source_file": [source] * len(citations),
        "place": range(place, place + len(citations)),
        "cited": [not deleted for deleted in values["deleted"]],
    }
    return pa.Table.from_arrays([column(values[field.name], field.type) for field in DEALT], schema=DEALT)


def runs(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in larger tables, each sorted by PMID, so that rows of a bucket are next to each other."""
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(len(rows) for rows in pending) >= RUN_ROWS or sum(rows.nbytes for rows in pending) >= RUN_BYTES:
            yield pa.concat_tables(pending).sort_by("pmid")
            pending = []
    if pending:
        yield pa.concat_tables(pending).sort_by("pmid")
