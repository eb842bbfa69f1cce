"""The first pass of ``ingest``: each file of citations to one Parquet file of rows, sorted by PMID.

A *bucket* is a range of PMIDs: documents of a bucket lie in one ``part-<bucket>.parquet``. Ranges, not hashes: they
never have to be cut anew as PubMed grows, and its files hold neighbours, so that most rows of one go to few buckets.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

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


def deal_file(item: dict[str, Any], dealt: str) -> dict[str, Any]:
    """Parse one file into ``dealt/<name>.parquet``: all of the file or, if it is damaged, nothing.

    ``item``: its ``path``, and of a table the column of each field as ``columns``; without them it is PubMed XML.

    What a killed job left whole is taken as it is. The report: name, bytes, sha256, ``damaged`` (why, or empty),
    citations, skipped (by reason), and the buckets that have rows.
    """
    path, columns = Path(item["path"]), item.get("columns")
    note = Path(dealt, f"{path.name}.json")
    report: dict[str, Any] = {"name": path.name, "bytes": 0, "sha256": "", "damaged": "", "citations": 0}
    skipped: Counter[str] = Counter()
    buckets: set[int] = set()
    try:
        state = path.stat()
        known = {"bytes": state.st_size, "modified": state.st_mtime_ns, "columns": columns}
        if note.exists() and (made := read_json(note)).items() >= known.items():
            return dict(made)
        report |= known
        report["sha256"] = sha256(path)
        with (
            atomic_file(Path(dealt, f"{path.name}.parquet")) as partial,
            pq.ParquetWriter(partial, DEALT, compression="zstd") as writer,
        ):
            citations = read_rows(path, columns, skipped) if columns else read_citations(path, skipped)
            for table in runs(tables(citations, path.name)):
                report["citations"] += int(np.count_nonzero(~table["deleted"].to_numpy()))
                buckets.update(np.unique(table["pmid"].to_numpy() >> BUCKET_BITS).tolist())
                writer.write_table(table, row_group_size=ROW_GROUP)
    except (DamagedFileError, OSError) as error:
        return report | {"damaged": str(error), "citations": 0, "skipped": {}, "buckets": []}
    report |= {"skipped": dict(skipped), "buckets": sorted(buckets)}
    write_json(note, report)
    return report


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
