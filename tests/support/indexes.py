"""Passages with made-up vectors, in parts and shards."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.retrieval.search.store import Store, write_shard

DIMENSION = 16


def unit(number: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Unit vectors that lie in clusters, as those of texts do."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, dimension))
    vectors = centres[rng.integers(0, len(centres), number)] + 0.5 * rng.normal(size=(number, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def text(pmid: int) -> str:
    """Of no two passages are six words in a row the same."""
    return " ".join(f"w{pmid}x{place}" for place in range(12))


def part(path: Path, pmids: list[int], vectors: np.ndarray, texts: list[str] | None = None) -> Path:
    """A part of passages as the encoders write it."""
    table = pa.table(
        {
            "pmid": pa.array(pmids, pa.int64()),
            "title": [f"title {pmid}" for pmid in pmids],
            "text": texts or [text(pmid) for pmid in pmids],
            "mesh": pa.array([[f"D{pmid}"] for pmid in pmids], pa.list_(pa.string())),
            "embedding": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1]
            ),
        }
    )
    pq.write_table(table, path)
    return path


def shard(folder: Path, pmids: list[int], vectors: np.ndarray, texts: list[str] | None = None) -> tuple[Path, int]:
    """A shard of passages, with its number of rows."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = write_shard([part(folder.with_suffix(".parquet"), pmids, vectors, texts)], folder)
    return folder, made.rows


def store(folder: Path, sizes: list[int], dimension: int = DIMENSION) -> tuple[Store, np.ndarray]:
    """Shards of so many passages, PMIDs from 1,000 on, and the vectors of all as they are stored."""
    vectors = unit(sum(sizes), dimension=dimension)
    bounds = np.cumsum([0, *sizes])
    shards = [
        shard(folder / f"{number:05}", list(range(1_000 + start, 1_000 + end)), vectors[start:end])
        for number, (start, end) in enumerate(pairwise(bounds))
    ]
    return Store(shards, dimension), vectors.astype(np.float16).astype(np.float32)
