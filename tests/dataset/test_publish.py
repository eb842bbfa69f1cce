from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from kailin_ray.dataset import publish
from kailin_ray.dataset import rows as rows_module
from kailin_ray.dataset.rows import SCHEMAS, judge, preference, rejected, sft, triple
from kailin_ray.dataset.splits import is_held_out

RECORD = {
    "pmid": 7,
    "title": "Azide.",
    "abstract": "Azide preserved tissues.",
    "year": 1979,
    "mesh": [{"name": "Azides"}],
    "candidates": [
        {
            "question": "How?",
            "agent": "general",
            "mesh_score": 0.2,
            "judge_probability": 0.4,
            "contexts": [{"pmid": 1, "text": "one"}],
        },
        {
            "question": "Does it?",
            "agent": "biomedical",
            "mesh_score": 0.5,
            "judge_probability": 0.6,
            "contexts": [{"pmid": 2, "text": "two"}, {"pmid": 3, "text": "three"}],
        },
    ],
    "preferred": 1,
    "preferred_by": "rule",
    "margin": 0.3,
    "contexts_text": ["two"],
    "answer": "Yes, it does.",
    "decision": {"word": "yes"},
    "status": "ok",
    "stage": None,
    "reason": None,
    "detail": None,
    "usage": [{"agent": "general", "prompt_hash": "0f", "finish_reason": "stop", "output": "How?"}],
}


def test_a_triple_lists_the_contexts_that_were_shown() -> None:
    made = triple(RECORD)
    assert (made["question"], made["agent"], made["mesh_score"]) == ("Does it?", "biomedical", 0.5)
    assert (made["contexts"], made["context_pmids"], made["decision"]) == (["two"], [2], "yes")


def test_sft_grounds_the_answer_in_its_prompt() -> None:
    made = sft(RECORD)
    assert (
        made["prompt"] == "Title: Azide.\nAbstract: Azide preserved tissues.\n\n[1] two\n\nQuestion: Does it?\nAnswer:"
    )
    assert made["completion"] == " Yes, it does."


def test_preference_pairs_the_two_questions_under_one_prompt() -> None:
    made = preference(RECORD)
    assert made is not None
    assert (made["chosen"][0]["content"], made["rejected"][0]["content"]) == ("Does it?", "How?")
    assert (made["margin"], made["preferred_by"], made["pmid"]) == (0.3, "rule", 7)
    assert (made["mesh_score_chosen"], made["mesh_score_rejected"]) == (0.5, 0.2)
    assert (made["judge_probability_chosen"], made["judge_probability_rejected"]) == (0.6, 0.4)
    assert preference(RECORD | {"preferred_by": "only", "margin": None}) is None


def test_the_judge_learns_the_rule_s_preference_in_both_orders() -> None:
    one, two = judge(RECORD, 0.3)
    assert [m["content"] for m in (*one["completion"], *two["completion"])] == ["B", "A"]
    assert "A: How?\n[1] one\nB: Does it?\n[1] two\n[2] three\n" in one["prompt"][-1]["content"]
    assert "A: Does it?\n[1] two\n[2] three\nB: How?\n[1] one\n" in two["prompt"][-1]["content"]
    # The rule's scores count: not who preferred, nor what became of the answer.
    other = judge(RECORD | {"preferred": 0, "preferred_by": "judge", "status": "rejected"}, 0.3)
    assert [m["content"] for row in other for m in row["completion"]] == ["B", "A"]


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": None},
        {"candidates": RECORD["candidates"][:1]},
        {"candidates": [RECORD["candidates"][0], RECORD["candidates"][0] | {"mesh_score": 0.9}]},
        {"candidates": [RECORD["candidates"][0], RECORD["candidates"][1] | {"mesh_score": None}]},
        {"candidates": [RECORD["candidates"][0], RECORD["candidates"][1] | {"mesh_score": 0.49}]},
    ],
)
def test_where_the_rule_is_not_confident_the_judge_learns_nothing(change: dict) -> None:
    assert judge(RECORD | change, 0.3) == []


def test_one_abstract_in_ten_is_held_out() -> None:
    assert 900 < sum(is_held_out(pmid) for pmid in range(10_000)) < 1_100


def test_every_row_fits_its_schema() -> None:
    rows = {
        "triples": triple, "sft": sft, "preference": preference, "judge": lambda row: judge(row, 0.0)[0],
        "pretrain": rows_module.pretrain, "rejected": rejected,
        "removed": lambda row: {name: row[name] for name in ("pmid", "reason", "detail")},
    }  # fmt: skip
    assert rows.keys() == SCHEMAS.keys()
    for name, make in rows.items():
        made = make(RECORD)
        assert set(made) == set(SCHEMAS[name].names)
        pa.Table.from_pylist([made], SCHEMAS[name])


@pytest.mark.parametrize("numbers", [[0, 3, 0], [1] * 25, [9, 8]])
def test_any_number_of_rows_in_any_pieces_loads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int]
) -> None:
    monkeypatch.setattr(publish, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(publish, "ROWS_PER_FILE", 8)
    writer = publish._Writer(tmp_path / "pretrain", "train", SCHEMAS["pretrain"])
    texts = iter(f"text {i}" for i in range(100))
    written = []
    for number in numbers:
        rows = [{"text": next(texts)} for _ in range(number)]
        written += [row["text"] for row in rows]
        writer.write(rows)
    assert writer.close() == len(written)
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{tmp_path}/pretrain/*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["text"][:] == written


def test_no_rows_make_no_folder(tmp_path: Path) -> None:
    writer = publish._Writer(tmp_path / "rejected", "train", SCHEMAS["rejected"])
    writer.write([])
    assert writer.close() == 0
    assert list(tmp_path.iterdir()) == []
