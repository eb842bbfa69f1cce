"""The `compare` command without a judge, on runs that are made up; with one it is in tests/test_judge.py."""

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.__main__ import conf_dir
from kailin_ray.comparison import job
from kailin_ray.comparison.judging import VERDICTS, _duels, by_kind
from kailin_ray.config import CompareConfig, ConfigError, check
from kailin_ray.files import write_json
from kailin_ray.held_out import held_out
from kailin_ray.schema import RECORDS

HELD_OUT = [pmid for pmid in range(1, 600) if held_out(pmid)][:40]
OTHERS = [pmid for pmid in range(1, 600) if not held_out(pmid)][:20]
PMIDS = sorted(HELD_OUT + OTHERS)
SUBJECTS = ("insulin", "aspirin", "digoxin", "heparin", "iron", "zinc", "lead", "azide", "ethanol", "morphine")


def config(old: Path, new: Path, out: Path, *keys: str) -> CompareConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(
            CompareConfig, compose("compare", [f"old={old}", f"new={new}", f"out={out}", "judge=false", *keys])
        )


def question(pmid: int) -> str:
    return f"Does {SUBJECTS[pmid % 10]} number {pmid} lower {SUBJECTS[pmid // 10 % 10]} in group {pmid % 7}?"


def record(pmid: int, asked: str | None, score: float | None, status: str = "ok") -> dict[str, Any]:
    made = {"agent": "general", "question": asked, "mesh_score": score, "contexts": [{"text": f"context of {pmid}"}]}
    other = {"agent": "biomedical", "question": f"Why is {pmid}?", "mesh_score": 0.1, "contexts": [{"text": "other"}]}
    candidates = [other] if asked is None else [made, other]
    reason = None if status == "ok" else "answer_truncated"
    about = {"pmid": pmid, "title": f"T{pmid}", "abstract": "A", "status": status, "reason": reason}
    return about | {"candidates": candidates, "preferred": 0}


def run(folder: Path, rows: list[dict[str, Any]], documents: str = "d") -> Path:
    (folder / "records").mkdir(parents=True)
    half = len(rows) // 2
    for number, some in enumerate((rows[half:], rows[:half])):
        pq.write_table(pa.Table.from_pylist(some, RECORDS), folder / "records" / f"{number:09}-x.parquet")
    about = {"kind": "run", "documents": {"id": documents}, "models": {}, "replays": []}
    write_json(folder / "manifest.json", about)
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return run(tmp_path / "old", [record(pmid, question(pmid), 0.5) for pmid in PMIDS])


def compared(given: CompareConfig) -> dict[str, Any]:
    return job.compare(given, *job.opened(given), None)


def test_a_run_is_worth_as_much_as_itself(old: Path, tmp_path: Path) -> None:
    found = compared(config(old, old, tmp_path / "out"))
    assert found["abstracts"] == len(HELD_OUT)
    for kind in ("preferred", "general", "biomedical"):
        mine = found["questions"][kind]
        assert mine["mesh_score"]["difference"] == mine["words"]["difference"] == [0, 0, 0]
        assert (mine["rule"]["ties"], mine["rule"]["rate"]) == (len(HELD_OUT), [0.5, 0.5, 0.5])
        assert mine["diversity"]["old"] == mine["diversity"]["new"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Better" not in card
    assert "Worse" not in card
    assert "Less varied" not in card
    assert matplotlib.image.imread(tmp_path / "out" / "comparison.png").shape[0] > 100
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found


def test_what_is_better_worse_and_open_is_said_from_the_intervals(old: Path, tmp_path: Path) -> None:
    rows = [
        record(pmid, question(pmid) + " or so", 0.7, "ok" if number % 3 else "rejected")
        for number, pmid in enumerate(PMIDS)
    ]
    found = compared(config(old, run(tmp_path / "new", rows), tmp_path / "out", "held_out=false"))
    assert found["abstracts"] == len(PMIDS)
    assert found["questions"]["general"]["rule"]["wins"] == len(PMIDS)
    assert found["accepted"]["difference"][0] == pytest.approx(-1 / 3, abs=0.01)
    assert found["reasons"] == {"old": {}, "new": {"answer_truncated": len(PMIDS) / 3}}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Better: preferred: MeSH score; preferred: wins under the rule; general: MeSH score" in card
    assert "Worse: accepted." in card
    assert "Changed: preferred: words more; general: words more." in card
    assert "Not distinguishable: general: gave a question" in card


def test_an_agent_that_asks_everybody_the_same_is_found_out(old: Path, tmp_path: Path) -> None:
    rows = [record(pmid, "Does insulin lower glucose in obese patients with diabetes?", 0.9) for pmid in PMIDS]
    found = compared(config(old, run(tmp_path / "new", rows), tmp_path / "out"))
    assert found["questions"]["general"]["diversity"]["new"]["repeats"] == 1.0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Better: preferred: MeSH score" in card  # which is just what the reward says
    assert "Less varied: 100% of the preferred questions nearly repeat another one" in card


def test_a_question_that_is_missing_is_no_loss_but_is_counted(old: Path, tmp_path: Path) -> None:
    rows = [record(pmid, None if number % 2 else question(pmid), 0.5) for number, pmid in enumerate(PMIDS)]
    found = compared(config(old, run(tmp_path / "new", rows), tmp_path / "out", "held_out=false"))
    general = found["questions"]["general"]
    assert (general["rule"]["ties"], general["rule"]["missing"]) == (30, 30)
    assert general["asked"]["new"][0] == 0.5


def test_only_questions_that_differ_are_put_to_the_judge_and_each_verdict_finds_its_abstract(
    old: Path, tmp_path: Path
) -> None:
    rows = [record(pmid, question(pmid) + ("!" if number < 3 else ""), 0.5) for number, pmid in enumerate(PMIDS)]
    new = run(tmp_path / "new", rows)
    (duels,) = _duels(old, new, np.array(PMIDS))
    asked = sorted((row["pmid"], row["kind"]) for row in duels.to_pylist())
    assert asked == sorted((pmid, kind) for pmid in PMIDS[:3] for kind in ("general", "preferred"))
    first = duels.to_pylist()[0]
    assert [one["question"] for one in first["candidates"]] == [question(first["pmid"]), question(first["pmid"]) + "!"]
    assert first["candidates"][1]["contexts"] == [{"text": f"context of {first['pmid']}"}]
    verdicts = pa.Table.from_pylist(
        [
            {"pmid": PMIDS[2], "kind": "general", "probability": 0.9, "orders": [0.2, 0.0]},
            {"pmid": PMIDS[1], "kind": "general", "probability": None, "orders": None},
        ],
        VERDICTS,
    )
    probabilities, orders = by_kind(verdicts, np.array(PMIDS))["general"]
    assert probabilities[2] == 0.9
    assert np.isnan(np.delete(probabilities, 2)).all()
    assert orders.tolist() == [[0.2, 0.0]]
    given = config(old, new, tmp_path / "out", "held_out=false")
    found = job.compare(given, *job.opened(given), verdicts)["judge"]["general"]
    # The same question is a tie by itself; of what the judge could not be asked nothing is known.
    assert [found[name] for name in ("wins", "ties", "losses", "missing")] == [1, len(PMIDS) - 3, 0, 2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"documents": "other"}, "new: .*new was made of other documents than .*old"),
        ({"rows": [record(pmid, "Why?", 0.1) for pmid in (100_001, 100_002)]}, r"share 0 abstracts \(60 and 2\)"),
        ({"rows": [record(pmid, "Why?", 0.1) for pmid in OTHERS]}, "share 20 abstracts .* of which none is held out"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(old: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = change.pop("rows", [record(pmid, "Why?", 0.1) for pmid in PMIDS])
    with pytest.raises(ConfigError, match=said):
        job.opened(config(old, run(tmp_path / "new", rows, **change), tmp_path / "out"))


def test_nothing_is_overwritten(old: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out: .* exists"):
        job.opened(config(old, old, old))
