"""Training data: what is read, left out, held out, refused."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.agents import question
from kailin_ray.agents.prompts import SYSTEM, TASKS, ask
from kailin_ray.config import TrainConfig, check, conf_dir
from kailin_ray.corpus.documents import DocumentsManifest
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import write_manifest
from kailin_ray.schema import DOCUMENTS
from kailin_ray.training.examples import Examples, load_examples, text_of

TRAINED = [pmid for pmid in range(1, 400) if not is_held_out(pmid)]
HELD_OUT = [pmid for pmid in range(1, 400) if is_held_out(pmid)]


def config(task: str, path: Path, *keys: str) -> TrainConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        given = [f"task={task}", f"data.path={path}", "out=unused", "min_examples=1", *keys]
        return check(TrainConfig, compose("train", given))


def examples_of(config: TrainConfig) -> Examples:
    return load_examples(config, Path(tempfile.mkdtemp()))


def pair(pmid: int, chosen: str, rejected: str, margin: float | None = 0.5) -> dict[str, Any]:
    prompt = question.messages({"title": f"T{pmid}", "abstract": "A"}, "any", examples=False)
    sides = {"chosen": [ask("assistant", chosen)], "rejected": [ask("assistant", rejected)]}
    return {"prompt": prompt, **sides, "margin": margin, "pmid": pmid}


def write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    (folder / "preference").mkdir(parents=True)
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "preference" / f"{split}-0.parquet")
    files = "".join(f"  - {{split: {one}, path: 'preference/{one}-*.parquet'}}\n" for one in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: preference\n  data_files:\n{files}---\n")
    return folder


def test_a_folder_is_not_taken_for_another_of_its_name(tmp_path: Path) -> None:
    for place, pmid in (("a", TRAINED[0]), ("b", TRAINED[1])):
        folder = write(tmp_path / place / "dataset", train=[pair(pmid, f"Is {pmid} so?", f"Why is {pmid}?")])
        assert questions(examples_of(config("dpo", folder))) == [f"Is {pmid} so?"]


def questions(found: Examples, column: str = "chosen") -> list[str]:
    return [text_of(side) for side in found.train[column]]


def test_pairs_of_abstracts_that_are_held_out_are_measured_on_wherever_they_come_from(tmp_path: Path) -> None:
    train = [pair(pmid, f"Is {pmid} so?", f"Why is {pmid}?") for pmid in (*TRAINED[:3], HELD_OUT[0])]
    test = [pair(pmid, f"Is {pmid} so?", f"Why is {pmid}?") for pmid in (HELD_OUT[1], TRAINED[5])]
    found = examples_of(config("dpo", write(tmp_path / "d", train=train, test=test)))
    assert found.train["pmid"][:] == TRAINED[:3]
    assert found.test is not None
    assert sorted(found.test["pmid"]) == sorted([*HELD_OUT[:2], TRAINED[5]])
    assert found.left_out == {}


def test_what_is_left_out_of_the_pairs_is_counted(tmp_path: Path) -> None:
    rows = [
        pair(TRAINED[0], "Is it so?", "Why is it?"),
        pair(TRAINED[0], "Is it so?", "Why is it?"),
        pair(TRAINED[1], "Is it so?", "Why is it?", 0.01),
        pair(TRAINED[2], "Is it so?", "Why is it?", None),
        pair(TRAINED[3], "one two three four five six seven", "one two three"),
        pair(TRAINED[4], "one two three four five six", "one two three"),
    ]
    found = examples_of(config("dpo", write(tmp_path / "d", train=rows), "dpo.min_margin=0.1"))
    assert found.train["pmid"][:] == [TRAINED[0], TRAINED[4]]
    assert found.left_out == {"duplicate": 1, "under_min_margin": 2, "unlike_lengths": 1}
    every = examples_of(config("dpo", tmp_path / "d", "dpo.max_length_ratio=null"))
    assert len(every.train) == 5
    weighted = examples_of(config("dpo", tmp_path / "d", "dpo.max_length_ratio=null", "dpo.weight_by_margin=true"))
    assert len(weighted.train) == 4  # one has no margin to be drawn by


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["min_examples=9"], "leaves 2 examples to train on, fewer than min_examples=9"),
        (["data.name=rejected"], "data.name: rejected: rows that were not accepted are not used for training"),
        (["data.name=other"], "data.path: .*other"),
        (["task=judge", "data.name=preference"], "has no column 'completion', which task=judge needs: prompt, chosen"),
        (["data=pubmedqa"], "data.kind: pubmedqa provides questions; task=dpo needs kind: trl"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(tmp_path: Path, keys: list[str], said: str) -> None:
    folder = write(tmp_path / "d", train=[pair(pmid, f"Is {pmid}?", "Why?") for pmid in TRAINED[:2]])
    task = keys.pop(0).partition("=")[2] if keys[0].startswith("task=") else "dpo"
    if keys[0] == "data=pubmedqa":
        keys.append("~data.name")
    with pytest.raises(ConfigError, match=said):
        examples_of(config(task, folder, *keys))


def test_a_pair_of_equal_sides_is_an_error_that_shows_it(tmp_path: Path) -> None:
    rows = [pair(TRAINED[0], "Is it so?", "Why?"), pair(TRAINED[1], "Is it not so?", "Is it not so? ")]
    with pytest.raises(ConfigError, match="chosen equals rejected in row 1: 'Is it not so"):
        examples_of(config("dpo", write(tmp_path / "d", train=rows)))


def test_equal_sides_are_found_in_the_test_split_too(tmp_path: Path) -> None:
    same = [pair(HELD_OUT[0], "Is it so?", "Is it so?")]
    folder = write(tmp_path / "d", train=[pair(TRAINED[0], "Is it so?", "Why?")], test=same)
    with pytest.raises(ConfigError, match="chosen equals rejected in row 0"):
        examples_of(config("dpo", folder))


def test_margins_that_are_not_there_cannot_choose(tmp_path: Path) -> None:
    row = pair(TRAINED[0], "Is it so?", "Why?")
    del row["margin"]
    with pytest.raises(ConfigError, match="the data have no column margin"):
        examples_of(config("dpo", write(tmp_path / "d", train=[row]), "dpo.weight_by_margin=true"))


def test_a_benchmark_s_abstracts_and_questions_are_not_learned(tmp_path: Path) -> None:
    asked = "Does the regular use of aspirin prevent the recurrence of adenomas of the colon in middle age?"
    rows = [
        pair(TRAINED[0], "Is it so?", "Why is it?"),
        pair(TRAINED[1], "Is it so?", "Why is it?"),
        pair(TRAINED[2], asked, "Why is it?"),
    ]
    benchmark = tmp_path / "bench.json"
    benchmark.write_text(json.dumps({str(TRAINED[1]): {"QUESTION": "Another?"}, "77777": {"QUESTION": asked}}))
    keys = [f"exclude=[{benchmark}]", "dpo.max_length_ratio=null"]
    found = examples_of(config("dpo", write(tmp_path / "d", train=rows), *keys))
    assert found.train["pmid"][:] == [TRAINED[0]]
    assert found.left_out == {"benchmark_pmid": 1, "benchmark_text": 1}


def pubmedqa(tmp_path: Path) -> Path:
    items = {
        str(pmid): {"QUESTION": f"Is {pmid} so?", "CONTEXTS": ["It is.", f"Number {pmid}."], "final_decision": "yes"}
        for pmid in (*TRAINED[:4], HELD_OUT[0])
    }
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps(items))
    return path


def test_pubmedqa_gives_questions_and_its_test_half_is_left_out(tmp_path: Path) -> None:
    truth = tmp_path / "test_ground_truth.json"
    truth.write_text(json.dumps({str(TRAINED[3]): "yes", "21645374": "no"}))
    found = examples_of(config("question", pubmedqa(tmp_path), f"exclude=[{truth}]"))
    assert found.train["pmid"][:] == TRAINED[:3]
    assert found.test is not None
    assert found.test["pmid"][:] == HELD_OUT[:1]
    assert found.left_out["benchmark_pmid"] == 1
    first = found.train[0]
    text = f"Title: \nAbstract: It is. Number {TRAINED[0]}.\n\n{TASKS['any']}"
    assert first["prompt"] == [ask("system", SYSTEM), ask("user", text)]
    assert first["completion"] == [ask("assistant", f"Is {TRAINED[0]} so?")]


def columns(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = [{"id": str(pmid), "text": f"Number {pmid}.", "q": f"Is {pmid} so?"} for pmid in TRAINED[:2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_of_any_name_give_questions(tmp_path: Path) -> None:
    names = "{pmid: id, title: null, abstract: text, question: q}"
    found = examples_of(config("question", columns(tmp_path), "data=columns", f"data.columns={names}"))
    assert found.train["pmid"][:] == TRAINED[:2]
    assert questions(found, "completion") == [f"Is {pmid} so?" for pmid in TRAINED[:2]]
    with pytest.raises(ConfigError, match="data.columns.question: .* has no column 'question'; there are: id, text, q"):
        examples_of(config("question", tmp_path / "rows.jsonl", "data=columns", "data.columns.abstract=text"))


DOCUMENTS_MANIFEST = DocumentsManifest(
    maker="ingest", id="d1", updates=(), num_documents=1, num_with_mesh=0, num_citations=1, num_left_out={},
    num_skipped={}, files=(), versions={}, config={},
)  # fmt: skip


def test_bioasq_s_abstracts_are_looked_up(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    rows = [dict.fromkeys(DOCUMENTS.names) | {"pmid": pmid, "title": "T", "abstract": f"A{pmid}"} for pmid in TRAINED]
    pq.write_table(pa.Table.from_pylist(rows, DOCUMENTS), documents / "part-0.parquet")
    write_manifest(documents, DOCUMENTS_MANIFEST)
    url = "http://www.ncbi.nlm.nih.gov/pubmed/"
    asked = {"body": "Is it so?", "documents": [f"{url}{TRAINED[0]}", f"{url}{TRAINED[1]}", f"{url}9999999"]}
    path = tmp_path / "training.json"
    path.write_text(json.dumps({"questions": [asked]}))
    found = examples_of(config("question", path, "data=bioasq", f"data.documents={documents}"))
    assert found.train["pmid"][:] == TRAINED[:2]
    assert f"A{TRAINED[1]}" in found.train[1]["prompt"][-1]["content"]
    path.write_text(json.dumps({"questions": [asked | {"documents": [f"{url}9999999"]}]}))
    with pytest.raises(ConfigError, match="data.documents: .* has none of the 1 abstracts"):
        examples_of(config("question", path, "data=bioasq", f"data.documents={documents}"))


@pytest.mark.parametrize("write_it", [lambda path: path.write_text('[{"question": "Is it?"}]'), lambda path: None])
def test_a_file_that_is_not_pubmedqa_is_refused(tmp_path: Path, write_it: Callable[[Path], Any]) -> None:
    path = tmp_path / "other.json"
    write_it(path)
    with pytest.raises(ConfigError, match=r"other\.json"):
        examples_of(config("question", path))
