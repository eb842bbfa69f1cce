"""Adapters that vLLM cannot serve are refused by name, without vLLM."""

import json
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.engines.models import check_engine_arguments, resolve_adapter
from kailin_ray.errors import ConfigError
from tests.support.adapters import adapter


def changed(folder: Path, **values: Any) -> Path:
    path = adapter(folder, 1)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | values))
    return path


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"use_dora": True}, "use_dora=True: DoRA"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]: it holds whole layers"),
        ({"bias": "all"}, "bias='all': it has biases"),
        ({"lora_bias": True}, "lora_bias=True: it has biases"),
        ({"peft_type": "IA3"}, "it is of the type IA3, not LORA"),
        ({"peft_type": "PROMPT_TUNING"}, "it is of the type PROMPT_TUNING"),
        ({"r": 1024}, "its rank is 1024; allowed: up to 512"),
        ({"rank_pattern": {"q_proj": 1024}}, "its rank is 1024"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa': it changes the model's own weights"),
        ({"r": None}, "its adapter_config.json is damaged"),
    ],
)
def test_what_vllm_cannot_serve_is_refused(tmp_path: Path, values: dict[str, Any], fault: str) -> None:
    path = changed(tmp_path / "a", **values)
    with pytest.raises(ConfigError, match=f"^model.answer.adapter: .*/a: vLLM cannot serve it: {fault}"):
        resolve_adapter(str(path), "model.answer.adapter")


@pytest.mark.parametrize(
    "values",
    [{}, {"bias": "none", "modules_to_save": None, "rank_pattern": {"q_proj": 16}}, {"init_lora_weights": "gaussian"}],
)
def test_what_vllm_serves_is_taken(tmp_path: Path, values: dict[str, Any]) -> None:
    path = changed(tmp_path / "a", **values)
    assert resolve_adapter(str(path), "model.answer.adapter") == str(path)


def test_reasoning_parsers_are_those_of_vllm() -> None:
    check_engine_arguments("model.engine", {"reasoning_parser": "granite"})
    with pytest.raises(ConfigError, match=r"^model.engine.reasoning_parser: 'granit'; allowed: .*, granite, .*qwen3"):
        check_engine_arguments("model.engine", {"reasoning_parser": "granit"})
