from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kailin_ray.retrieval.index import PassageIndex, build

RNG = np.random.default_rng(0)


def unit(shape: tuple[int, int]) -> np.ndarray:
    vectors = RNG.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("index")
    vectors = unit((50, 8))
    parts = []
    for start in (0, 30):
        rows = vectors[start : start + 30]
        pmids = range(100 + start, 100 + start + len(rows))
        table = pa.table(
            {
                "pmid": pa.array(pmids, pa.int64()),
                "title": [f"title {p}" for p in pmids],
                "text": [f"text {p}" for p in pmids],
                "mesh": [[f"D{p}"] for p in pmids],
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 8),
            }
        )
        pq.write_table(table, folder / f"{start}.parquet")
        parts.append(folder / f"{start}.parquet")
    assert build(parts, folder) == {"num_passages": 50, "dimension": 8, "index": "IndexFlatIP"}
    return folder, vectors


def test_search_is_exact_and_brings_the_passages(made: tuple[Path, np.ndarray]) -> None:
    folder, vectors = made
    queries = unit((5, 8))
    found = PassageIndex(folder).search(queries, 4, [None] * 5)
    for query, hits in zip(queries, found, strict=True):
        best = np.argsort(-(vectors @ query))[:4]
        assert [hit.pmid for hit in hits] == (best + 100).tolist()
        assert [hit.score for hit in hits] == pytest.approx((vectors @ query)[best].tolist(), abs=1e-5)
        assert (hits[0].title, hits[0].text, hits[0].mesh) == tuple(
            each.format(hits[0].pmid) if isinstance(each, str) else [f"D{hits[0].pmid}"]
            for each in ("title {}", "text {}", None)
        )


def test_the_source_is_left_out_and_the_next_best_takes_its_place(made: tuple[Path, np.ndarray]) -> None:
    folder, vectors = made
    index = PassageIndex(folder)
    (everything,) = index.search(vectors[7:8], 5, [None])
    assert everything[0].pmid == 107
    (without,) = index.search(vectors[7:8], 4, [107])
    assert [hit.pmid for hit in without] == [hit.pmid for hit in everything[1:]]


def test_more_than_there_is_gives_what_there_is(made: tuple[Path, np.ndarray]) -> None:
    folder, vectors = made
    (hits,) = PassageIndex(folder).search(vectors[:1], 200, [None])
    assert len(hits) == 50


def test_vectors_and_passages_that_do_not_belong_together_are_refused(
    made: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, _ = made
    (tmp_path / "vectors.faiss").write_bytes((folder / "vectors.faiss").read_bytes())
    build([folder / "0.parquet"], folder_of(tmp_path / "short"))
    (tmp_path / "passages.arrow").write_bytes((tmp_path / "short" / "passages.arrow").read_bytes())
    with pytest.raises(ValueError, match="50 vectors for 30 passages"):
        PassageIndex(tmp_path)


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path
