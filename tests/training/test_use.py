"""An adapter that `train` made is used as it was trained, by whom it was trained for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.config import DistillConfig
from kailin_ray.distill import identity
from kailin_ray.distill.preflight import open_trained_adapters, resolve_models
from kailin_ray.engines.adapters import Adapter, Base, ExampleCounts
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import sha256
from kailin_ray.planning.stages import make_stages
from kailin_ray.training.report import USE, format_training
from tests.conftest import MODEL
from tests.support.trained import adapter_manifest, trained


def using(config: DistillConfig, agent: str, folder: Path, **fields: Any) -> DistillConfig:
    given = replace(getattr(config.model, agent), adapter=str(folder), **fields)
    return replace(config, model=replace(config.model, path=str(MODEL), **{agent: given}))


def opened(config: DistillConfig) -> dict[str, Adapter]:
    return open_trained_adapters(config.model, make_stages(config))


def test_it_is_used_with_what_the_summary_says(config: DistillConfig, tmp_path: Path) -> None:
    folder = trained(tmp_path / "a", base=Base(name="base", identity=sha256(MODEL))).path
    assert USE["dpo"][0] == "general"
    given = using(config, "general", folder, examples=False)
    found = resolve_models(given, opened(given))
    assert found.general.adapter == str(folder)
    assert identity.models(found, make_stages(replace(config, model=found)), opened(given))["general"].adapter == "a"


@pytest.mark.parametrize(
    ("agent", "task", "fields", "said"),
    [
        ("general", "dpo", {}, "model.general.examples: true, but .* was trained without the worked examples"),
        (
            "general",
            "judge",
            {"examples": False},
            "model.general.adapter: .* was trained as judge; allowed: question or",
        ),
        ("answer", "dpo", {"examples": False}, "model.answer.adapter: .* was trained as dpo; allowed: none; train"),
    ],
)
def test_another_use_is_refused(
    config: DistillConfig, tmp_path: Path, agent: str, task: str, fields: dict[str, Any], said: str
) -> None:
    given = using(config, agent, trained(tmp_path / "a", task=task).path, **fields)
    with pytest.raises(ConfigError, match=said):
        resolve_models(given, opened(given))


def test_an_adapter_of_another_model_is_refused(config: DistillConfig, tmp_path: Path) -> None:
    given = using(config, "general", trained(tmp_path / "a").path, examples=False)
    with pytest.raises(ConfigError, match="model.general.adapter: .* was trained on base, not on .*smollm2"):
        identity.models(given.model, make_stages(given), opened(given))


def test_the_summary_names_what_was_learned_and_how_to_use_it() -> None:
    bias = {"rows": 9, "first": 0.7, "flipped": 0.5}
    before = {"abstracts": 9, "accuracy": 0.5, "interval": [0.2, 0.8], "position_bias": bias}
    after = before | {"accuracy": 0.8, "position_bias": bias | {"first": 0.5, "flipped": 0.1}}
    made = adapter_manifest(
        task="judge",
        base=Base(name="m", identity="b1"),
        examples=ExampleCounts(train=40, test=18, left_out={"duplicate": 2}),
        log=[{"step": n, "loss": 2 - n / 10} for n in range(1, 21)],
        before={"loss": 1.9, "bare": before, "with_examples": before},
        after={"loss": 0.4, "bare": after},
    )
    told = format_training(Adapter(Path("adapters/judge"), made))
    assert "judge on m: 40 examples, 18 held out, 20 steps" in told
    assert "left out: 2 duplicate" in told
    assert "held out    loss: 1.900 before, 0.400 after" in told
    assert (
        "trained: agrees with the rule on 0.8 of 9 abstracts (0.2 to 0.8); candidate shown first: mean probability 0.5"
        in told
    )
    assert told.endswith("model.judge.adapter=adapters/judge model.judge.examples=false evaluation.judge.mode=pairwise")
