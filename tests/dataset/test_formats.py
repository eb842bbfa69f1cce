"""Every format that ``publish`` writes loads with ``datasets`` and has the fields that trainers document."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

from kailin_ray.dataset.columns import meanings_of
from kailin_ray.dataset.formats import schemas_of
from kailin_ray.dataset.rows import SCHEMAS
from kailin_ray.dataset.splits import is_held_out
from tests.conftest import Command
from tests.dataset.test_publish import RECORD
from tests.support import runs

FORMATS = ("parquet", "jsonl", "sharegpt", "alpaca")
PMIDS = range(1, 121)
HELD_OUT = {pmid for pmid in PMIDS if is_held_out(pmid)}
SUITED = {"sharegpt": {"sft", "preference", "judge"}, "alpaca": {"sft", "preference", "judge", "pretrain"}}
TRICKY = 'Does "azide"\n\u2028 preserve tissues\\? \u03b2'


def write_run(folder: Path) -> Path:
    """120 abstracts. In those that are read first, each column that may be null is null; every eighth is rejected."""
    rows = []
    for pmid in PMIDS:
        row = RECORD | {"pmid": pmid, "title": f"Azide {pmid}.", "mesh": [{"ui": "D1", "name": "Azides"}]}
        if pmid > 100:
            first, second = (one | {"judge_probability": None, "mesh_score": None} for one in row["candidates"])
            second = second | {"question": TRICKY}
            nulls = {"year": None, "preferred_by": "judge", "decision": None}
            row |= {"candidates": [first, second], **nulls}
        if pmid % 8 == 0:
            row |= {"status": "rejected", "stage": "answer", "reason": "answer_truncated", "detail": "cut"}
        rows.append(row)
    return runs.run(folder, rows)


@pytest.fixture(scope="module")
def published(kailin_here: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run in each format."""
    folder = tmp_path_factory.mktemp("formats")
    run = write_run(folder / "run")
    for name in FORMATS:
        keys = ["benchmarks=[]", "dedup_questions=null"]  # the run's questions are alike
        done = kailin_here("publish", f"run={run}", f"out={folder / name}", f"format={name}", *keys)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in FORMATS}


def load(path: Path, config: str, cache: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        split: rows.to_list() for split, rows in datasets.load_dataset(str(path), config, cache_dir=str(cache)).items()
    }


def with_rows(path: Path) -> list[str]:
    return [
        name
        for name, splits in json.loads((path / "manifest.json").read_text())["rows"].items()
        if any(splits.values())
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_each_config_loads_with_splits_by_held_out_pmids(published: dict[str, Path], name: str, tmp_path: Path) -> None:
    configs = with_rows(published[name])
    assert set(configs) == SUITED.get(name, set(SCHEMAS) - {"removed"})
    for config in configs:
        splits = load(published[name], config, tmp_path / config)
        assert set(splits) == {"train", "test"}
        assert {row["pmid"] for row in splits["test"]} == HELD_OUT & {
            row["pmid"] for rows in splits.values() for row in rows
        }
        for row in splits["train"]:
            assert not is_held_out(row["pmid"])
            assert set(row) == set(schemas_of(name, "messages")[config].names)
    # Without a name, a config that exists is loaded.
    assert datasets.load_dataset(str(published[name]), cache_dir=str(tmp_path / "default"))["train"].num_rows


def test_json_lines_hold_what_parquet_holds(published: dict[str, Path], tmp_path: Path) -> None:
    for config in with_rows(published["parquet"]):
        one, two = (load(published[name], config, tmp_path / config / name) for name in ("parquet", "jsonl"))
        assert one == two
        assert one["train"]


def test_sharegpt_has_the_fields_and_the_order_of_roles_that_llama_factory_documents(
    published: dict[str, Path], tmp_path: Path
) -> None:
    triples = {
        row["pmid"]: row for rows in load(published["parquet"], "triples", tmp_path / "t").values() for row in rows
    }
    info = json.loads((published["sharegpt"] / "dataset_info.json").read_text())
    for config in SUITED["sharegpt"]:
        for split, rows in load(published["sharegpt"], config, tmp_path / config).items():
            said = info[f"{config}_{split}"]
            assert (published["sharegpt"] / said["file_name"]).is_file()
            assert said["formatting"] == "sharegpt"
            assert said.get("ranking", False) == (config == "preference")
            assert set(said["columns"].values()) <= set(rows[0])
            for row in rows:
                turns = row["conversations"]
                if turns[0]["from"] == "system":  # may come first
                    turns = turns[1:]
                roles = [turn["from"] for turn in turns]
                if config == "preference":
                    assert roles == ["human"]
                    assert row["chosen"]["from"] == row["rejected"]["from"] == "gpt"
                else:
                    assert roles == ["human", "gpt"]
                if config == "sft":
                    triple = triples[row["pmid"]]
                    assert triple["answer"] in turns[1]["value"]
                    assert triple["contexts"][1]["text"] in turns[0]["value"]


def test_alpaca_has_the_fields_that_llama_factory_and_axolotl_document(
    published: dict[str, Path], tmp_path: Path
) -> None:
    info = json.loads((published["alpaca"] / "dataset_info.json").read_text())
    wanted = {
        "sft": {"prompt": "instruction", "query": "input", "response": "output"},
        "judge": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"},
        "preference": {
            "prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected", "system": "system",
        },
        "pretrain": {"prompt": "text"},
    }  # fmt: skip
    sft = {row["pmid"]: row for rows in load(published["parquet"], "sft", tmp_path / "s").values() for row in rows}
    for config, columns in wanted.items():
        for split, rows in load(published["alpaca"], config, tmp_path / config).items():
            assert info[f"{config}_{split}"]["columns"] == columns
            assert set(columns.values()) <= set(rows[0])
            for row in rows if config == "sft" else ():
                content = sft[row["pmid"]]["prompt"][0]["content"]
                # Nothing is lost between the passages and the question.
                assert f"{row['input']}\n\n{row['instruction']}" == content
                assert row["instruction"].startswith("Question: ")
                assert row["output"] == sft[row["pmid"]]["completion"][0]["content"]


def test_sft_as_text(kailin_here: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("parquet", "jsonl"):
        out = tmp_path / name
        done = kailin_here("publish", f"run={run}", f"out={out}", f"format={name}", "sft=text", "benchmarks=[]")
        assert done.returncode == 0, done.stderr
        (row,) = (row for row in load(out, "sft", tmp_path / f"cache-{name}")["train"] if row["pmid"] == 1)
        assert row["prompt"].endswith("In a last line, say whether the answer is yes, no or maybe.\n")
        assert row["completion"] == "Yes, it does.\nAnswer: yes"
    done = kailin_here("publish", f"run={run}", f"out={tmp_path}/x", "format=alpaca", "sft=text", "benchmarks=[]")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "sft: text, but format=alpaca" in done.stderr
    assert not (tmp_path / "x").exists()
    done = kailin_here("publish", f"run={run}", f"out={tmp_path}/x", "format=csv")
    assert done.returncode == 2
    assert "format: " in done.stderr and "sharegpt" in done.stderr


@pytest.mark.parametrize("name", FORMATS)
def test_every_column_is_explained_with_an_example(published: dict[str, Path], name: str) -> None:
    card = (published[name] / "README.md").read_text()
    meanings = meanings_of(name)
    for config, schema in schemas_of(name, "messages").items():
        assert list(meanings[config]) == schema.names
        if config == "removed":
            continue
        section = card.partition(f"### `{config}`\n")[2].partition("\n#")[0]
        for column in schema.names:
            (line,) = (line for line in section.splitlines() if line.startswith(f"| `{column}` |"))
            assert line.count(" | ") == 2
    head = yaml.safe_load(card.split("---\n")[1])
    assert [config["config_name"] for config in head["configs"] if config.get("default")] == [
        "triples" if "triples" in with_rows(published[name]) else "sft"
    ]


def test_an_export_that_fails_leaves_nothing(kailin_here: Command, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (path, *_) = (run / "records").iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    for name in FORMATS:
        done = kailin_here("publish", f"run={run}", f"out={tmp_path / name}", f"format={name}", "benchmarks=[]")
        assert done.returncode != 0
        assert not (tmp_path / name).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_published_dataset_of_today_can_be_opened_again(published: dict[str, Path]) -> None:
    from kailin_ray.dataset.folder import Dataset

    for name, path in published.items():
        dataset = Dataset.open(path)
        assert dataset.manifest.format == name
        files = dataset.files("sft", "test")
        assert len(files) == 1
        if name == "parquet":
            assert pq.read_table(files[0]).num_rows == dataset.manifest.rows["sft"]["test"]
