"""Abstracts with a question each, from what others published: BioASQ, PubMedQA, any table of columns.

A row: ``pmid`` (or None), ``title``, ``abstract``, ``question``.
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
from kailin_ray.errors import ConfigError
from kailin_ray.io.pmids import among
from kailin_ray.schema import Row

FILES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


def read_questions(source: QuestionRows | PubMedQaFile | BioAsqFile, cache: Path) -> list[Row]:
    """All rows of a source; ``cache``: see ``load_splits``. Raises ``ConfigError`` that says what it lacks."""
    read = {"columns": partial(_columns, cache=cache), "pubmedqa": _pubmedqa, "bioasq": _bioasq}[source.kind]
    rows = [row for row in read(source) if row["abstract"] and row["question"]]  # type: ignore[operator]
    if not rows:
        raise ConfigError(f"data.path: {source.path} has no abstract with a question")
    return rows


def load_splits(path: str, name: str | None, revision: str | None, cache: Path) -> dict[str, Dataset]:
    """The splits of a dataset: a folder, a file, or the hub's. Raises ``ConfigError`` if it cannot be had.

    What lies on this machine is prepared in ``cache``, which must be new: in the library's own cache a folder goes by
    its name and its README's configs, so that one finds there what another folder of that name held (datasets 5.2).
    """
    file = Path(path)
    own = {"cache_dir": str(cache)} if file.exists() else {}
    suffix = file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix
    try:
        if file.is_file():
            if suffix not in FILES:
                raise ValueError(
                    f"its name ends in {suffix or 'no suffix'}; allowed: {', '.join(FILES)}, each also .gz"
                )
            return dict(load_dataset(FILES[suffix], data_files=str(file), **own))
        return dict(load_dataset(path, name, revision=revision, **own))
    except Exception as error:  # whatever the library raises, the dataset cannot be had
        raise ConfigError(f"data.path: {path}: {' '.join(str(error).split())[:300]}") from error


def _columns(source: QuestionRows, cache: Path) -> Iterator[Row]:
    splits = load_splits(source.path, source.name, source.revision, cache)
    if source.split not in splits:
        raise ConfigError(f"data.split: {source.path} has no split {source.split!r}; there are: {', '.join(splits)}")
    rows, wanted = splits[source.split], vars(source.columns)
    for field, column in wanted.items():
        if column and column not in rows.column_names:
            there = ", ".join(rows.column_names)
            raise ConfigError(f"data.columns.{field}: {source.path} has no column {column!r}; there are: {there}")
    for row in rows:
        found = {field: row[column] if column else None for field, column in wanted.items()}
        yield found | {"title": found["title"] or "", "pmid": _number(found["pmid"])}


def _number(pmid: Any) -> int | None:
    return int(pmid) if str(pmid or "").isdigit() else None


def _pubmedqa(source: PubMedQaFile) -> Iterator[Row]:
    """Its question is the article's title, so the abstract goes without one."""
    for key, value in read_rows(source.path):
        item = value.get("item", value) if isinstance(value, dict) else {}
        item = {name.upper(): part for name, part in item.items()} if isinstance(item, dict) else {}
        contexts = item.get("CONTEXTS", item.get("CONTEXT"))
        if isinstance(contexts, dict):  # the hub's: {"contexts": [...], "labels": [...]}
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
    """A row for each of a question's documents that is at hand."""
    documents = Documents.open(source.documents, "data.documents")
    asked = [(pmid, item.question) for item in read_items(source.path) for pmid in item.pmids if item.question]
    wanted = np.unique(np.array([pmid for pmid, _ in asked], np.int64))
    found: dict[int, Row] = {}
    for file in documents.parts():
        table = pq.read_table(file, columns=["pmid", "title", "abstract"])
        here = table.filter(among(table["pmid"].to_numpy(), wanted))
        found |= {row["pmid"]: row for row in here.to_pylist()}
    if not found:
        raise ConfigError(
            f"data.documents: {source.documents} has none of the {len(wanted):,} abstracts of {source.path}; "
            "ingest them with source=pmids"
        )
    return (found[pmid] | {"question": question} for pmid, question in asked if pmid in found)
