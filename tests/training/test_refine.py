"""The loop's commands, their order and lineage, with commands that only make their folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.cli.overrides import split_overrides
from kailin_ray.config import RefineConfig, load
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import write_json
from kailin_ray.training import refine as loop


def config(out: Path, *keys: str) -> RefineConfig:
    return load(RefineConfig, "refine", [f"out={out}", *keys])


BASE = ("distill=['documents=d','index=i','mesh=m','model.path=m','limit=9']", "question=['data.path=q.json']")


def test_two_rounds_are_nine_commands_each_from_the_one_before(tmp_path: Path) -> None:
    every = loop.steps(
        config(tmp_path, *BASE, "rounds=2", "judge=['seed=3']", "refined=['evaluation.method=rule_then_judge']")
    )
    told = [(step.command, step.out.relative_to(tmp_path).as_posix()) for step in every]
    assert told == [
        ("train", "question"), ("distill", "round-0/run"),
        ("publish", "round-1/dataset"), ("train", "round-1/judge"), ("train", "round-1/question"),
        ("distill", "round-1/run"), ("compare", "round-1/comparison"),
        ("publish", "round-2/dataset"), ("train", "round-2/judge"), ("train", "round-2/question"),
        ("distill", "round-2/run"), ("compare", "round-2/comparison"),
    ]  # fmt: skip
    first, dpo, second, comparison = every[1], every[4], every[5], every[6]
    asking = ("model.general.examples=false", "model.general.persona=any")
    adapter = f"model.general.adapter={tmp_path}/question"
    given = ("documents=d", "index=i", "mesh=m", "model.path=m", "limit=9")
    assert first.arguments == (*given, adapter, *asking, f"out={first.out}")
    assert f"model.adapter={tmp_path}/question" in dpo.arguments
    assert {f"model.general.adapter={dpo.out}", *asking, f"model.judge.adapter={tmp_path}/round-1/judge",
            "evaluation.method=rule_then_judge", "documents=d"} <= set(second.arguments)  # fmt: skip
    assert {f"old={first.out}", f"new={second.out}", "model.path=m"} <= set(comparison.arguments)
    assert "documents=d" not in comparison.arguments
    assert "seed=3" in every[3].arguments
    # The second round goes on from the first one's adapter, and compares with its run.
    assert f"model.adapter={dpo.out}" in every[9].arguments
    assert f"old={second.out}" in every[11].arguments


def test_without_question_data_the_loop_begins_with_the_model_as_it_is(tmp_path: Path) -> None:
    every = loop.steps(config(tmp_path, "distill=['documents=d']", "agents=[general,biomedical]"))
    assert [step.command for step in every] == ["distill", "publish", "train", "train", "distill", "compare"]
    assert every[0].arguments == ("documents=d", f"out={every[0].out}")
    assert not any(text.startswith("model.adapter") for text in every[3].arguments)
    assert {f"model.{agent}.adapter={every[3].out}" for agent in ("general", "biomedical")} <= set(every[4].arguments)


class Commands:
    """Stands for the command line: makes each folder, and fails where it is told to."""

    def __init__(self) -> None:
        self.run: list[str] = []
        self.fails: dict[str, int] = {}

    def __call__(self, command: list[str]) -> int:
        name = f"{command[3]} {command[4]}" if command[3] == "train" else command[3]
        self.run.append(name)
        out = Path(next(text.removeprefix("out=") for text in command if text.startswith("out=")))
        if name in self.fails:
            return self.fails[name]
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "manifest.json", {"made by": command[3:]})
        return 0


def test_a_step_that_fails_ends_the_loop_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands()
    monkeypatch.setattr(loop, "_run", commands)
    commands.fails["train task=dpo"] = 75
    with pytest.raises(loop.StepFailedError, match="exit code 75") as failed:
        loop.refine(config(tmp_path, *BASE))
    assert failed.value.code == 75
    assert commands.run[-1] == "train task=dpo"
    commands.fails.clear()
    commands.run.clear()
    told: list[str] = []
    result = loop.refine(config(tmp_path, *BASE), told.append)
    # What is done is asked again, but for what exists or does not; those commands know what is left to do.
    assert commands.run == [
        "train task=question",
        "distill",
        "train task=judge",
        "train task=dpo",
        "distill",
        "compare",
    ]
    assert len(told) == 8
    assert told[2].startswith("[3 of 7] kailin-ray publish ")
    assert told[3] == f"{tmp_path}/round-1/dataset: made already"
    lineage: dict[str, Any] = json.loads((tmp_path / "lineage.json").read_text())
    assert (result.out, result.lineage) == (tmp_path, lineage)
    assert list(lineage["round-1/question"]["made_from"]) == ["round-1/dataset", "question"]
    for one in lineage.values():
        for folder, checksum in one["made_from"].items():
            assert lineage[folder]["checksum"] == checksum


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("dpo=['merge=true']", "train out={out}/round-1/question: merge: was renamed; give merge_adapter"),
        ("compare=['held_out=perhaps']", "compare out={out}/round-1/comparison: held_out: .*perhaps"),
        ("publish=['format=alpaca']", "publish out={out}/round-1/dataset: format: alpaca .* allowed: parquet, jsonl"),
        ("refined=['evaluation.methd=rule']", "distill out={out}/round-1/run: .*evaluation.methd"),
    ],
)
def test_a_wrong_key_of_any_step_is_refused_before_the_first_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, fault: str
) -> None:
    commands = Commands()
    monkeypatch.setattr(loop, "_run", commands)
    with pytest.raises(ConfigError, match=fault.format(out=tmp_path)):
        loop.refine(config(tmp_path, *BASE, key))
    assert commands.run == []


def test_a_dataset_of_a_run_that_went_on_since_is_not_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_run", Commands())
    loop.refine(config(tmp_path, *BASE))
    write_json(tmp_path / "round-0" / "run" / "manifest.json", {"num_documents": 20})
    monkeypatch.setattr(loop, "_run", lambda command: 0)
    with pytest.raises(
        ConfigError, match="round-1/dataset was made from round-0/run, which has changed since; remove it"
    ):
        loop.refine(config(tmp_path, *BASE))


def test_keys_find_their_commands() -> None:
    given = [
        "out=o",
        "rounds=2",
        "documents=d",
        "model.path=m",
        "judge.seed=1",
        "+dpo.dpo.beta=0.2",
        "question.data=x",
    ]
    own, apart = split_overrides("refine", RefineConfig, given)
    assert own == ["out=o", "rounds=2"]
    assert apart == {
        "distill": ["documents=d", "model.path=m"],
        "judge": ["judge.seed=1"],
        "dpo": ["+dpo.dpo.beta=0.2"],
        "question": ["question.data=x"],
    }
    assert split_overrides("distill", RefineConfig, given) == (given, {})
