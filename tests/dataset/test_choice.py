"""``publish`` leaves out near-duplicate questions and a decision's surplus, through the real command line."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kailin_ray.dataset.choice import find_surplus
from kailin_ray.dataset.counts import count_records
from kailin_ray.dataset.folder import Dataset
from kailin_ray.dataset.run import Run
from kailin_ray.dataset.summary import format_summary
from kailin_ray.schema import LEFT_OUT
from tests.conftest import Command
from tests.support import runs

YES, NO, MAYBE = ({"word": word, "yes": 0.4, "no": 0.3, "maybe": 0.3} for word in ("yes", "no", "maybe"))


def accepted(pmid: int, question: str, score: float | None = 0.5, decision: dict[str, Any] | None = YES) -> runs.Record:
    return runs.record(
        pmid, general=(question, score), preferred=0, preferred_by="only", answer=f"Drug {pmid} helps.",
        decision=decision, contexts_text=["A context."], mesh=[], usage=[],
    )  # fmt: skip


def publish(kailin: Command, run: Path, *keys: str) -> Dataset:
    out = run.with_name(f"{run.name}-dataset-{len(list(run.parent.iterdir()))}")
    done = kailin("publish", f"run={run}", f"out={out}", "benchmarks=[]", *keys)
    assert done.returncode == 0, done.stderr
    return Dataset.open(out)


def read(dataset: Dataset, config: str) -> list[dict[str, Any]]:
    files = [path for split in ("train", "test") for path in dataset.files(config, split)]
    return sorted((row for file in files for row in pq.read_table(file).to_pylist()), key=lambda row: row["pmid"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    others = [accepted(pmid, f"Does drug {pmid} affect disease {pmid}?", decision=None) for pmid in range(10, 20)]
    rows = [
        accepted(1, "Does insulin affect lung neoplasms in women?", 0.2),
        accepted(2, "Did insulin affect the lung neoplasms in women?", 0.7, NO),
        accepted(3, "Does insulin affect lung neoplasms in men?", 0.1),
        accepted(4, "Does azide preserve tissues?"),
        accepted(5, "Does glucose preserve cells?"),
        accepted(6, "Does alcohol preserve organs?", decision=MAYBE),
        *others,
        runs.record(30, status="rejected", stage="question", reason="no_valid_question", usage=[]),
    ]
    folder = runs.run(tmp_path_factory.mktemp("runs") / "run", rows, retrieval={"top_k": 1})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["documents"] = "documents"
    manifest["versions"] = {"kailin_ray": "0.1.0"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_near_duplicate_question_is_left_out_and_listed(kailin: Command, run: Path) -> None:
    dataset = publish(kailin, run)
    assert dataset.manifest.dedup_questions == 0.9
    assert dataset.manifest.left_out == {"near_duplicate_question": 1}
    assert [row["pmid"] for row in read(dataset, "triples")] == [2, 3, 4, 5, 6, *range(10, 20)]
    (left_out,) = [row for row in read(dataset, "rejected") if row["reason"] in LEFT_OUT]
    assert (left_out["pmid"], left_out["status"], left_out["stage"]) == (1, "rejected", "question")
    assert (left_out["reason"], left_out["detail"]) == ("near_duplicate_question", "of PMID 2")
    card = (dataset.path / "README.md").read_text()
    assert "| near_duplicate_question | 1 |" in card
    assert "- accepted " in card


def test_without_dedup_all_are_published(kailin: Command, run: Path) -> None:
    dataset = publish(kailin, run, "dedup_questions=null")
    assert dataset.manifest.left_out == {}
    assert dataset.num_rows["triples"] == 16


def test_as_many_yes_as_no_are_published(kailin: Command, run: Path) -> None:
    one, two = (publish(kailin, run, "balance=decision") for _ in range(2))
    assert one.manifest.variety
    assert one.manifest.variety["decisions"] == {"none": 10, "yes": 1, "no": 1, "maybe": 1}
    assert one.manifest.left_out == {"near_duplicate_question": 1, "surplus_decision": 2}
    assert read(one, "triples") == read(two, "triples")
    surplus = [row for row in read(one, "rejected") if row["reason"] == "surplus_decision"]
    assert {row["pmid"] for row in surplus} < {3, 4, 5}
    assert not list(one.path.glob(".*"))


def test_what_is_common_is_counted_in_manifest_and_card(kailin: Command, run: Path) -> None:
    dataset = publish(kailin, run)
    variety = dataset.manifest.variety
    assert variety
    assert variety["decisions"] == {"none": 10, "yes": 3, "no": 1, "maybe": 1}
    assert variety["agents"] == {"general": 15}
    assert variety["openings"]["does drug"] == 10
    card = (dataset.path / "README.md").read_text()
    assert "- decisions: `none` 10, `yes` 3, `maybe` 1, `no` 1" in card
    assert "- openings: `does drug` 10, " in card


def test_an_unknown_balance_is_refused(kailin: Command, run: Path, tmp_path: Path) -> None:
    done = kailin("publish", f"run={run}", f"out={tmp_path / 'out'}", "balance=answers")
    assert done.returncode == 2
    assert "balance" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_surplus_depends_on_pmids_alone() -> None:
    yes, no = list(range(1, 101)), list(range(200, 230))
    left_out = find_surplus(np.array(yes), np.array(no))
    assert len(left_out) == 70
    random.Random(1).shuffle(yes)
    assert find_surplus(np.array(yes), np.array(no)).tolist() == left_out.tolist()
    assert find_surplus(np.array(no), np.array(yes)).tolist() == left_out.tolist()
    # A row that is added changes at most one other row.
    more = find_surplus(np.array([*yes, 150]), np.array(no))
    assert len(set(left_out) - set(more)) <= 1
    assert find_surplus(np.array(no), np.array(no) + 1000).tolist() == []


def test_a_run_s_rows_are_counted_in_its_summary(tmp_path: Path) -> None:
    folder = runs.run(
        tmp_path / "run",
        [
            accepted(1, "Does insulin affect lungs?"),
            accepted(2, "Does Insulin affect cells?", decision=NO),
            runs.record(3, ("Is azide good?", 0.1), ("How is azide made?", 0.2), 1, usage=[]),
            runs.record(4, ("Is azide good?", 0.1), status="rejected", usage=[]),
            runs.record(5, status="rejected", candidates=None, usage=[]),
        ],
    )
    variety = count_records(folder)["variety"]
    assert variety == {
        "decisions": {"yes": 1, "no": 1, "none": 1},
        "agents": {"general": 2, "biomedical": 1},
        "openings": {"does insulin": 2, "how is": 1},
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert Run.open(folder).manifest.variety is None
    assert "decisions" not in format_summary(Run.open(folder).manifest)
    personas = {"general": {"persona": "clinical"}, "biomedical": {"persona": "mechanism"}}
    manifest |= {"variety": variety, "config": manifest["config"] | {"model": personas}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    summary = format_summary(Run.open(folder).manifest)
    assert "decisions   no 1, none 1, yes 1" in summary
    assert "personas    general (clinical) 2, biomedical (mechanism) 1" in summary
    assert "openings    does insulin 2, how is 1" in summary
