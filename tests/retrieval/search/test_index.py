import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kailin_ray.io.manifests import write_manifest
from kailin_ray.retrieval.search.folder import Index, ShardFolder
from kailin_ray.retrieval.search.index import PassageIndex
from kailin_ray.retrieval.search.lexical import build_lexical
from kailin_ray.retrieval.search.store import Store
from tests.support import indexes as made
from tests.support.manifests import index_manifest

NUM = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty passages; 1010 and 1020 say the same, as do 1011 and 1021; 1030 is deleted."""
    folder = tmp_path_factory.mktemp("index")
    vectors = made.unit(NUM)
    texts = [made.text(1_000 + number) for number in range(NUM)]
    for one in (10, 11):
        vectors[one + 10], texts[one + 10] = vectors[one], texts[one]
    pmids = list(range(1_000, 1_000 + NUM))
    made.shard(folder / "shards/00000", pmids[:30], vectors[:30], texts[:30])
    made.shard(folder / "shards/00001", pmids[30:], vectors[30:], texts[30:])
    deleted = np.array([30])
    np.save(folder / "deleted.npy", deleted)
    shards = (ShardFolder(name="shards/00000", rows=30), ShardFolder(name="shards/00001", rows=20))
    write_manifest(folder, index_manifest(dimension=made.DIMENSION, shards=shards))
    return folder


def test_search_is_exact_and_brings_the_passages(folder: Path) -> None:
    vectors = Store([(folder / "shards/00000", 30), (folder / "shards/00001", 20)], made.DIMENSION).vectors(
        np.arange(NUM)
    )
    queries = made.unit(5, seed=4)
    product = queries @ vectors.astype(np.float32).T
    product[:, 30] = -np.inf
    found = PassageIndex(Index.open(folder)).search(queries, 4, [None] * 5)
    assert [len(hits) for hits in found] == [4] * 5
    for scores, hits in zip(product, found, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:4].tolist(), abs=1e-5)
        for hit in hits:
            assert hit.score == pytest.approx(scores[hit.pmid - 1_000], abs=1e-5)
            assert (hit.title, hit.text, hit.mesh)[::2] == (f"title {hit.pmid}", [f"D{hit.pmid}"])


def test_the_source_is_left_out_and_the_next_best_takes_its_place(folder: Path) -> None:
    index = PassageIndex(Index.open(folder))
    query = made.unit(NUM)[7:8]
    (everything,) = index.search(query, 5, [None])
    assert everything[0].pmid == 1007
    (without,) = index.search(query, 4, [1007])
    assert [hit.pmid for hit in without] == [hit.pmid for hit in everything[1:]]


def test_what_nearly_repeats_a_better_one_goes_and_the_next_best_takes_its_place(folder: Path) -> None:
    index = PassageIndex(Index.open(folder))
    query = made.unit(NUM)[10:11]
    (everything,) = index.search(query, 6, [None])
    assert {hit.pmid for hit in everything[:2]} == {1010, 1020}
    (distinct,) = index.search(query, 5, [None], jaccard=0.8)
    assert [hit.pmid for hit in distinct] == [hit.pmid for hit in everything if hit is not everything[1]]


def test_what_nearly_repeats_the_source_goes_too(folder: Path) -> None:
    (hits,) = PassageIndex(Index.open(folder)).search(made.unit(NUM)[11:12], 5, [1021], jaccard=0.8)
    assert len(hits) == 5
    assert not {1011, 1021} & {hit.pmid for hit in hits}


def test_words_count_where_they_weigh(folder: Path) -> None:
    for number, rows in ((0, range(1_000, 1_030)), (1, range(1_030, 1_050))):
        table = pa.table({"pmid": list(rows), "title": [""] * len(rows), "text": [f"unique{pmid}" for pmid in rows]})
        build_lexical([table], folder / f"shards/{number:05}" / "lexical")
    vectors = made.unit(NUM)
    query = vectors[5:6]
    asked = ["what of unique1040 and unique1030?"]  # the latter is deleted
    (dense,) = PassageIndex(Index.open(folder)).search(query, 4, [None], None, asked)
    (fused,) = PassageIndex(Index.open(folder), lexical_weight=0.5).search(query, 4, [None], None, asked)
    (lexical,) = PassageIndex(Index.open(folder), lexical_weight=1_000.0).search(query, 4, [None], None, asked)
    assert dense[0].pmid == 1005
    assert lexical[0].pmid == 1040
    assert [hit.pmid for hit in lexical[1:]] == [hit.pmid for hit in dense[:3]]
    assert 1030 not in [hit.pmid for hits in (dense, fused, lexical) for hit in hits]
    # A score is the inner product, whoever brought the passage.
    assert lexical[0].score == pytest.approx(float(query[0] @ vectors[40]), abs=2e-3)
    (without,) = PassageIndex(Index.open(folder), lexical_weight=1_000.0).search(query, 4, [1040], 0.8, asked)
    assert 1040 not in [hit.pmid for hit in without]


def test_an_index_without_words_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "index", ignore=shutil.ignore_patterns("lexical"))
    with pytest.raises(ValueError, match="shards/00000/lexical: cannot be used as a lexical index"):
        PassageIndex(Index.open(tmp_path / "index"), lexical_weight=0.5)


def test_more_than_there_is_gives_what_there_is(folder: Path) -> None:
    (hits,) = PassageIndex(Index.open(folder)).search(made.unit(1), 200, [None])
    assert sorted(hit.pmid for hit in hits) == [pmid for pmid in range(1_000, 1_000 + NUM) if pmid != 1030]
