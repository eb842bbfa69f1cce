"""The passages of rankings.py and lexical_cost.py: documents with embeddings, PubMedQA's abstracts, and mixtures."""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.config import Encoder
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.retrieval.encoder import QueryEncoder

DEPTH = 1_000
"""Number of passages in a ranking."""
SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Passages:
    """N passages, the last n of them PubMedQA's abstracts; the vectors of n questions and n long answers."""

    num_documents: int
    """Documents with an abstract. Documents that are missing in the cache are not passages."""
    table: pa.Table
    """(N) pmid, title (empty for PubMedQA), text, mesh (UIs)."""
    vectors: np.ndarray
    """(N, d) unit vectors."""
    rows: list[dict[str, Any]]
    """(n) PubMedQA's rows."""
    questions: np.ndarray
    answers: np.ndarray
    """(n, d) unit vectors."""
    gold: np.ndarray
    """(n,) the row of each question's own abstract."""


def read(documents: Path, pubmedqa: Path, mesh: MeshHierarchy, encoder: str, cache: Path | None) -> Passages:
    """Read and encode the passages; documents that PubMedQA contains are left out."""
    config = Encoder(
        path=encoder, revision=None, query=None, pooling=None, normalize=True, pair=False, prefix="", query_prefix="",
        max_length=256, query_max_length=256, batch_size=16,
    )  # fmt: skip
    # One encoder for all texts: query and passage encoders differ only in their prefixes, which are empty.
    model = QueryEncoder(config, on_gpu=False)
    with gzip.open(pubmedqa, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    own = pa.table(
        {
            "pmid": pa.array([int(row["pmid"]) for row in rows], pa.int64()),
            "title": [""] * len(rows),
            "text": [row["abstract"] for row in rows],
            "mesh": pa.array(descriptors(rows, mesh), pa.list_(pa.string())),
        }
    )
    table = with_abstract(documents)
    num_documents = len(table)
    if cache is None:
        vectors = model.encode([f"{title} {text}" for title, text in zip(*texts_of(table), strict=True)])
    else:
        table, vectors = cached(cache, table["pmid"])
    kept = pc.invert(pc.is_in(table["pmid"], own["pmid"]))
    own_vectors, questions, answers = (
        model.encode([row[key] for row in rows]) for key in ("abstract", "question", "long_answer")
    )
    table = pa.concat_tables([table.filter(kept), own])
    vectors = np.concatenate([vectors[kept.to_numpy()], own_vectors])
    return Passages(
        num_documents, table, vectors, rows, questions, answers, np.arange(len(table) - len(rows), len(table))
    )


def texts_of(table: pa.Table) -> tuple[list[str], list[str]]:
    """Return the titles and the texts."""
    return table["title"].fill_null("").to_pylist(), table["text"].to_pylist()


def with_abstract(documents: Path) -> pa.Table:
    """Return pmid, title, text and mesh (UIs) of the documents that have an abstract."""
    columns = ["pmid", "title", "abstract", "mesh"]
    table = pa.concat_tables(pq.read_table(file, columns=columns) for file in sorted(documents.glob("part-*.parquet")))
    table = table.filter(pc.greater(pc.utf8_length(table["abstract"]), 0))
    uis = [[heading["ui"] for heading in row] for row in table["mesh"].to_pylist()]
    return pa.table(
        {
            "pmid": table["pmid"],
            "title": table["title"],
            "text": table["abstract"],
            "mesh": pa.array(uis, pa.list_(pa.string())),
        }
    ).combine_chunks()


def cached(folder: Path, wanted: pa.ChunkedArray) -> tuple[pa.Table, np.ndarray]:
    """Return the wanted documents that a folder has vectors of, in ``N.npy`` with ``N.parquet``, and the vectors."""
    files = sorted(file for file in folder.glob("*.npy") if file.with_suffix(".parquet").exists())
    table = pa.concat_tables(pq.read_table(file.with_suffix(".parquet")) for file in files).combine_chunks()
    vectors = np.concatenate([np.load(file) for file in files])
    if len(vectors) != len(table):
        raise SystemExit(f"{folder}: {len(vectors)} vectors of {len(table)} passages")
    kept = pc.is_in(table["pmid"], wanted.combine_chunks())
    return table.filter(kept), vectors[kept.to_numpy()]


def descriptors(rows: list[dict[str, Any]], mesh: MeshHierarchy) -> list[list[str]]:
    """Return the UIs of each row's headings that MeSH knows by name."""
    names = sorted({name for row in rows for name in row["mesh"]})
    numbers = dict(zip(names, mesh.find_names(names).tolist(), strict=True))
    uis = [ui.decode() for ui in mesh.uis.tolist()]
    return [[uis[numbers[name]] for name in row["mesh"] if numbers[name] >= 0] for row in rows]


def mixtures(table: pa.Table, number: int) -> Iterator[pa.Table]:
    """Yield ``number`` passages: the first half of the sentences of one abstract, the second half of another abstract.

    Lengths, and the share of passages with a term, are as in the abstracts. More passages do not bring new terms.
    """
    random = np.random.default_rng(2)
    titles, texts = texts_of(table)
    split = [SENTENCE.split(text) for text in texts]
    for start in range(0, number, 10_000):
        pairs = random.integers(0, len(split), (min(10_000, number - start), 2)).tolist()
        mixed = [" ".join(split[a][: len(split[a]) // 2] + split[b][len(split[b]) // 2 :]) for a, b in pairs]
        pmids = np.arange(start, start + len(pairs)) + 10**9
        yield pa.table({"pmid": pmids, "title": [titles[a] for a, _ in pairs], "text": mixed})


def nearest(data: Passages, vectors: np.ndarray, without: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the PMIDs of the DEPTH passages nearest to each vector, best first, without the rows in ``without``."""
    pmids = data.table["pmid"].to_numpy()
    rankings = []
    for start in range(0, len(vectors), 100):
        scores = vectors[start : start + 100] @ data.vectors.T
        for row, left_out in zip(scores, without[start : start + 100], strict=True):
            row[list(left_out)] = -np.inf
            best = np.argpartition(-row, DEPTH)[:DEPTH]
            rankings.append(pmids[best[np.argsort(-row[best], kind="stable")]].tolist())
    return rankings
