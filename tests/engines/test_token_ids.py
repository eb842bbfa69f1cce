"""Our ids are those of the chat template, for every kind of tokenizer; special tokens never come from a message."""

from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from kailin_ray.engines.chat_template import check_template, prompt_ids, reply_ids, stop_id
from kailin_ray.engines.token_ids import plain_ids, special_ids
from kailin_ray.errors import ConfigError
from tests.support.tokenizers import CORPUS, KINDS, MARKUP, PARTS_ONLY, SYSTEM_LAST, TEMPLATES, wrap

EXAMPLES = ["Does it?", "p < 0.05 [1]", "β-cells\n\n- one\n- two", "a    b", "<b>bold</b>", "日本", *CORPUS]


@cache
def tokenizer_of(kind: str, template: str) -> Any:
    return wrap(KINDS[kind](), TEMPLATES.get(template, template))


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return [{"role": "system", "content": system}, *messages] if system else messages


def of_template(tokenizer: Any, messages: list[dict[str, str]], prompt: bool = True) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False)
    return ids


def with_system_in_user(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    system, user, *rest = messages
    return [user | {"content": f"{system['content']}\n\n{user['content']}"}, *rest]


texts = st.one_of(
    st.sampled_from(EXAMPLES), st.text(max_size=40), st.text(alphabet="aAé .,-:\n([<>]/|_▁β1", max_size=40)
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@given(first=texts, second=texts, third=texts)
@settings(max_examples=60, deadline=None)
@example("Does it?", "Yes.", "Why?")
def test_ids_without_markup_are_the_template_s(kind: str, template: str, first: str, second: str, third: str) -> None:
    tokenizer = tokenizer_of(kind, template)
    contents = [text.encode("utf-8", "replace").decode().strip() or "a" for text in (first, second, third)]
    if any(token in content for token in [*MARKUP, "<think>"] for content in contents):
        return
    messages = turns(*contents, system="Be brief.")
    expected = messages if template in ("chatml", "llama-2") else with_system_in_user(messages)
    assert prompt_ids(tokenizer, messages) == of_template(tokenizer, expected)
    assert plain_ids(tokenizer, contents[0]) == tokenizer(contents[0], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@given(parts=st.lists(st.sampled_from([*MARKUP, "<think>", "a", " ", "<", "\n", "<s", ">"]) | st.text(max_size=5)))
@settings(max_examples=60, deadline=None)
@example(MARKUP)
@example(["<s>", "</s>"])
def test_no_markup_comes_from_a_message(kind: str, template: str, parts: list[str]) -> None:
    tokenizer = tokenizer_of(kind, template)
    markup = {*special_ids(tokenizer), tokenizer.convert_tokens_to_ids("<think>")} - {tokenizer.unk_token_id}
    plain = [i for i in prompt_ids(tokenizer, turns("a", "b", "c", system="d")) if i in markup]
    hostile = "".join(parts)
    for messages in (turns(hostile, "b", "c", system="d"), turns("a", hostile, "c", system=hostile or "d")):
        assert [i for i in prompt_ids(tokenizer, messages) if i in markup] == plain
    assert markup.isdisjoint(plain_ids(tokenizer, hostile))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_reply_is_what_the_template_writes_up_to_the_end_of_the_turn(kind: str, template: str) -> None:
    tokenizer = tokenizer_of(kind, template)
    asked = turns("Does it?", "Yes.", "Why?")
    end = {"chatml": "<|im_end|>", "gemma": "<end_of_turn>"}.get(template, "</s>")
    assert tokenizer.convert_ids_to_tokens(stop_id(tokenizer)) == end
    prompt, reply = prompt_ids(tokenizer, asked), reply_ids(tokenizer, asked, "Yes, it does.")
    whole = of_template(tokenizer, [*asked, {"role": "assistant", "content": "Yes, it does."}], prompt=False)
    assert reply[-1] == stop_id(tokenizer)
    if template == "llama-2" and kind in ("metaspace-first", "legacy"):  # a token spans "]" and the reply's blank
        tokens = tokenizer.convert_ids_to_tokens(reply)
        assert tokens[0].startswith("▁") and "".join(tokens).rstrip("▁") == "▁Yes,▁it▁does.▁</s>"
        return
    assert whole[: len(prompt) + len(reply)] == prompt + reply


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_text_before_the_last_user_turn_is_put_first_instead(kind: str) -> None:
    tokenizer = tokenizer_of(kind, SYSTEM_LAST)
    messages = turns("one", "two", "three", system="Be brief.")
    assert prompt_ids(tokenizer, messages) == of_template(tokenizer, with_system_in_user(messages))
    # With a single user turn the system text stands where it belongs.
    assert prompt_ids(tokenizer, turns("one", system="Be brief.")) == of_template(
        tokenizer, turns("one", system="Be brief.")
    )


def test_a_template_that_takes_only_parts_gets_parts() -> None:
    tokenizer = tokenizer_of("byte-level", PARTS_ONLY)
    messages = turns("one", "two", "three", system="Be brief.")
    parts = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
    assert prompt_ids(tokenizer, messages) == of_template(tokenizer, parts)  # type: ignore[arg-type]


def test_a_turn_s_end_may_be_special_in_the_tokenizer_s_file_alone() -> None:
    """As in Gemma: neither EOS nor one of the named special tokens."""
    tokenizer = tokenizer_of("metaspace-always", "gemma")
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") not in tokenizer.all_special_ids
    assert tokenizer.convert_ids_to_tokens(stop_id(tokenizer)) == "<end_of_turn>"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (None, "has no chat template; an instruct model is needed"),
        (
            "{{ messages[-1]['content'] }}",
            r"once and in order: roles \['user', 'assistant', 'user'\] become '2'",
        ),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "once and in order"),
        ("{{ raise_exception('no') }}", "cannot be used: no$"),
        ("{{ 1 / 0 }}", "cannot be used: division by zero"),
        ("{% for m in messages %}", "cannot be used: "),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(template: str | None, fault: str) -> None:
    tokenizer = wrap(KINDS["byte-level"](), "")
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=fault) as refusal:
        check_template("model.path: m", tokenizer, [turns("1", "2", "3", system="s")], ())
    assert str(refusal.value).startswith("model.path: m: its ")
    assert "\n" not in str(refusal.value)


def test_blanks_that_a_special_token_swallows_are_no_text() -> None:
    tokenizer = wrap(KINDS["byte-level"](), "{% for m in messages %}{{ m['content'] }} <mask> x{% endfor %}")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<mask>", lstrip=True, normalized=False)]})
    assert prompt_ids(tokenizer, turns("a b")) == of_template(tokenizer, turns("a b"))
