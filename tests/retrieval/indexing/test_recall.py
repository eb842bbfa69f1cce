import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.retrieval.indexing import recall


def test_a_source_leaves_its_place_to_the_next() -> None:
    rows = np.array([[4, 7, 9], [1, 2, 3]])
    assert recall.without(rows, np.array([7, 8])).tolist() == [[4, 9], [1, 2]]


def test_recall_is_the_share_that_was_found() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    found = np.array([[4, 9, 2, 8], [6, 5, -1, -1], [3, -1, -1, -1]])
    assert recall.shares(found, exact, 4).tolist() == [0.5, 1.0, 0.0]
    assert recall.shares(found, exact, 1).tolist() == [0.0, 0.0, 0.0]
    told = recall.summary(np.tile(found[:1], (10, 3)), np.tile(exact[:1], (10, 3)))
    assert (told.num_queries, told.recall_at_4, told.recall_at_4_ci95) == (10, 0.5, 0.0)


@given(needed=st.sampled_from(recall.NPROBE[:12]), candidates=st.sampled_from(recall.NUM_CANDIDATES))
def test_tuning_takes_the_shortest_look_that_suffices(needed: int, candidates: int) -> None:
    exact = np.arange(400).reshape(100, 4)

    def find(parameters: dict[str, int]) -> np.ndarray:
        enough = parameters["nprobe"] >= needed and parameters["num_candidates"] >= candidates
        return exact if enough else exact + 1_000

    found = recall.tune(find, exact, "ivf_pq", 4_096, 0.97)
    assert found == {"nprobe": needed, "num_candidates": candidates}


def test_a_target_out_of_reach_takes_what_there_is() -> None:
    exact = np.arange(40).reshape(10, 4)
    found = recall.tune(lambda _: exact + 100, exact, "hnsw", 0, 0.9)
    assert found == {"ef_search": recall.EF_SEARCH[-1], "num_candidates": recall.NUM_CANDIDATES[-1]}


@pytest.mark.parametrize("lists", [1, 16, 4_096])
def test_no_more_lists_are_looked_at_than_there_are(lists: int) -> None:
    name, values = recall.parameters("ivf_pq", lists)
    assert name == "nprobe"
    assert values == sorted(set(values))
    assert values[-1] == lists
