"""PubMedQA for mesh_measures.py and judge.py: abstracts, their descriptors, and the contexts of each question."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kailin_ray.comparison import statistics
from kailin_ray.config import Encoder
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.retrieval.encoder import PassageEncoder, QueryEncoder

TOP_K = 4


@dataclass(frozen=True)
class PubMedQA:
    """n abstracts. ``similarity`` (n, n): of each question to each abstract; ``alike`` (n, n): between questions."""

    rows: list[dict[str, Any]]
    descriptors: list[list[str]]
    """The UIs of each abstract's headings that MeSH knows."""
    unknown: list[str]
    """Heading names that MeSH does not know."""
    similarity: np.ndarray
    alike: np.ndarray


def read(path: Path, mesh: MeshHierarchy, encoder: str) -> PubMedQA:
    """Read JSON lines with question, abstract and mesh (names), gzipped, and encode them."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    names = sorted({name for row in rows for name in row["mesh"]})
    numbers = dict(zip(names, mesh.find_names(names).tolist(), strict=True))
    uis = [ui.decode() for ui in mesh.uis.tolist()]
    descriptors = [[uis[numbers[name]] for name in row["mesh"] if numbers[name] >= 0] for row in rows]
    config = Encoder(
        path=encoder, revision=None, query=None, pooling=None, normalize=True, pair=False, prefix="", query_prefix="",
        max_length=256, query_max_length=256, batch_size=16,
    )  # fmt: skip
    # Without titles, as these are PubMedQA's questions.
    abstracts = PassageEncoder(config, on_gpu=False).encode([""] * len(rows), [row["abstract"] for row in rows])
    questions = QueryEncoder(config, on_gpu=False).encode([row["question"] for row in rows])
    unknown = [name for name in names if numbers[name] < 0]
    return PubMedQA(rows, descriptors, unknown, questions @ abstracts.T, questions @ questions.T)


def random_others(data: PubMedQA, number: int) -> np.ndarray:
    """Return (n * number, 2) pairs of an abstract and another abstract, drawn at random."""
    n = len(data.rows)
    source = np.repeat(np.arange(n), number)
    return np.stack([source, (source + np.random.default_rng(0).integers(1, n, n * number)) % n], axis=1)


def near_others(data: PubMedQA) -> np.ndarray:
    """Return (n, 2) pairs of an abstract and the abstract with the most similar question."""
    alike = data.alike.copy()
    np.fill_diagonal(alike, -np.inf)
    return np.stack([np.arange(len(alike)), alike.argmax(axis=1)], axis=1)


def contexts(data: PubMedQA, asked: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Return (m, TOP_K) abstracts nearest to the questions ``asked`` (m,), except those in ``without`` (m, …)."""
    scores = data.similarity[asked].copy()
    np.put_along_axis(scores, without, -np.inf, axis=1)
    return np.argsort(-scores, axis=1)[:, :TOP_K]


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and its 95 % bootstrap interval."""
    mean, low, high = (round(value, 4) for value in statistics.interval(values) or (np.nan,) * 3)
    return mean, low, high
