"""Paths and texts of the command line are taken as they are typed."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kailin_ray.cli.main import read_config, run_command
from kailin_ray.config import DistillConfig, IngestConfig, RefineConfig, ReplayConfig, SelectConfig, TrainConfig
from kailin_ray.config.quoting import quote_texts

DISTILL = ["index=i", "mesh=m", "out=o"]
NAMES = [
    "a=b",
    "a(1)",
    "a#b",
    "Lösung",
    "two words",
    "2025_11_27",
    "007",
    "1e3",
    "a,b",
    "a[b]",
    "{a}",
    "true",
    "it's",
    "a:b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_name_is_taken(name: str) -> None:
    config: DistillConfig = read_config("distill", [f"documents={name}", *DISTILL, f"model.path={name}"])
    assert (config.documents, config.model.path) == (Path(name), name)
    ingest: IngestConfig = read_config("ingest", [f"source.path={name}", f"out={name}"])
    assert (ingest.source.path, ingest.out) == (name, Path(name))  # type: ignore[union-attr]
    train: TrainConfig = read_config("train", ["task=dpo", f"data.path={name}", f"out={name}"])
    assert (train.data.path, train.out) == (name, Path(name))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: "${" not in text))
@example("\\")
@example("a\\'b\\\\")
def test_a_path_of_any_characters_is_taken(name: str) -> None:
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "'\""
    if not quoted and name != "null" and "://" not in name:
        assert read_config("distill", ["documents=d", *DISTILL, f"model.path={name}"]).model.path == name


@pytest.mark.parametrize(
    ("kind", "override"),
    [
        (DistillConfig, "model=chat"),
        (DistillConfig, "limit=3"),
        (DistillConfig, "model.path=null"),
        (DistillConfig, "documents='a b'"),
        (DistillConfig, "stages=[answer]"),
        (DistillConfig, "evaluation.judge={mode: pairwise}"),
        (DistillConfig, "+model.engine.tensor_parallel_size=2"),
        (IngestConfig, "source=table"),
        (IngestConfig, "source.path=[a.xml,b.xml]"),
        (ReplayConfig, "reason=[agent_error,engine_died]"),
        (RefineConfig, "question=['data.path=q.json']"),
        (RefineConfig, "agents=[general]"),
        (DistillConfig, "documents=${oc.env:HOME}"),
    ],
)
def test_what_is_no_text_keeps_hydra_s_grammar(kind: Any, override: str) -> None:
    assert quote_texts(kind, [override]) == [override]


def test_a_list_of_paths_is_a_list() -> None:
    config: IngestConfig = read_config("ingest", ["source.path=[a.xml,b.xml]", "out=o"])
    assert config.source.path == ("a.xml", "b.xml")  # type: ignore[union-attr]
    select = read_config("select", ["corpus=c", "out=o", "benchmarks=[a.json,'b c.json']"])
    assert read_config("select", ["corpus=c", "out=o", "benchmarks=b c.json"]).benchmarks == (Path("b c.json"),)
    assert select.benchmarks == (Path("a.json"), Path("b c.json"))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("Diabetes Mellitus, Type 2", ("Diabetes Mellitus, Type 2",)),
        ("C04", ("C04",)),
        ("['Diabetes Mellitus, Type 2',C04]", ("Diabetes Mellitus, Type 2", "C04")),
        ("[]", ()),
    ],
)
def test_the_name_of_a_descriptor_is_taken_with_its_comma(given: str, names: tuple[str, ...]) -> None:
    select: SelectConfig = read_config("select", ["corpus=c", "out=o", f"subtree={given}"])
    assert select.subtree == names


def test_a_wrong_path_with_signs_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["ingest", "source.path=no such (file)=1.xml", "out=o(1)"]) == 2
    fault = capsys.readouterr().err
    assert "no such (file)=1.xml" in fault and fault.count("\n") == 1 and "Lexer" not in fault
