"""Work begun again from records: what is kept, what is reset, and how new records take the place of old ones."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kailin_ray.dataset.records import compact, record_files, records
from kailin_ray.distill import replay as replay_module
from kailin_ray.distill import steps
from kailin_ray.errors import ConfigError
from kailin_ray.schema import RECORDS


def call(agent: str) -> dict[str, Any]:
    return {"agent": agent, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1, "output": "said"}


def record(pmid: int, status: str = "ok", stage: str | None = None, reason: str | None = None) -> dict[str, Any]:
    return {
        "pmid": pmid, "status": status, "stage": stage, "reason": reason, "detail": "why", "answer": "It did.",
        "candidates": [{"agent": "general", "question": "Q?", "contexts": [], "judge_probability": 0.6}],
        "preferred": 0, "preferred_by": "judge", "margin": 0.2, "shown": [{"pmid": 2, "text": "C"}],
        "usage": [call(agent) for agent in ("general", "judge", "answer", "decision")],
    }  # fmt: skip


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), RECORDS)


def test_a_record_is_begun_again_as_it_was_before_the_step() -> None:
    block = table(record(1), record(2, "rejected", "answer", "answer_truncated"))
    answers, evaluations = (steps.begin_again(block, step).to_pylist() for step in ("answer", "evaluation"))
    assert [row["pmid"] for row in answers] == [row["pmid"] for row in evaluations] == [1, 2]
    for row in answers:
        assert (row["status"], row["stage"], row["reason"], row["answer"], row["shown"]) == (None,) * 5
        assert (row["preferred"], row["margin"], row["candidates"][0]["judge_probability"]) == (0, 0.2, 0.6)
        assert [one["agent"] for one in row["usage"]] == ["general", "judge"]
    for row in evaluations:
        assert (row["preferred"], row["preferred_by"], row["candidates"][0]["judge_probability"]) == (None,) * 3
        assert (row["candidates"][0]["question"], [one["agent"] for one in row["usage"]]) == ("Q?", ["general"])


def test_a_record_that_ended_before_the_step_stays_as_it_is() -> None:
    block = table(record(1, "rejected", "question", "no_valid_question"))
    assert steps.begin_again(block, "answer").to_pylist() == block.to_pylist()


@pytest.mark.parametrize(
    ("setting", "step"),
    [
        ("model.general.sampling.top_p", "question"),
        ("retrieval.top_k", "question"),
        ("inputs.models.biomedical", "question"),
        ("evaluation.judge.mode", "evaluation"),
        ("evaluation.measure", "question"),
        ("inputs.prompts.evaluation", "evaluation"),
        ("model.answer.sampling.max_tokens", "answer"),
        ("answer.shown", "answer"),
        ("model.engine.max_model_len", "answer"),
        ("tolerate_orphans", None),
    ],
)
def test_settings_concern_steps(setting: str, step: str | None) -> None:
    assert steps.step_of(setting) == step


def test_the_first_step_that_differs_counts() -> None:
    before = {"retrieval.top_k": 4, "model.answer.x": 1, "gone": 1}
    assert steps.step_changed(before, before | {"new": 2}) is None
    assert steps.step_changed(before, before | {"model.answer.x": 2}) == ("answer", "model.answer.x")
    changed = {"model.answer.x": 2, "retrieval.top_k": 3}
    assert steps.step_changed(before, changed) == ("question", "retrieval.top_k")
    assert steps.later("evaluation") == ("evaluation", "answer")


def test_reasons_are_known_by_their_last_words() -> None:
    assert replay_module.chosen_reasons(["truncated", "no_mesh"]) == ["answer_truncated", "no_mesh"]
    with pytest.raises(ConfigError, match="reason: unknown 'cut'; allowed: no_abstract, "):
        replay_module.chosen_reasons(["cut"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three files of ten records; those whose PMID ends in 3 or 7 were cut."""
    folder = tmp_path / "run" / "records"
    folder.mkdir(parents=True)
    for start in (0, 10, 20):
        rows = [
            record(pmid, "rejected", "answer", "answer_truncated") if pmid % 10 in (3, 7) else record(pmid)
            for pmid in range(start, start + 10)
        ]
        pq.write_table(table(*rows), folder / f"{start}.parquet")
    return tmp_path / "run"


def test_the_rows_of_a_reason_are_found_with_their_step(run: Path) -> None:
    pmids, step = replay_module.rows_to_replay(run, ["answer_truncated", "no_mesh"])
    assert (pmids.tolist(), step) == ([3, 7, 13, 17, 23, 27], "answer")
    with pytest.raises(ConfigError, match="has no row that ended with no_mesh"):
        replay_module.rows_to_replay(run, ["no_mesh"])


def test_a_merged_file_still_names_what_it_stands_for(run: Path, tmp_path: Path) -> None:
    replaced = [path.read_bytes() for path in sorted((run / "records").iterdir())]
    compact(run / "records")
    (merged,) = record_files(run / "records")
    (tmp_path / "replay" / "records").mkdir(parents=True)
    pq.write_table(table(record(13)), tmp_path / "replay" / "records" / "a.parquet")
    assert replay_module.merge(run, tmp_path / "replay") == 1
    (run / "records" / "0.parquet").write_bytes(replaced[0])  # which a task wrote again, late
    assert record_files(run / "records") == [merged]
    assert sorted(records(run).to_table()["pmid"].to_pylist()) == list(range(30))


@pytest.mark.parametrize("files_before_the_kill", [0, 1, 2])
def test_a_merge_cut_off_anywhere_has_every_row_once_and_is_gone_on_with(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_before_the_kill: int
) -> None:
    replay = tmp_path / "replay"
    (replay / "records").mkdir(parents=True)
    pq.write_table(table(record(3), record(17), record(27)), replay / "records" / "a.parquet")
    pq.write_table(table(record(7), record(13), record(23)), replay / "records" / "b.parquet")
    write, number = pq.write_table, itertools.count()

    def killed(*arguments: Any, **options: Any) -> None:
        if next(number) >= files_before_the_kill:
            raise KeyboardInterrupt
        write(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        replay_module.merge(run, replay)
    monkeypatch.undo()
    found = records(run).to_table(columns=["pmid", "status"])
    assert sorted(found["pmid"].to_pylist()) == list(range(30))
    assert found["status"].to_pylist().count("rejected") == 6 - 2 * files_before_the_kill
    assert replay_module.merge(run, replay) == 6
    whole = records(run).to_table()
    assert np.array_equal(np.sort(whole["pmid"].to_numpy()), np.arange(30))
    assert set(whole["status"].to_pylist()) == {"ok"}
