"""What runs asked, as columns, against their records as rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kailin_ray.comparison.pairs import KINDS, PREFERRED, find_shared_pmids, read_asked
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.errors import ConfigError
from kailin_ray.planning.stages import QUESTION_AGENTS
from tests.support.runs import Record, record, run

HELD_OUT = [pmid for pmid in range(1, 400) if is_held_out(pmid)]
TRAINED_ON = [pmid for pmid in range(1, 100) if not is_held_out(pmid)]

asked = st.none() | st.tuples(st.sampled_from(["Does it?", "Why?", ""]), st.none() | st.floats(0, 1))


@st.composite
def rows(draw: st.DrawFn) -> list[Record]:
    made = []
    for pmid in range(1, draw(st.integers(1, 12)) + 1):
        pair = draw(asked), draw(asked)
        there = sum(one is not None for one in pair)
        one = record(pmid, *pair, preferred=draw(st.none() | st.integers(0, there - 1)) if there else None)
        if not there and draw(st.booleans()):
            one |= {"candidates": None, "status": "failed", "reason": "agent_error"}
        made.append(one)
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(rows(), st.randoms())
def test_columns_say_what_rows_say(tmp_path_factory: pytest.TempPathFactory, made: list[Record], dice: object) -> None:
    folder = run(tmp_path_factory.mktemp("run") / "a", made, pieces=3)
    chosen = sorted(dice.sample(made, (len(made) + 1) // 2), key=lambda row: row["pmid"])  # type: ignore[attr-defined]
    found = read_asked(folder, np.array([row["pmid"] for row in chosen]))
    assert found.pmids.tolist() == [row["pmid"] for row in chosen]
    assert found.table["ok"].to_pylist() == [row["status"] == "ok" for row in chosen]
    assert found.table["reason"].to_pylist() == [row.get("reason") for row in chosen]
    for kind in KINDS:
        of = [_of(row, kind) for row in chosen]
        assert found.questions(kind).to_pylist() == [one["question"] if one else None for one in of]
        scores = [None if np.isnan(score) else score for score in found.mesh_scores(kind).tolist()]
        assert scores == [one["mesh_score"] if one else None for one in of]
        assert found.agents(kind).tolist() == [QUESTION_AGENTS.index(one["agent"]) if one else -1 for one in of]


def _of(row: Record, kind: str) -> Record | None:
    if kind == PREFERRED:
        return None if row["preferred"] is None else row["candidates"][row["preferred"]]
    return next((one for one in row["candidates"] or [] if one["agent"] == kind), None)


def test_abstracts_are_those_of_both_runs_that_are_held_out(tmp_path: Path) -> None:
    some = [*HELD_OUT[:6], *TRAINED_ON[:6]]
    old = run(tmp_path / "old", [record(pmid) for pmid in some])
    new = run(tmp_path / "new", [record(pmid) for pmid in [*some[3:], 100_000]])
    assert find_shared_pmids(old, new, only_held_out=True).tolist() == sorted(HELD_OUT[3:6])
    assert find_shared_pmids(old, new, only_held_out=False).tolist() == sorted(some[3:])


@pytest.mark.parametrize(
    ("olds", "news", "said"),
    [
        (HELD_OUT[:3], HELD_OUT[3:5], "share 0 abstracts: {old} has 3 (3 held out), {new} has 2 (2 held out)"),
        (
            [*HELD_OUT[:2], *TRAINED_ON[:4]],
            TRAINED_ON[:3],
            "share 3 abstracts, of which none is held out; held_out=false compares them: "
            "{old} has 6 (2 held out), {new} has 3 (0 held out)",
        ),
    ],
)
def test_runs_without_common_abstracts_are_refused(tmp_path: Path, olds: list[int], news: list[int], said: str) -> None:
    old = run(tmp_path / "old", [record(pmid) for pmid in olds])
    new = run(tmp_path / "new", [record(pmid) for pmid in news])
    with pytest.raises(ConfigError) as refused:
        find_shared_pmids(old, new, only_held_out=True)
    assert str(refused.value) == "new: the two runs " + said.format(old=old, new=new)
