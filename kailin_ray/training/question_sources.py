"""Read abstracts with one question each from published data: BioASQ, PubMedQA, any table.

A row has ``pmid`` (or None), ``title``, ``abstract`` and ``question``.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset

from kailin_ray.config import BioAsqFile, PubMedQaFile, QuestionRows
from kailin_ray.corpus.documents import Documents
from kailin_ray.corpus.overlap.benchmark_files import read_items, read_rows
from kailin_ray.corpus.readers.tables import is_missing
from kailin_ray.errors import ConfigError
from kailin_ray.io.pmids import among, num_rows
from kailin_ray.schema import Row

FILES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


def read_questions(source: QuestionRows | PubMedQaFile | BioAsqFile, cache: Path) -> list[Row]:
    """Return all rows of a source; ``cache``: see ``load_splits``. Raises ``ConfigError`` if it lacks something."""
    read = {"columns": partial(_columns, cache=cache), "pubmedqa": _pubmedqa, "bioasq": _bioasq}[source.kind]
    rows = [row for row in read(source) if row["abstract"] and row["question"]]  # type: ignore[operator]
    if not rows:
        raise ConfigError(f"data.path: {source.path} has no abstract with a question")
    return rows


def load_splits(path: str, name: str | None, revision: str | None, cache: Path) -> dict[str, Dataset]:
    """Return the splits of a folder, a file or a hub dataset. Raises ``ConfigError`` if it cannot be loaded.

    Local data is prepared in ``cache``, which must be new. The library's own cache identifies a folder by its name and
    its README's configs, so it would return the data of another folder of that name (datasets 5.2).
    """
    file = Path(path)
    cache_option = {"cache_dir": str(cache)} if file.exists() else {}
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    for part in sorted((file / (name or "")).rglob("*.parquet")) if file.is_dir() else ():
        try:
            num_rows(part)
        except ConfigError as error:  # the library does not say which file it is
            raise ConfigError(f"data.path: {error}") from error
    try:
        if file.is_file():
            if suffix not in FILES:
                raise ValueError(
                    f"its name ends in {suffix or 'no suffix'}; allowed: {', '.join(FILES)}, each also .gz"
                )
            return dict(load_dataset(FILES[suffix], data_files=str(file), **cache_option))
        return dict(load_dataset(path, name, revision=revision, **cache_option))
    except Exception as error:  # whatever the library raises, the dataset cannot be loaded
        raise ConfigError(f"data.path: {path}: {' '.join(str(error).split())[:300]}") from error


def _columns(source: QuestionRows, cache: Path) -> Iterator[Row]:
    splits = load_splits(source.path, source.name, source.revision, cache)
    if source.split not in splits:
        raise ConfigError(f"data.split: {source.path} has no split {source.split!r}; there are: {', '.join(splits)}")
    rows, columns = splits[source.split], vars(source.columns)
    for field, column in columns.items():
        if column and column not in rows.column_names:
            names = ", ".join(rows.column_names)
            raise ConfigError(f"data.columns.{field}: {source.path} has no column {column!r}; there are: {names}")
    for row in rows:
        cells = {field: row[column] if column else None for field, column in columns.items()}
        values = {field: None if is_missing(cell) else cell for field, cell in cells.items()}
        yield values | {"title": values["title"] or "", "pmid": _number(values["pmid"])}


def _number(pmid: Any) -> int | None:
    if isinstance(pmid, float) and pmid.is_integer():  # pandas writes whole numbers so if a column has gaps
        pmid = int(pmid)
    return int(pmid) if str(pmid or "").isdigit() else None


def _pubmedqa(source: PubMedQaFile) -> Iterator[Row]:
    """Yield rows without a title: PubMedQA's question is the article's title."""
    for key, value in read_rows(source.path):
        item = value.get("item", value) if isinstance(value, dict) else {}
        item = {name.upper(): content for name, content in item.items()} if isinstance(item, dict) else {}
        contexts = item.get("CONTEXTS", item.get("CONTEXT"))
        if isinstance(contexts, dict):  # on the hub: {"contexts": [...], "labels": [...]}
            contexts = contexts.get("contexts")
        if not (isinstance(contexts, list) and isinstance(item.get("QUESTION"), str)):
            raise ConfigError(f"data.path: {source.path} is not PubMedQA's: an item lacks QUESTION or CONTEXTS")
        yield {
            "pmid": _number(key or item.get("PMID") or item.get("PUBID")),
            "title": "",
            "abstract": " ".join(map(str, contexts)),
            "question": item["QUESTION"],
        }


def _bioasq(source: BioAsqFile) -> Iterator[Row]:
    """Return a row for each question and each of its documents that ``source.documents`` contains."""
    documents = Documents.open(source.documents, "data.documents")
    questions = [(pmid, item.question) for item in read_items(source.path) for pmid in item.pmids if item.question]
    pmids = np.unique(np.array([pmid for pmid, _ in questions], np.int64))
    abstracts: dict[int, Row] = {}
    for file in documents.parts():
        table = pq.read_table(file, columns=["pmid", "title", "abstract"])
        matches = table.filter(among(table["pmid"].to_numpy(), pmids))
        abstracts |= {row["pmid"]: row for row in matches.to_pylist()}
    if not abstracts:
        raise ConfigError(
            f"data.documents: {source.documents} has none of the {len(pmids):,} abstracts of {source.path}; "
            "ingest them with source=pmids"
        )
    return (abstracts[pmid] | {"question": question} for pmid, question in questions if pmid in abstracts)
