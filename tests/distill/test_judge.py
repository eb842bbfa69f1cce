"""The judge through the real command line, the real model and real abstracts: both forms, and both ways to use it."""

import json
import re
from pathlib import Path

import datasets
import matplotlib.image
import pytest

from kailin_ray.agents.evaluation import TIE
from kailin_ray.dataset.splits import is_held_out
from tests.conftest import MESH, Command
from tests.distill.test_run import records

LIMIT = 8


@pytest.fixture(scope="module")
def base(documents: Path, index: Path) -> list[str]:
    """What both runs share."""
    return ["distill", f"documents={documents}", f"index={index}", f"mesh={MESH}", f"limit={LIMIT}", "retrieval=brief"]


@pytest.fixture(scope="module")
def pairwise(kailin: Command, base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose judge decides everything, pairwise."""
    out = tmp_path_factory.mktemp("judged") / "pairwise"
    done = kailin(*base, f"out={out}", "evaluation.method=judge", "evaluation.judge.mode=pairwise")
    assert done.returncode == 0, done.stderr
    assert "rule and judge agree on" in done.stdout
    assert "judge: the candidate shown first gets" in done.stdout
    return out


def two_questions(row: dict) -> bool:
    return len({candidate["question"] for candidate in row["candidates"] or []}) == 2


def test_the_pairwise_judge_decides_from_both_orders(pairwise: Path) -> None:
    rows = records(pairwise)
    compared = [row for row in rows if two_questions(row)]
    assert len(rows) == LIMIT
    assert compared
    for row in compared:
        first, second = row["judge_orders"]
        assert 0.0 < min(first, second) <= max(first, second) < 1.0
        probabilities = [candidate["judge_probability"] for candidate in row["candidates"]]
        assert probabilities == pytest.approx([(first + second) / 2, 1 - (first + second) / 2])
        assert all(candidate["mesh_score"] is not None for candidate in row["candidates"])
        if row["preferred"] is not None:
            assert (row["preferred"], row["preferred_by"]) == (int(probabilities[1] > probabilities[0]), "judge")
            assert row["margin"] == pytest.approx(abs(probabilities[0] - probabilities[1]))
        assert sum(call["agent"] == "judge" for call in row["usage"]) == 2
    # Float32 logits: probabilities are not all multiples of bfloat16's coarse steps, and differ from row to row.
    assert len({row["judge_orders"][0] for row in compared}) == len(compared)
    assert not any(call["agent"] == "judge" for row in rows if not two_questions(row) for call in row["usage"])


def test_the_log_shows_the_order_swapped_probabilities_of_a_row(pairwise: Path) -> None:
    log = (pairwise / "logs" / "engines.log").read_text(errors="replace")
    shown = re.search(r"judge: PMID (\d+): P\(general\) shown first (0\.\d+), shown second (0\.\d+);", log)
    assert shown is not None
    row = next(row for row in records(pairwise) if row["pmid"] == int(shown[1]))
    assert [float(shown[2]), float(shown[3])] == pytest.approx(row["judge_orders"], abs=6e-4)


def test_the_manifest_tells_agreement_position_bias_and_coverage(pairwise: Path) -> None:
    manifest = json.loads((pairwise / "manifest.json").read_text())
    rows = records(pairwise)
    found = manifest["evaluation"]
    assert sum(found["preferred_by"].values()) == sum(row["preferred_by"] is not None for row in rows)
    both = [
        (scores[0] < scores[1], chances[0] < chances[1])
        for row in rows
        if two_questions(row)
        for scores, chances in [[[c[name] for c in row["candidates"]] for name in ("mesh_score", "judge_probability")]]
        if abs(scores[0] - scores[1]) > TIE and abs(chances[0] - chances[1]) > TIE
    ]
    assert found["agreement"]["rows"] == len(both)
    assert found["agreement"]["share"] == pytest.approx(sum(a == b for a, b in both) / len(both), abs=1e-4)
    assert found["position_bias"]["rows"] == sum(row["judge_orders"] is not None for row in rows)
    # Headings of accepted abstracts in branch C, counted from the records.
    letters = {row["branch"]: row for row in manifest["coverage"]["letters"]["branches"]}
    ok = [heading for row in rows if row["status"] == "ok" for heading in row["mesh"]]
    assert 0 < letters["C"]["accepted"] <= len(ok)
    assert letters["C"]["corpus"] > letters["C"]["accepted"]
    assert manifest["mesh"]["headings"]["known"] > 100
    assert matplotlib.image.imread(pairwise / "coverage.png").shape[2] == 4


def test_the_judge_s_training_data_is_balanced_and_disjoint(
    kailin: Command, pairwise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = kailin("publish", f"run={pairwise}", f"out={tmp_path}/dataset", "judge_min_margin=0.0")
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    splits = datasets.load_dataset(f"{tmp_path}/dataset", "judge", cache_dir=str(tmp_path / "cache"))
    # Of so few abstracts all may fall into one split.
    pmids = [set(data["pmid"]) for data in splits.values()]
    assert len(set().union(*pmids)) == sum(map(len, pmids))
    assert {pmid for data in splits.values() for pmid in data["pmid"]} == {
        row["pmid"]
        for row in records(pairwise)
        if two_questions(row) and abs(row["candidates"][0]["mesh_score"] - row["candidates"][1]["mesh_score"]) > TIE
    }
    for split, data in splits.items():
        said = [row["completion"][0]["content"] for row in data]
        assert said.count("A") == said.count("B") == len(said) / 2
        assert all(is_held_out(pmid) == (split == "test") for pmid in data["pmid"])
        for row in data:
            assert [m["role"] for m in (*row["prompt"], *row["completion"])] == ["system", "user", "assistant"]
    preferences = datasets.load_dataset(f"{tmp_path}/dataset", "preference", cache_dir=f"{tmp_path}/cache")
    for row in (row for data in preferences.values() for row in data):
        assert row["preferred_by"] == "judge"
        assert row["judge_probability_chosen"] - row["judge_probability_rejected"] == pytest.approx(row["margin"])
        assert row["mesh_score_chosen"] is not None
        assert row["mesh_score_rejected"] is not None


def test_rule_then_judge_asks_pointwise_only_where_the_rule_abstains(
    kailin: Command, base: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    by = ["evaluation.method=rule_then_judge", "evaluation.judge.mode=pointwise", "evaluation.min_margin=0.1"]
    done = kailin(*base, f"out={out}", *by)
    assert done.returncode == 0, done.stderr
    rows = records(out)
    assert len(rows) == LIMIT
    fresh = []
    for row in rows:
        candidates = row["candidates"] or []
        if not two_questions(row):
            assert row["preferred_by"] in (None, "only")
            continue
        scores = [candidate["mesh_score"] for candidate in candidates]
        if abs(scores[0] - scores[1]) >= 0.1:
            assert row["preferred_by"] == "rule"
            assert all(candidate["judge_probability"] is None for candidate in candidates)
        else:
            assert row["preferred_by"] in (None, "judge")
            assert all(0.0 < candidate["judge_probability"] < 1.0 for candidate in candidates)
        assert row["judge_orders"] is None
        calls = {call["agent"]: call for call in row["usage"]}
        if row["preferred_by"] == "judge":
            # The judge has read the evidence and the question: of the answer's prompt only its end is new.
            fresh.append(calls["answer"]["prompt_tokens"] - calls["answer"]["cached_tokens"])
    assert fresh
    assert max(fresh) < 80
    assert json.loads((out / "manifest.json").read_text())["evaluation"]["position_bias"]["rows"] == 0
