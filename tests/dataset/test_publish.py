from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from kailin_ray.dataset import writers
from kailin_ray.dataset.rows import SCHEMAS, judge, preference, pretrain, rejected, sft, sft_text, triple
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
            "contexts": [{"pmid": 1, "score": 0.5, "title": "", "text": "one"}],
        },
        {
            "question": "Does it?",
            "agent": "biomedical",
            "mesh_score": 0.5,
            "judge_probability": 0.6,
            "contexts": [
                {"pmid": 2, "score": 0.5, "title": "", "text": "two"},
                {"pmid": 3, "score": 0.25, "title": "", "text": "three"},
            ],
        },
    ],
    "preferred": 1,
    "preferred_by": "rule",
    "margin": 0.3,
    "shown": [
        {"pmid": 7, "title": "Azide.", "text": "Azide preserved tissues.", "score": None, "is_source": True},
        {"pmid": 2, "title": "Fixing.", "text": "two", "score": 0.5, "is_source": False},
    ],
    "answer": "Yes, it does.",
    "decision": {"word": "yes"},
    "status": "ok",
    "stage": None,
    "reason": None,
    "detail": None,
    "usage": [{"agent": "general", "prompt_hash": "0f", "finish_reason": "stop", "output": "How?"}],
}


def test_a_triple_lists_every_passage_that_was_shown() -> None:
    made = triple(RECORD)
    assert (made["question"], made["agent"], made["mesh_score"]) == ("Does it?", "biomedical", 0.5)
    assert (made["contexts"], made["decision"]) == (RECORD["shown"], "yes")


def test_a_record_of_an_earlier_version_lists_what_that_version_showed() -> None:
    before = {name: value for name, value in RECORD.items() if name != "shown"} | {"contexts_text": ["two"]}
    for record in (before, before | {"shown": None}):
        assert triple(record)["contexts"] == [
            RECORD["shown"][0],
            {"pmid": 2, "title": None, "text": "two", "score": 0.5, "is_source": False},
        ]
    assert "[1] two\n" in sft(before)["prompt"][0]["content"]
    assert "\n\ntwo\n\n" in pretrain(before)["text"]


PROMPT = """Title: Azide.
Abstract: Azide preserved tissues.

Evidence from other abstracts:
[1] Fixing. two

Question: Does it?
Answer in one sentence.
In a last line, say whether the answer is yes, no or maybe."""


def test_sft_grounds_the_answer_in_its_prompt_and_ends_with_the_decision() -> None:
    made = sft(RECORD)
    assert made["prompt"] == [{"role": "user", "content": PROMPT}]
    assert made["completion"] == [{"role": "assistant", "content": "Yes, it does.\nAnswer: yes"}]
    text = sft_text(RECORD)
    assert (text["prompt"], text["completion"]) == (f"{PROMPT}\n", "Yes, it does.\nAnswer: yes")
    made = sft(RECORD | {"decision": None})
    assert made["prompt"][0]["content"].endswith("Question: Does it?\nAnswer in one sentence.")
    assert made["completion"][0]["content"] == "Yes, it does."


READ = 'I read a paper with the title "Azide." and the following abstract:\n\nAzide preserved tissues.\n\n'
PONDERED = "With this in mind, I pondered the following scientific question:\n\nDoes it?"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (
            slice(0, 2),
            f"{READ}After reading it, I searched for related material and found these passages:\n\nFixing. two\n\n"
            f"{PONDERED}",
        ),
        (slice(1, 2), f"I searched for material and found these passages:\n\nFixing. two\n\n{PONDERED}"),
        (slice(0, 1), f"{READ}{PONDERED}"),
    ],
)
def test_pretrain_is_whole_sentences_about_what_was_shown(shown: slice, text: str) -> None:
    assert pretrain(RECORD | {"shown": RECORD["shown"][shown]}) == {"text": text, "pmid": 7}


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
        "pretrain": pretrain, "rejected": rejected,
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
    monkeypatch.setattr(writers, "ROWS_AT_ONCE", 4)
    monkeypatch.setattr(writers, "ROWS_PER_FILE", 8)
    writer = writers.ParquetWriter(tmp_path, "pretrain", "train", SCHEMAS["pretrain"])
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
    for kind in (writers.ParquetWriter, writers.JsonLinesWriter):
        writer = kind(tmp_path, "rejected", "train", SCHEMAS["rejected"])
        writer.write([])
        assert writer.close() == 0
    assert list(tmp_path.iterdir()) == []
