from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest

from kailin_ray.retrieval.indexing.recall import shares
from kailin_ray.retrieval.search import ann
from kailin_ray.retrieval.search.exact import Exact, ExactOnGpu, nearest
from kailin_ray.retrieval.search.folder import Structure
from kailin_ray.retrieval.search.store import Store
from tests.support import indexes as made

CHOICES = [
    Structure(kind="exact"),
    Structure(kind="ivf_pq", nprobe=16, num_candidates=128),
    Structure(kind="hnsw", ef_search=128, num_candidates=64),
]
NOTHING = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return made.store(tmp_path_factory.mktemp("shards"), [900, 700])[0]


@pytest.fixture(scope="module")
def files(stored: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each kind, by its name; that of ivf_pq filled shard by shard and merged."""
    folder = tmp_path_factory.mktemp("structures")
    sample = stored.vectors(np.arange(len(stored))).astype(np.float32)
    trained = folder / "trained"
    faiss.write_index(ann.train("ivf_pq", sample, len(stored)), str(trained))
    for number in (0, 1):
        index = faiss.read_index(str(trained))
        ann.add(index, stored.chunks([number]))
        faiss.write_index(index, str(folder / f"{number}.faiss"))
    faiss.write_index(ann.merge([folder / "0.faiss", folder / "1.faiss"]), str(folder / "ivf_pq"))
    hnsw = ann.train("hnsw", sample, len(stored))
    ann.add(hnsw, stored.chunks())
    faiss.write_index(hnsw, str(folder / "hnsw"))
    return folder


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.kind)
def test_every_kind_finds_what_exact_search_finds_with_the_same_scores(
    stored: Store, files: Path, choice: Structure
) -> None:
    queries = made.unit(50, seed=1)
    wanted_scores, wanted = nearest(stored.chunks(), queries, NOTHING, 10)
    scores, rows = ann.open_search(files / choice.kind, choice, stored, NOTHING, "cpu").search(queries, 10)
    assert shares(rows, wanted, 10).mean() > 0.98
    same = rows == wanted
    assert np.allclose(scores[same], wanted_scores[same], atol=1e-5)
    assert (np.diff(scores, axis=1) <= 1e-6).all()


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.kind)
def test_a_deleted_row_is_never_found(stored: Store, files: Path, choice: Structure) -> None:
    queries = made.unit(20, seed=2)
    _, best = nearest(stored.chunks(), queries, NOTHING, 3)
    deleted = np.unique(best)
    _, rows = ann.open_search(files / choice.kind, choice, stored, deleted, "cpu").search(queries, 10)
    _, wanted = nearest(stored.chunks(), queries, deleted, 10)
    assert not np.isin(rows, deleted).any()
    assert shares(rows, wanted, 10).mean() > 0.98


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.kind)
def test_more_than_there_is_gives_what_there_is(stored: Store, files: Path, choice: Structure) -> None:
    choice = replace(choice, nprobe=10_000, ef_search=10_000)
    search = ann.open_search(files / choice.kind, choice, stored, NOTHING, "cpu")
    _, rows = search.search(made.unit(2, seed=3), 2_000)
    assert rows.shape == (2, 2_000)
    for line in rows:
        assert len(set(line[line >= 0].tolist())) == (line >= 0).sum() > 1_500
        assert (line[(line >= 0).sum() :] == -1).all()


def test_blocks_in_a_gpu_s_memory_give_the_same(stored: Store) -> None:
    # On CPUs here, in half precision as there.
    deleted = np.arange(0, 1_600, 3)
    queries = made.unit(40, seed=5)
    on_gpu = ann.Refined(ExactOnGpu(stored, deleted, "cpu"), stored, ann.GPU_CANDIDATES)
    (scores, rows), (wanted_scores, wanted) = (
        search.search(queries, 10) for search in (on_gpu, Exact(stored, deleted))
    )
    assert shares(rows, wanted, 10).mean() > 0.99
    assert np.allclose(scores, wanted_scores, atol=1e-4)


def test_another_s_file_is_refused_by_name(stored: Store, files: Path, tmp_path: Path) -> None:
    other, _ = made.store(tmp_path / "other", [1_500])
    with pytest.raises(ValueError, match=r"ivf_pq: 1,600 vectors of 16 dimensions for 1,500 passages of 16"):
        ann.open_search(files / "ivf_pq", CHOICES[1], other, NOTHING, "cpu")
    wide, _ = made.store(tmp_path / "wide", [900, 700], dimension=24)
    with pytest.raises(ValueError, match=r"hnsw: 1,600 vectors of 16 dimensions for 1,600 passages of 24"):
        ann.open_search(files / "hnsw", CHOICES[2], wide, NOTHING, "cpu")


@pytest.mark.parametrize("kind", ["ivf_pq", "hnsw"])
def test_a_damaged_file_is_refused_by_name(stored: Store, files: Path, tmp_path: Path, kind: str) -> None:
    choice = next(choice for choice in CHOICES if choice.kind == kind)
    whole = (files / kind).read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"rubbish" + whole[7:]):
        (tmp_path / "damaged").write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            ann.open_search(tmp_path / "damaged", choice, stored, NOTHING, "cpu")


def test_the_kind_follows_from_the_size_and_says_what_it_wants() -> None:
    assert ann.chosen_kind("auto", 10) == ann.chosen_kind("auto", ann.EXACT_UP_TO) == "exact"
    assert ann.chosen_kind("auto", ann.EXACT_UP_TO + 1) == "ivf_pq"
    assert ann.chosen_kind("hnsw", 5_000) == "hnsw"
    for kind in ("ivf_pq", "hnsw"):
        with pytest.raises(ValueError, match=f"{kind} needs 1,000 passages, there are 999"):
            ann.chosen_kind(kind, 999)


def test_lists_grow_with_the_square_root() -> None:
    assert [ann.num_lists(10**n) for n in (4, 5, 6)] == [512, 1024, 4096]
    assert ann.num_lists(38_000_000) == 32_768
