"""The judge between two runs, with the real model through the real command line."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import RayError

from kailin_ray.comparison import job, judging, verdicts
from kailin_ray.comparison.manifest import JudgeIdentity
from kailin_ray.comparison.pairs import read_asked
from kailin_ray.comparison.verdicts import VERDICTS, pair_keys
from kailin_ray.config import CompareConfig, load
from kailin_ray.dataset.run import UsedModel
from kailin_ray.distill.preflight import check_judge
from kailin_ray.engines.interface import EngineDeadError, Generation
from kailin_ray.io.files import write_json
from tests.conftest import Command
from tests.support.runs import Record, candidate, record, run

GOOD = "Does aspirin reduce the recurrence of colorectal adenomas?"
OTHER = "How does the moon move the water of the sea?"
JUDGE = JudgeIdentity(
    mode="pairwise",
    model=UsedModel(name="fake", revision=None, adapter=None, identity="f1"),
    prompts="p1",
    runs={"old": "o1", "new": "n1"},
)
LONG = "word " * 1_500
"""Of two such contexts for each question no prompt of 3,072 tokens has room."""


def rows(question: str) -> list[Record]:
    abstract = "Patients took aspirin or placebo. Adenomas recurred in fewer of those who took aspirin."
    made = [record(pmid, (question, 0.3), None, 0, abstract=f"{abstract} {pmid}") for pmid in range(1, 7)]
    made[1]["candidates"][0]["question"] = "Is this the same question in both runs?"
    made[2]["candidates"] = [candidate("general", question, 0.3, [LONG, LONG])]
    made[3]["abstract"] = LONG * 3
    return made


class FakeJudge:
    """Likes questions with a higher number in them; dies, where the file is there, of the one with number 13."""

    def __init__(self, deadly: Path):
        self._deadly = deadly

    async def choose(self, messages: Any, words: Any, adapter: Any = None) -> Generation:
        first, second = (int(number) for number in re.findall(r"number (\d+)", messages[-1]["content"]))
        if 13 in (first, second) and self._deadly.exists():
            raise EngineDeadError("dead")
        likes_first = 0.9 if first > second else 0.2
        probabilities = dict(zip(words, (likes_first, 1 - likes_first), strict=True))
        cost = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1}
        return Generation(text="A", finish_reason="stop", probabilities=probabilities, **cost)

    def shutdown(self) -> None:
        pass


def test_a_dead_engine_ends_it_and_the_same_call_goes_on(
    ray_here: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "ABSTRACTS_PER_PART", 7)
    numbers = range(1, 31)
    dice = random.Random(0)
    olds = dice.sample(numbers, 30)
    run(
        tmp_path / "old",
        [record(n, (f"Is it number {old}?", 0.1), None, 0) for n, old in zip(numbers, olds, strict=True)],
    )
    new = [record(n, (f"Is it number {n}?", 0.1), (f"Is it number {n}?", 0.1), n % 2) for n in numbers]
    run(tmp_path / "new", new, pieces=4)
    asked = [f"{side}={tmp_path}/{side}" for side in ("old", "new", "out")]
    asked += [
        "evaluation.judge.mode=pairwise",
        "cluster.block_rows=2",
        "cluster.max_concurrent_rows=null",  # hence from the engine's limit
        "model.engine.max_num_seqs=4",
        "retrieval=brief",
    ]
    config = load(CompareConfig, "compare", asked)
    pmids = np.array(numbers)
    old, now = read_asked(config.old, pmids), read_asked(config.new, pmids)
    wanted = verdicts.list_pairs_to_judge(old, now)
    deadly = tmp_path / "deadly"
    deadly.touch()

    def judged() -> pa.Table:
        ray_here()
        return judging.judge_pairs(config, JUDGE, wanted, tmp_path / "log", lambda _: FakeJudge(deadly))

    with pytest.raises(RayError, match="EngineDeadError"):
        judged()
    ray.shutdown()  # its actors hold their CPUs
    before = verdicts.read_verdicts(job.judging_folder(config.out) / "verdicts")
    deadly.unlink()
    found = judged()
    assert len(before) < len(found) == len(wanted)
    made = verdicts.by_kind(found, old, now, pairwise=True)["preferred"]
    # 0.9 and 0.8 for the one with the higher number, shown first and second.
    assert made.new.tolist() == pytest.approx(
        [float("nan") if n == o else 0.85 if n > o else 0.15 for n, o in zip(numbers, olds, strict=True)], nan_ok=True
    )
    for higher, orders in zip((pmids < olds)[~made.same], made.orders, strict=True):
        assert orders.tolist() == pytest.approx([0.9, 0.8] if higher else [0.2, 0.1])


@pytest.fixture(scope="module")
def keys() -> list[int]:
    """Of the general agent's questions of PMIDs 1 to 6."""
    neither = np.zeros(6, np.int8)
    return pair_keys(np.arange(1, 7), neither, neither).tolist()


def test_the_judge_compares_and_goes_on_where_it_was(kailin: Command, tmp_path: Path, keys: list[int]) -> None:
    run(tmp_path / "old", rows(OTHER))
    run(tmp_path / "new", rows(GOOD))
    asked = [f"old={tmp_path}/old", f"new={tmp_path}/new", f"out={tmp_path}/out", "held_out=false"]
    asked += ["evaluation.judge.mode=pairwise", "retrieval=brief"]
    # What a call left that was stopped after it had judged the last abstract.
    config = check_judge(load(CompareConfig, "compare", asked))
    left = job.judging_folder(config.out)
    (left / "verdicts").mkdir(parents=True)
    write_json(left / "asked.json", asdict(job.judge_identity(config, job.check_runs(config))))
    verdict = {"key": keys[5], "old": 0.75, "new": 0.25, "orders": [1.0, 0.5]}
    pq.write_table(pa.Table.from_pylist([verdict], VERDICTS), left / "verdicts" / "a.parquet")

    done = kailin("compare", *asked)
    assert done.returncode == 0, done.stderr
    assert "the judge's probability" in done.stdout
    assert "4/4" in done.stderr  # of five pairs that differ
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    counts = found["counts"]["preferred"]["judge"]
    assert (counts["same_question"], counts["faults"], counts["missing"]) == (1, {"abstract_too_long": 1}, 1)
    assert counts["ties"] == 1
    assert counts["losses"] >= 1  # the one of the call that was stopped
    assert counts["wins"] + counts["losses"] == 4
    # Both were asked with the contexts that fit.
    assert counts["position_bias"]["rows"] == 4
    assert 0.0 < counts["position_bias"]["first"] < 1.0
    probability = found["figures"]["preferred.judge_probability"]
    assert probability["abstracts"] == 5
    assert 0.0 < probability["new"][0] < 1.0
    assert found["judge"]["mode"] == "pairwise"
    assert found["judge"]["model"]["name"] == "smollm2-135m-instruct"
    assert not left.exists()
    assert "preferred, judge: not judged: 1 abstract_too_long" in (tmp_path / "out" / "README.md").read_text()


def test_verdicts_of_other_runs_are_not_gone_on_with(tmp_path: Path, keys: list[int]) -> None:
    config = load(CompareConfig, "compare", ["old=a", "new=b", f"out={tmp_path}/out"])
    left = job.judging_folder(config.out)
    (left / "verdicts").mkdir(parents=True)
    write_json(left / "asked.json", asdict(replace(JUDGE, mode="pointwise")))
    verdict = {"key": keys[0], "old": 0.75, "new": 0.25}
    pq.write_table(pa.Table.from_pylist([verdict], VERDICTS), left / "verdicts" / "a.parquet")
    nothing = np.zeros(0, np.int64)
    assert (
        judging.judge_pairs(config, replace(JUDGE, mode="pointwise"), nothing, tmp_path / "log")["key"].to_pylist()
        == keys[:1]
    )
    assert judging.judge_pairs(config, JUDGE, nothing, tmp_path / "log").num_rows == 0
