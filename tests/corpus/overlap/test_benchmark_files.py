import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kailin_ray.corpus.overlap.benchmark_files import Item, read_items
from kailin_ray.errors import ConfigError

PUBMEDQA = {
    "21645374": {
        "QUESTION": "Do mitochondria play a role?",
        "CONTEXTS": ["Cells die.", "Leaves have holes."],
        "LABELS": ["BACKGROUND", "RESULTS"],
        "MESHES": ["Apoptosis"],
        "YEAR": "2011",
        "final_decision": "yes",
        "LONG_ANSWER": "They do.",
    },
    "16418930": {"QUESTION": "Is it so?", "CONTEXTS": ["Perhaps it is."], "LONG_ANSWER": "It is."},
}
MEDMCQA = [
    {"question": "Which nerve?", "exp": None, "cop": 1, "opa": "The first", "opb": "The second", "id": "45258d3d"},
    {
        "question": "Where\u2028does it go?",
        "exp": "See the book.",
        "cop": 2,
        "opa": "Here",
        "opb": "There",
        "id": "b944",
    },
]
BIOASQ = {
    "questions": [
        {
            "body": "Is Hirschsprung disease a mendelian disorder?",
            "documents": ["http://www.ncbi.nlm.nih.gov/pubmed/15858239", "https://pubmed.ncbi.nlm.nih.gov/20598273/"],
            "ideal_answer": ["Coding mutations are involved."],
            "snippets": [{"text": "It is complex.", "document": "http://www.ncbi.nlm.nih.gov/pubmed/15829955"}],
            "id": "55031181e9bde69634000014",
        }
    ]
}
MMLU = 'A lesion of the nerve will cause,loss,"loss, and pain",pain,nothing,A\nWho is it?,he,she,it,they,C\n'


def write(folder: Path, name: str, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def lines(rows: list[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def parquet(rows: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.mark.parametrize("name", ["ori_pqal.json", "ori_pqal.json.gz"])
def test_pubmedqa_by_pmid(tmp_path: Path, name: str) -> None:
    items = read_items(write(tmp_path, name, json.dumps(PUBMEDQA, indent=1)))
    assert [item.id for item in items] == ["21645374", "16418930"]
    assert [item.pmids for item in items] == [(21645374,), (16418930,)]
    assert items[0].question == "Do mitochondria play a role?"
    assert items[0].texts == ("Do mitochondria play a role?", "Cells die.", "Leaves have holes.", "They do.")


def test_pubmedqa_ground_truth_is_pmids_alone(tmp_path: Path) -> None:
    items = read_items(write(tmp_path, "test_ground_truth.json", '{"12377809": "yes", "26163474": "no"}'))
    assert items == [Item("12377809", "", (), (12377809,)), Item("26163474", "", (), (26163474,))]


def test_pubmedqa_of_the_hub(tmp_path: Path) -> None:
    rows = [
        {
            "pubid": 21645374,
            "question": "Is it so?",
            "context": {"contexts": ["It may be.", "Or not."], "labels": ["A B"]},
            "long_answer": "It is so.",
        }
    ]
    (item,) = read_items(write(tmp_path, "train.parquet", parquet(rows)))
    assert item == Item(
        "21645374", "Is it so?", ("Is it so?", "It may be.", "Or not.", "A B", "It is so."), (21645374,)
    )
    assert read_items(write(tmp_path, "train.parquet.gz", parquet(rows))) == [item]


@pytest.mark.parametrize("name", ["dev.json", "dev.jsonl", "dev.json.gz", "dev.jsonl.gz"])
def test_medmcqa_lines(tmp_path: Path, name: str) -> None:
    items = read_items(write(tmp_path, name, lines(MEDMCQA)))
    assert [item.id for item in items] == ["45258d3d", "b944"]
    assert items[1].question == "Where\u2028does it go?"
    assert items[0].texts == ("Which nerve?", "The first", "The second")


def test_bioasq(tmp_path: Path) -> None:
    (item,) = read_items(write(tmp_path, "training.json", json.dumps(BIOASQ)))
    assert item.question == "Is Hirschsprung disease a mendelian disorder?"
    assert item.pmids == (15829955, 15858239, 20598273)
    assert item.id == "55031181e9bde69634000014"
    assert "It is complex." in item.texts and "Coding mutations are involved." in item.texts


def test_mmlu_without_and_csv_with_a_header(tmp_path: Path) -> None:
    items = read_items(write(tmp_path, "mmlu_test.csv", MMLU))
    assert [item.question for item in items] == ["A lesion of the nerve will cause", "Who is it?"]
    assert items[0].texts == ("A lesion of the nerve will cause", "loss, and pain")
    assert [item.id for item in items] == ["1", "2"]
    named = read_items(write(tmp_path, "named.csv.gz", "\ufeffID,Question,Answer\n7,Who is it?,not me\n"))
    assert named == [Item("7", "Who is it?", ("Who is it?", "not me"), ())]
    pmids = read_items(write(tmp_path, "pmids.csv", "pmid\n123\n456\n"))
    assert [item.pmids for item in pmids] == [(123,), (456,)]


@pytest.mark.parametrize("start", [0, 1])
def test_running_numbers_are_not_pmids(tmp_path: Path, start: int) -> None:
    rows = {str(number): {"question": f"Who is number {number}?"} for number in range(start, start + 3)}
    items = read_items(write(tmp_path, "numbered.json", json.dumps(rows)))
    assert [item.id for item in items] == list(rows)
    assert [item.pmids for item in items] == [(), (), ()]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("questions.txt", "What?", "its name ends in .txt"),
        ("questions", "What?", "its name ends in no suffix"),
        ("q.json", "[]", "0 of its 0 items"),
        ("q.json", "{}", "0 of its 0 items"),
        ("q.jsonl", "\x1f", "line 1: Expecting value"),
        ("q.csv", "question,answer\nWhat?,a,b\n", "item 1: 3 cells, but the header has 2"),
        ("q.csv", 'question,answer\n"What?,a\n', "unexpected end of data"),
        ("q.json", '"What?"', "it holds a str"),
        ("q.json", '[{"question": "What', "Unterminated string"),
        ("q.json", '[{"text": "What?", "label": 1}]', "keys found: label, text"),
        ("q.json", '[{"question": "What?"}, {"question": " "}]', "1 of its 2 items have neither question nor PMID"),
        ("q.json", "[" * 100_000, "RecursionError|recursion"),
        ("q.json", '[{"pmid": ' + "9" * 5_000 + "}]", "digits"),
        ("q.jsonl", '{"question": "What?"}\n{"question"\n', "line 2: "),
        ("q.json.gz", b"\x1f\x8bnothing", "cannot be read"),
        ("q.json", b"\xff\xfe\x00", "cannot be read"),
        ("q.csv", "id,text\n1,What?\n", "its first line names no column"),
        ("q.csv", "Who?,he,she,A\nWho is it?,he,she,it,they,C\n", "its first line names no column"),
        ("q.csv", "", "0 of its 0 items"),
        ("q.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_what_is_refused_and_why(tmp_path: Path, name: str, text: str | bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_items(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert "allowed: .json, .jsonl, .csv, .parquet" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.json: cannot be read as a benchmark: .*No such file"):
        read_items(tmp_path / "gone.json")


FLAT: list[dict[str, Any]] = [
    {"question": f"Is {word} useful?", "options": {"A": "yes"}, "answer": "A"} for word in ("one", "two")
]
KEYED = [item | {"PMID": [number]} for number, item in enumerate(FLAT, start=20000000)]


def test_benchmarks_of_several_items_keep_each_item_with_its_pmid(tmp_path: Path) -> None:
    """As of MIRAGE: items by PMID in one benchmark, by number in the other."""
    nested = {"pubmedqa": {"20000000": KEYED[0], "20000001": KEYED[1]}, "medqa": {"0000": FLAT[0], "0001": FLAT[1]}}
    items = read_items(write(tmp_path, "nested.json", json.dumps(nested)))
    assert [item.question for item in items] == ["Is one useful?", "Is two useful?"] * 2
    assert [item.pmids for item in items] == [(20000000,), (20000001,), (), ()]


@pytest.mark.parametrize(
    "nested",
    [
        {"pubmedqa": {"20000000": FLAT[0]}, "medqa": {"0000": FLAT[1]}},
        {"test": FLAT},
        {"part one": [FLAT[0]], "part two": [FLAT[1]]},
        {"a": {"b": {"1": FLAT[0]}}, "c": {"d": [FLAT[1]]}},
    ],
)
def test_several_benchmarks_in_one_file_are_all_read(tmp_path: Path, nested: Any) -> None:
    path = write(tmp_path, "nested.json", json.dumps(nested))
    assert [item.question for item in read_items(path)] == ["Is one useful?", "Is two useful?"]
