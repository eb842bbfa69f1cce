"""What people write passes the checks: the table of docs/evaluation.md, on a sample of PubMedQA."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SAMPLE = ROOT / "tests" / "data" / "pubmedqa" / "sample.jsonl.gz"


@pytest.fixture(scope="module")
def measured() -> dict:
    script = ROOT / "benchmarks" / "evidence" / "human_text.py"
    done = subprocess.run([sys.executable, script, SAMPLE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_check_rejects_a_human_question_or_answer(measured: dict) -> None:
    assert measured["items"] == 60
    assert measured["rejected"] == {"questions": {"any": 0}, "answers": {"any": 0}, "known_as_yes_no": 57}


def test_the_opposite_decision_is_a_contradiction_and_the_own_is_none(measured: dict) -> None:
    found = measured["contradictions"]
    assert found["own"] == {"answers": 53, "rejected": 0}
    assert found["opposite"] == {"answers": 53, "rejected": 53}


def test_worked_examples_are_found_and_human_text_is_none(measured: dict) -> None:
    copies = measured["copies"]
    assert copies["sentences_with_example_words"] == 0
    assert copies["examples_as_output"] == {"texts": 360, "rejected": 360}
    assert copies["most_copied_of_own_abstract"] < 0.9


def test_reworded_questions_are_alike_and_others_are_not(measured: dict) -> None:
    cut = measured["repeats"]["two content words"]
    assert cut["reworded"]["alike"] == cut["reworded"]["pairs"] > 100
    assert cut["other"]["alike"] == 0 < cut["other"]["pairs"]
