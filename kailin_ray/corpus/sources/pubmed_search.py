"""Fetch articles from E-utilities in batches, and keep them as PubMed XML files, which are read like any others.

A note stores the request and its PMIDs, so that an interrupted fetch resumes with the same PMIDs. File names contain
the time of the request. If the request is repeated later, its files have later names, so their rows replace earlier
rows.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from kailin_ray.config import Pmids, PubmedQuery
from kailin_ray.corpus.sources.entrez import Eutils, read_pmids
from kailin_ray.errors import ConfigError
from kailin_ray.io.compressed import read_lines
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.terminal import progress_bar

BATCH = 200
"""PMIDs per request, as NCBI advises."""
MAX_LINE = 1 << 20
"""Characters of a line in a list of PMIDs."""


def query_files(source: PubmedQuery, folder: Path, terminal: TextIO) -> list[Path]:
    """Return the files in ``folder`` with the articles that PubMed finds; fetch the missing files.

    Raises ``ConfigError`` for a bad query, and ``WebError`` if NCBI fails.
    """
    client = Eutils(source.base_url, source.email)

    def find() -> list[int]:
        pmids, num_results = client.search(source.query, source.max_results)
        if len(pmids) < num_results:
            print(f"source.query: PubMed finds {num_results:,} articles, {len(pmids):,} are taken", file=terminal)
        return pmids

    request = {"query": source.query, "max_results": source.max_results}
    return _fetch_pmids("pubmed_query", request, find, client, folder, terminal)


def pmid_files(source: Pmids, folder: Path, terminal: TextIO) -> list[Path]:
    """Return the files in ``folder`` with the listed articles; fetch the missing files.

    Raises ``ConfigError`` for a bad list, and ``WebError`` if NCBI fails.
    """
    pmids = read_list(source.path, source.column)
    digest = hashlib.sha256(json.dumps(pmids).encode()).hexdigest()
    client = Eutils(source.base_url, source.email)
    return _fetch_pmids("pubmed_pmids", {"pmids": digest}, lambda: pmids, client, folder, terminal)


def read_list(path: Path, column: str | None) -> list[int]:
    """Return the distinct PMIDs of a text file, one per line, or of a CSV column.

    Raises ``ConfigError`` that names the line.
    """
    pmids: dict[int, None] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            for line, cell in _cells(path, text, column):
                if not (cell.isascii() and cell.isdigit() and len(cell) < 20 and int(cell)):
                    raise ConfigError(f"source.path: {path}, line {line}: {cell[:40]!r} is not a PMID")
                pmids[int(cell)] = None
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"source.path: {path}: {getattr(error, 'strerror', None) or error}") from error
    if not pmids:
        raise ConfigError(f"source.path: {path}: no PMID in it")
    return list(pmids)


def _cells(path: Path, text: TextIO, column: str | None) -> Iterator[tuple[int, str]]:
    lines = read_lines(text, MAX_LINE)
    if column is None:
        yield from ((number, cell) for number, line in enumerate(lines, start=1) if (cell := line.strip()))
        return
    rows = csv.DictReader(lines)
    names = rows.fieldnames or []
    if column not in names:
        raise ConfigError(f"source.column: {path} has no column {column!r}; there are: {', '.join(names) or 'none'}")
    yield from ((rows.line_num, cell) for row in rows if (cell := (row[column] or "").strip()))


def _fetch_pmids(
    kind: str,
    request: Mapping[str, str | int | None],
    find: Callable[[], list[int]],
    client: Eutils,
    folder: Path,
    terminal: TextIO,
) -> list[Path]:
    digest = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:8]
    path = folder / f"{kind}-{digest}.json"
    with hold_lock(path):
        if path.exists():
            note = read_json(path)
        else:
            begun = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
            note = {"asked": request, "begun": begun, "pmids": find(), "remarks": client.remarks, "not_given": None}
            write_json(path, note)
        batches = {
            folder / f"{kind}-{note['begun']}-{digest}-{at // BATCH + 1:06}.xml.gz": note["pmids"][at : at + BATCH]
            for at in range(0, len(note["pmids"]), BATCH)
        }
        if note["not_given"] is None or not all(file.exists() for file in batches):
            note["not_given"] = _fetch(client, batches, terminal)
            write_json(path, note)
    for remark in note.get("remarks", ()):
        print(f"source.query: NCBI says: {remark}", file=terminal)
    if missing := note["not_given"]:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        print(
            f"source: NCBI returned no article for {len(missing):,} of {len(note['pmids']):,} PMIDs: {shown}",
            file=terminal,
        )
    return list(batches)


def _fetch(client: Eutils, batches: dict[Path, list[int]], terminal: TextIO) -> list[int]:
    """Fetch the missing batches; return the PMIDs of all batches for which NCBI returned no article."""
    missing = []
    with progress_bar(terminal, "ingest: fetched", sum(map(len, batches.values())), unit=" articles") as bar:
        for file, pmids in batches.items():
            pmids_in_file = read_pmids(file) if file.exists() else client.fetch(pmids, file)
            missing += [pmid for pmid in pmids if pmid not in pmids_in_file]
            bar.update(len(pmids))
    return missing
