"""A model's tokenizer is looked at before anything starts."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken

from kailin_ray.engines.chat_template import prompt_ids, reply_ids, stop_id
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.tokenizer import check_tokenizer, describe_reasoning, load_tokenizer
from kailin_ray.errors import ConfigError
from tests.conftest import MODEL
from tests.support.tokenizers import CHATML, GEMMA, PARTS_ONLY, byte_level

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The small model's tokenizer, without weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL / name, folder / name)
    return folder


def check(path: Path, **args: object) -> None:
    engine = EngineSpec(path=str(path), revision=None, args=args, chat_template={})
    check_tokenizer("model.judge.path", engine, [MESSAGES])


def test_the_demo_s_model_passes(model: Path) -> None:
    check(model)


def test_a_model_without_a_tokenizer_is_refused(model: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    with pytest.raises(ConfigError, match=r"^model.judge.path: .*/model: its tokenizer cannot be loaded: ") as refusal:
        check(model)
    assert "\n" not in str(refusal.value)


def test_a_model_without_a_template_is_refused(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="^model.judge.path: .*/model: its tokenizer has no chat template"):
        check(model)


def test_a_template_in_chat_template_json_is_used(model: Path) -> None:
    """As older models that also see images have it."""
    whole = prompt_ids(load_tokenizer(str(model), None), MESSAGES)
    (model / "chat_template.jinja").rename(model / "moved")
    template = (model / "moved").read_text()
    (model / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    check(model)
    assert prompt_ids(load_tokenizer(str(model), None), MESSAGES) == whole


def test_a_template_of_parts_passes(model: Path) -> None:
    (model / "chat_template.jinja").write_text(PARTS_ONLY)
    check(model)


MARKUP = [
    "<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|start|>", "<|message|>",
    "<|channel|>", "<|end|>", "<|return|>",
]  # fmt: skip
HARMONY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m['content'] }}{{ '<|return|>' if m['role'] == 'assistant' and loop.last else '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "end"), [(GEMMA, "<end_of_turn>"), (CHATML, "<|im_end|>"), (HARMONY, "<|return|>")]
)
def test_a_turn_ends_with_the_template_s_token_whatever_the_files_call_it(
    tmp_path: Path, template: str, end: str
) -> None:
    """As in Gemma's and gpt-oss' files: EOS is another token, and no list of special tokens has the turn's end."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in MARKUP])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "chat_template.jinja").write_text(template)
    loaded = load_tokenizer(str(tmp_path), None)
    assert loaded.convert_tokens_to_ids(end) not in loaded.all_special_ids
    assert loaded.convert_ids_to_tokens(stop_id(loaded)) == end
    asked = [{"role": "user", "content": "u"}]
    assert loaded.convert_ids_to_tokens(reply_ids(loaded, asked, "Yes."))[-1] == end


def test_named_templates_of_which_one_is_the_default(model: Path) -> None:
    """As of Command R: the template for retrieval or tools is not ours."""
    whole = prompt_ids(load_tokenizer(str(model), None), MESSAGES)
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").unlink()
    file = model / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    named = [{"name": "rag", "template": "x"}, {"name": "default", "template": template}]
    file.write_text(json.dumps(settings | {"chat_template": named}))
    check(model)
    assert prompt_ids(load_tokenizer(str(model), None), MESSAGES) == whole
    file.write_text(json.dumps(settings | {"chat_template": [named[0], {"name": "tool_use", "template": template}]}))
    with pytest.raises(ConfigError, match="multiple chat templates with no default"):
        check(model)


def test_a_tokenizer_that_the_engine_arguments_name_is_the_one(model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(MODEL / "config.json", bare)
    check(bare, tokenizer=str(model))


@pytest.mark.parametrize(
    ("template", "arguments", "advice"),
    [
        ("{{ enable_thinking }}", {}, "to turn it off: model.chat_template.enable_thinking=false"),
        (
            "{{ thinking }}",
            {"enable_thinking": False},
            "although model.chat_template has enable_thinking=false. .* off: model.chat_template.thinking=false",
        ),
        (
            "{{ enable_thinking }}",
            {"enable_thinking": False},
            r"although .*no other switch for that; .* model.<agent>.sampling.max_tokens",
        ),
        ("{{ messages }}", {}, "no switch for that; choose a model that does not, or give it more tokens"),
        ("{{ reasoning_effort }}", {}, "off: model.chat_template.reasoning_effort=low"),
    ],
)
def test_a_model_that_reasons_is_named_with_the_switch(
    model: Path, template: str, arguments: dict[str, object], advice: str
) -> None:
    (model / "chat_template.jinja").write_text(template)
    engine = EngineSpec(path=str(model), revision=None, args={}, chat_template=arguments)
    line = describe_reasoning(engine)
    assert line and re.search(f"/model reasons before it answers.*{advice}", line)
    assert "\n" not in line


@pytest.mark.parametrize(
    ("arguments", "args"),
    [({"enable_thinking": True}, {}), ({"reasoning_effort": "high"}, {}), ({}, {"reasoning_parser": "qwen3"})],
)
def test_a_model_that_is_asked_to_reason_is_not_named(
    model: Path, arguments: dict[str, object], args: dict[str, object]
) -> None:
    engine = EngineSpec(path=str(model), revision=None, args=args, chat_template=arguments)
    assert describe_reasoning(engine) is None
