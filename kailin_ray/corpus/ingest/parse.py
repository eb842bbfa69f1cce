"""The first pass of ``ingest``: each file of citations to one Parquet file of rows, sorted by PMID.

A *bucket* is a range of PMIDs: documents of a bucket lie in one ``part-<bucket>.parquet``. Ranges, not hashes: they
never have to be cut anew as PubMed grows, and its files hold neighbours, so that most rows of one go to few buckets.
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
"""32,768 PMIDs: about 25 MB as Parquet, 1,200 of them in all of PubMed."""
ROWS_AT_ONCE = 2_000
CHARACTERS_AT_ONCE = 64 << 20
"""Of titles and abstracts: 2,000 rows hold about 3 million, but a hostile one alone may hold 10."""
RUN_ROWS, RUN_BYTES = 32_768, 128 << 20
"""Rows that are sorted together, and their bytes in Arrow: a PubMed file has 30,000, of about 80 MB."""
ROW_GROUP = 1_000

DEALT = pa.schema([*DOCUMENTS, ("deleted", pa.bool_()), ("cited", pa.bool_())])
"""A row is a citation, or the deletion of one (``deleted``, without a text). ``cited``: there was a citation of this
PMID and version, be it deleted now."""


class FileItem(TypedDict):
    """A file that is to be parsed."""

    path: str
    columns: NotRequired[dict[str, str]]
    """Of a table: the column of each field. A file without them is PubMed XML."""


class FileReport(TypedDict):
    """What became of a file."""

    name: str
    bytes: int
    modified: int
    """Nanoseconds, as the file system says."""
    sha256: str
    columns: dict[str, str] | None
    damaged: str
    """Why nothing was taken from it; else empty."""
    citations: int
    skipped: dict[str, int]
    """Records that are no citation, by reason."""
    buckets: list[int]
    """That have rows."""


def deal_file(item: FileItem, dealt: str) -> FileReport:
    """Parse one file into ``dealt/<name>.parquet``: all of the file or, if it is damaged, nothing.

    What a killed job left whole is taken as it is.
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
        known = {"bytes": state.st_size, "modified": state.st_mtime_ns, "columns": columns}
        if note.exists() and (before := read_json(note)).items() >= known.items():
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
    """Why nothing at all can be read from a file; empty if its first citation can. Cheap: reads no more than that."""
    try:
        next(_citations(path, columns, Counter()), None)
    except (DamagedFileError, OSError) as error:
        return str(error)
    return ""


def _citations(path: Path, columns: dict[str, str] | None, skipped: Counter[str]) -> Iterator[Citation]:
    return read_rows(path, columns, skipped) if columns else read_citations(path, skipped)


def tables(citations: Iterable[Citation], source: str) -> Iterator[pa.Table]:
    """Citations of the file ``source`` as tables of ``DEALT`` that fit the memory."""
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
    """``place``: that of the first."""
    values: dict[str, Sequence[Any]] = dict(zip(Citation._fields, zip(*citations, strict=True), strict=True))
    values |= {
        "source_file": [source] * len(citations),
        "place": range(place, place + len(citations)),
        "cited": [not deleted for deleted in values["deleted"]],
    }
    return pa.Table.from_arrays([column(values[field.name], field.type) for field in DEALT], schema=DEALT)


def runs(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in larger tables, each sorted by PMID, so that a bucket's rows lie together."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(len(one) for one in held) >= RUN_ROWS or sum(one.nbytes for one in held) >= RUN_BYTES:
            yield pa.concat_tables(held).sort_by("pmid")
            held = []
    if held:
        yield pa.concat_tables(held).sort_by("pmid")
