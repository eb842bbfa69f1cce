from pathlib import Path

import numpy as np
import pytest

from kailin_ray.retrieval.search.store import Store, write_shard
from tests.support import indexes as made


def test_passages_and_vectors_come_by_their_rows_from_whichever_shard(tmp_path: Path) -> None:
    store, vectors = made.store(tmp_path, [30, 20])
    rows = np.array([49, 0, 30, 29, 0])
    assert len(store) == 50
    assert np.array_equal(store.vectors(rows), vectors[rows].astype(np.float16))
    assert store.pmids(rows).tolist() == [1049, 1000, 1030, 1029, 1000]
    assert store.passages(rows)[0] == (1049, "title 1049", made.text(1049), ["D1049"])
    assert [pmid for pmid, *_ in store.passages(rows)] == store.pmids(rows).tolist()


def test_a_row_that_is_not_there_has_no_pmid_and_no_vector(tmp_path: Path) -> None:
    store, vectors = made.store(tmp_path, [30, 20])
    rows = np.array([-1, 40, -1])
    assert store.pmids(rows).tolist() == [-1, 1040, -1]
    assert np.array_equal(store.vectors(rows), np.stack([0 * vectors[0], vectors[40], 0 * vectors[0]]))


def test_a_row_is_found_by_its_pmid_the_newest_where_there_are_two(tmp_path: Path) -> None:
    vectors = made.unit(5)
    old = made.shard(tmp_path / "0", [3, 5, 9], vectors[:3])
    new = made.shard(tmp_path / "1", [5, 11], vectors[3:])
    store = Store([old, new], made.DIMENSION)
    assert store.rows(np.array([9, 5, 11, 4, -1])).tolist() == [2, 3, 4, -1, -1]


def test_a_shard_is_sorted_by_pmid_whatever_the_order_of_its_parts(tmp_path: Path) -> None:
    vectors = made.unit(4)
    parts = [
        made.part(tmp_path / "b.parquet", [30, 10], vectors[:2]),
        made.part(tmp_path / "a.parquet", [20, 40], vectors[2:]),
    ]
    assert write_shard(parts, tmp_path / "s") == (4, made.DIMENSION)
    store = Store([(tmp_path / "s", 4)], made.DIMENSION)
    assert store.pmids(np.arange(4)).tolist() == [10, 20, 30, 40]
    assert np.array_equal(store.vectors(np.arange(4)), vectors[[1, 2, 0, 3]].astype(np.float16))


def test_chunks_are_all_vectors_or_those_of_one_shard(tmp_path: Path) -> None:
    store, vectors = made.store(tmp_path, [30, 20])
    every = list(store.chunks())
    assert np.array_equal(np.concatenate([chunk for _, chunk in every]), vectors.astype(np.float16))
    ((first, chunk),) = store.chunks([1])
    assert (first, len(chunk)) == (30, 20)


@pytest.mark.parametrize("name", ["vectors.f16", "passages.arrow"])
@pytest.mark.parametrize("damage", ["cut", "zeros"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder, rows = made.shard(tmp_path / "s", [1, 2, 3], made.unit(3))
    whole = (folder / name).read_bytes()
    if name == "vectors.f16" and damage == "zeros":
        damage = "cut"  # any bytes are vectors
    (folder / name).write_bytes(whole[:-30] if damage == "cut" else bytes(len(whole)))
    with pytest.raises(ValueError, match=name):
        Store([(folder, rows)], made.DIMENSION)
