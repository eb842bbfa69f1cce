import json
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.dataset.decontaminate import find_leaks, load_benchmarks
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import sha256

QUESTION = "Does early administration of tranexamic acid reduce mortality in patients with traumatic brain injury?"
LONG = "it was the opinion of the committee that nothing at all could be done about it any more"


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    path = tmp_path / "benchmark.json"
    path.write_text(json.dumps([{"pmid": 8, "question": QUESTION}, {"question": "And what then?", "context": LONG}]))
    return path


def record(question: str = "Is it so?", answer: str | None = "It is.", **context: Any) -> dict[str, Any]:
    shown = {"pmid": 1, "text": "A passage about nothing in particular."} | context
    return {"candidates": [{"question": question, "contexts": [shown]}], "answer": answer}


def test_questions_contexts_and_answers_are_looked_through(benchmark: Path) -> None:
    benchmarks = load_benchmarks((benchmark,), {})
    assert benchmarks
    records = [
        record(),
        record(question=QUESTION.replace("reduce", "lower")),
        record(answer=f"Yes, as {LONG}."),
        record(text=f"They said that {LONG}."),
        record(pmid=8),
        {"candidates": None, "answer": None},
    ]
    leaks = find_leaks(records, benchmarks)
    assert [leak and (leak[0], leak[1].reason) for leak in leaks] == [
        None,
        ("question", "benchmark_question"),
        ("answer", "benchmark_overlap"),
        ("question", "benchmark_overlap"),
        ("question", "benchmark_pmid"),
        None,
    ]


def test_what_the_documents_were_cleaned_of_must_be_at_hand(benchmark: Path) -> None:
    cleaned_of = {sha256(benchmark): str(benchmark)}
    assert load_benchmarks(None, {}) is None
    assert load_benchmarks((), cleaned_of) is None
    assert load_benchmarks(None, cleaned_of) is not None
    benchmark.write_text("[]")
    with pytest.raises(ConfigError, match=r"benchmark\.json, which .* has changed since"):
        load_benchmarks(None, cleaned_of)
    benchmark.unlink()
    with pytest.raises(ConfigError, match=r"no longer exists; name the files as benchmarks=\[...\]"):
        load_benchmarks(None, cleaned_of)
    with pytest.raises(ConfigError, match=r"benchmarks: .* does not exist"):
        load_benchmarks((benchmark,), {})
