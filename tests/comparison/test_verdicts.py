"""Which pairs the judge is asked about, and its verdicts as columns of each kind of question."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.comparison.measures import measure
from kailin_ray.comparison.pairs import Asked, read_asked
from kailin_ray.comparison.verdicts import (
    KEYS_PER_PMID,
    VERDICTS,
    agents_of,
    by_kind,
    list_pairs_to_judge,
    pair_keys,
    read_verdicts,
)
from kailin_ray.planning.stages import QUESTION_AGENTS
from tests.support.runs import record, run

A, B, C = ("Does A?", 0.1), ("Does B?", 0.2), ("Does C?", 0.3)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Asked, Asked]:
    """Of 1 the general agent's question is preferred in both runs, of 2 another agent's, of 3 nothing is new."""
    old = run(tmp_path / "old", [record(1, A, B, 0), record(2, A, B, 0), record(3, A, B, 1), record(4, A, None, 0)])
    new = run(tmp_path / "new", [record(1, C, B, 0), record(2, C, C, 1), record(3, A, B, 1), record(4, None, C, 0)])
    pmids = np.array([1, 2, 3, 4])
    return read_asked(old, pmids), read_asked(new, pmids)


@given(st.integers(1, 2**40), st.sampled_from([0, 1]), st.sampled_from([0, 1]))
def test_a_key_tells_its_pair(pmid: int, old: int, new: int) -> None:
    (key,) = pair_keys(np.array([pmid]), np.array([old], np.int8), np.array([new], np.int8)).tolist()
    assert agents_of(key) == (pmid, QUESTION_AGENTS[old], QUESTION_AGENTS[new])
    assert key // KEYS_PER_PMID == pmid


def test_a_pair_is_asked_about_once_and_the_same_question_never(both: tuple[Asked, Asked]) -> None:
    asked = [agents_of(key) for key in list_pairs_to_judge(*both).tolist()]
    assert asked == [
        (1, "general", "general"),  # also the preferred ones
        (2, "general", "general"),
        (2, "general", "biomedical"),  # the preferred ones
        (2, "biomedical", "biomedical"),
        (4, "general", "biomedical"),  # the preferred ones; neither agent has a question in both
    ]


def verdicts(both: tuple[Asked, Asked], folder: Path) -> pa.Table:
    keys = list_pairs_to_judge(*both).tolist()
    rows = [
        {"key": keys[0], "old": 0.4, "new": 0.6, "orders": [0.7, 0.1]},
        {"key": keys[1], "old": 0.8, "new": 0.2, "orders": [0.9, 0.7]},
        {"key": keys[2], "fault": "abstract_too_long"},
        {"key": keys[4], "old": 0.3, "new": 0.7, "orders": [0.5, 0.1]},
    ]
    # Two files, in no order; a block that was judged again after a stop counts once.
    pq.write_table(pa.Table.from_pylist(rows[2:][::-1], VERDICTS), folder / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:3], VERDICTS), folder / "b.parquet")
    found = read_verdicts(folder)
    assert found.to_pylist() == pa.Table.from_pylist(rows, VERDICTS).to_pylist()
    return found


def test_verdicts_are_those_of_each_kind_s_pairs(both: tuple[Asked, Asked], tmp_path: Path) -> None:
    found = by_kind(verdicts(both, tmp_path), *both, pairwise=True)
    preferred, general, biomedical = found.values()
    np.testing.assert_array_equal(preferred.new, [0.6, np.nan, np.nan, 0.7])
    assert preferred.same.tolist() == [False, False, True, False]
    assert preferred.faults == ["abstract_too_long"]
    assert preferred.orders.tolist() == [[0.7, 0.1], [0.5, 0.1]]
    np.testing.assert_array_equal(general.new, [0.6, 0.2, np.nan, np.nan])
    # Of 1 and 3 the agent asks the same; of 2 there is no verdict yet, and of 4 no old question.
    assert biomedical.same.tolist() == [True, False, True, False]
    assert np.isnan(biomedical.new).all()


def test_the_same_question_is_a_tie(both: tuple[Asked, Asked], tmp_path: Path) -> None:
    judged = by_kind(verdicts(both, tmp_path), *both, pairwise=True)
    found = measure(*both, judged)
    assert found.counts["preferred"]["judge"] == {
        "wins": 2, "ties": 1, "losses": 0, "missing": 1, "same_question": 1, "faults": {"abstract_too_long": 1},
        # Shown first: 0.7 and 0.9; 0.5 and 0.9. Only the first verdict changes with the order.
        "position_bias": {"rows": 2, "first": 0.75, "flipped": 0.5},
    }  # fmt: skip
    assert found.figures["preferred.judge"]["new"][0] == pytest.approx(2.5 / 3)
    assert found.figures["preferred.judge_probability"]["new"][0] == pytest.approx((0.6 + 0.5 + 0.7) / 3)
    assert found.figures["preferred.judge_probability"]["difference"][0] == pytest.approx(0.1)
    assert found.figures["preferred.judge"]["abstracts"] == 3


def test_a_pointwise_judge_s_probabilities_are_each_question_s_own(both: tuple[Asked, Asked], tmp_path: Path) -> None:
    judged = by_kind(verdicts(both, tmp_path), *both, pairwise=False)
    found = measure(*both, judged).figures["preferred.judge_probability"]
    assert found["abstracts"] == 2
    assert [found[side][0] for side in ("old", "new", "difference")] == pytest.approx([0.35, 0.65, 0.3])


def test_without_any_verdict_only_ties_are_known(both: tuple[Asked, Asked], tmp_path: Path) -> None:
    found = measure(*both, by_kind(read_verdicts(tmp_path), *both, pairwise=True))
    counts = found.counts["biomedical"]["judge"]
    assert [counts[name] for name in ("wins", "ties", "losses", "missing")] == [0, 2, 0, 2]
