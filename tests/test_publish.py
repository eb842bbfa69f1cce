from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from kailin_ray import publish
from kailin_ray.publish import SCHEMAS, preference, rejected, sft, triple

RECORD = {
    "pmid": 7,
    "title": "Azide.",
    "abstract": "Azide preserved tissues.",
    "year": 1979,
    "mesh": [{"name": "Azides"}],
    "candidates": [
        {"question": "How?", "agent": "general", "mesh_score": 0.2, "contexts": [{"pmid": 1}]},
        {"question": "Does it?", "agent": "biomedical", "mesh_score": 0.5, "contexts": [{"pmid": 2}, {"pmid": 3}]},
    ],
    "preferred": 1,
    "preferred_by": "rule",
    "margin": 0.3,
    "contexts_text": ["two"],
    "answer": "Yes, it does.",
    "decision": {"word": "yes"},
    "status": "ok",
    "reason": None,
    "detail": None,
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
    assert made["margin"] == 0.3
    assert preference(RECORD | {"preferred_by": "only", "margin": None}) is None


def test_every_row_fits_its_schema() -> None:
    rows = {"triples": triple, "sft": sft, "preference": preference, "pretrain": publish.pretrain, "rejected": rejected}
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
    writer = publish._Writer(tmp_path / "pretrain", SCHEMAS["pretrain"])
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
    writer = publish._Writer(tmp_path / "rejected", SCHEMAS["rejected"])
    writer.write([])
    assert writer.close() == 0
    assert list(tmp_path.iterdir()) == []
