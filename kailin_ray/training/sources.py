"""Abstracts with a question each, from what others published: BioASQ, PubMedQA, any table of columns.

A row: ``pmid`` (or None), ``title``, ``abstract``, ``question``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import load_dataset

from kailin_ray.config import BioAsqFile, PubMedQaFile, QuestionRows
from kailin_ray.corpus.benchmark_files import read_items, read_rows
from kailin_ray.documents import among
from kailin_ray.errors import ConfigError
from kailin_ray.files import read_manifest

Row = dict[str, Any]


def read_questions(source: QuestionRows | PubMedQaFile | BioAsqFile) -> list[Row]:
    """All rows of a source. Raises ``ConfigError`` that says what it lacks."""
    read = {"columns": _columns, "pubmedqa": _pubmedqa, "bioasq": _bioasq}[source.kind]
    rows = [row for row in read(source) if row["abstract"] and row["question"]]  # type: ignore[operator]
    if not rows:
        raise ConfigError(f"data.path: {source.path} has no abstract with a question")
    return rows


def _columns(source: QuestionRows) -> Iterator[Row]:
    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # whatever the library raises, the dataset cannot be had
        raise ConfigError(f"data.path: {source.path}: {' '.join(str(error).split())[:300]}") from error
    wanted = vars(source.columns)
    for field, column in wanted.items():
        if column and column not in rows.column_names:
            there = ", ".join(rows.column_names)
            raise ConfigError(f"data.columns.{field}: {source.path} has no column {column!r}; there are: {there}")
    for row in rows:
        yield {field: row[column] if column else ("" if field == "title" else None) for field, column in wanted.items()}


def _pubmedqa(source: PubMedQaFile) -> Iterator[Row]:
    """Its question is the article's title, so the abstract goes without one."""
    for key, value in read_rows(source.path):
        item = {name.upper(): part for name, part in value.items()} if isinstance(value, dict) else {}
        contexts = item.get("CONTEXTS", item.get("CONTEXT"))
        if isinstance(contexts, dict):  # the hub's: {"contexts": [...], "labels": [...]}
            contexts = contexts.get("contexts")
        if not (isinstance(contexts, list) and isinstance(item.get("QUESTION"), str)):
            raise ConfigError(f"data.path: {source.path} is not PubMedQA's: an item lacks QUESTION or CONTEXTS")
        pmid = str(key or item.get("PMID") or item.get("PUBID") or "")
        yield {
            "pmid": int(pmid) if pmid.isdigit() else None,
            "title": "",
            "abstract": " ".join(map(str, contexts)),
            "question": item["QUESTION"],
        }


def _bioasq(source: BioAsqFile) -> Iterator[Row]:
    """A row for each of a question's documents that is at hand."""
    read_manifest(source.documents, "documents", "data.documents", "ingest")
    asked = [(pmid, item.question) for item in read_items(source.path) for pmid in item.pmids if item.question]
    wanted = np.unique(np.array([pmid for pmid, _ in asked], np.int64))
    found: dict[int, Row] = {}
    for file in sorted(source.documents.glob("part-*.parquet")):
        table = pq.read_table(file, columns=["pmid", "title", "abstract"])
        here = table.filter(among(table["pmid"].to_numpy(), wanted))
        found |= {row["pmid"]: row for row in here.to_pylist()}
    if not found:
        raise ConfigError(
            f"data.documents: {source.documents} has none of the {len(wanted):,} abstracts of {source.path}; "
            "ingest them with source=pmids"
        )
    return (found[pmid] | {"question": question} for pmid, question in asked if pmid in found)
