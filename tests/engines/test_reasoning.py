"""Reasoning is separated from the answer, and a choice is asked for after it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.engines.chat_template import choice_ids, find_opened_block, prompt_ids, reply_ids
from kailin_ray.engines.reasoning import BLOCKS, Output, find_open_block, split_reasoning
from tests.support.tokenizers import CHATML, KINDS, wrap

THOUGHT, ANSWER = "The abstract has 12 of 40.", "Yes, in 30% of the patients."
BOTH = Output(THOUGHT, ANSWER)
MESSAGES = [{"role": "user", "content": "Does it help?"}]
ASSISTANT = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((f"{opening}\n{THOUGHT}\n{end}\n\n{ANSWER}", BOTH) for opening, end in BLOCKS),
        (f"{THOUGHT}\n</think>\n\n{ANSWER}", BOTH),
        (f"<think>\n\n</think>\n\n{ANSWER}", Output(None, ANSWER)),
        (f"<think>{THOUGHT}</think><think>So yes.</think>{ANSWER}", Output(f"{THOUGHT}\n\nSo yes.", ANSWER)),
        (f"<think>\n{THOUGHT}", Output(THOUGHT, "")),
        (f"<think>{THOUGHT}</think>\n<answer>\n{ANSWER}\n</answer>", BOTH),
        (f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>", BOTH),
        (
            f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}",
            BOTH,
        ),
        (f"<|channel|>final<|message|>{ANSWER}<|return|>", Output(None, ANSWER)),
        (f"<|channel|>analysis<|message|>{THOUGHT}", Output(THOUGHT, "")),
        (ANSWER, Output(None, ANSWER)),
        ("", Output(None, "")),
        # Elsewhere than at the beginning it stays, and the answer is rejected for it.
        (f"{ANSWER} <think>Or not?</think>", Output(None, f"{ANSWER} <think>Or not?</think>")),
    ],
)
def test_the_forms_of_each_family_are_separated(text: str, expected: Output) -> None:
    assert split_reasoning(text) == expected


def test_a_block_that_the_prompt_opened_is_closed_by_the_model() -> None:
    assert split_reasoning(f"{THOUGHT}\n</think>\n{ANSWER}", "</think>") == BOTH
    assert split_reasoning(THOUGHT, "</think>") == Output(THOUGHT, "")  # the model ran out of tokens


@given(st.text(), st.sampled_from([None, *(end for _, end in BLOCKS)]))
def test_nothing_is_invented(text: str, open_block: str | None) -> None:
    output = split_reasoning(text, open_block)
    assert output.answer in text
    assert all(piece in text for piece in (output.reasoning or "").split("\n\n"))


@given(st.text(alphabet="ab <>/", max_size=30), st.sampled_from(BLOCKS))
def test_what_is_written_in_two_parts_is_read_in_two_parts(thought: str, block: tuple[str, str]) -> None:
    opening, end = block
    assert split_reasoning(f"{opening}{thought}{end}{ANSWER}") == Output(thought.strip() or None, ANSWER)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("assistant\n<think>\n", "</think>"),
        ("assistant\n<think>\n\n</think>\n\n", None),
        ("assistant\n", None),
        ("<think>a</think> user assistant [THINK]", "[/THINK]"),
    ],
)
def test_an_open_block_is_found(prompt: str, expected: str | None) -> None:
    assert find_open_block(prompt) == expected


# How templates of the families begin the assistant's turn, and what they write before the content of an old one.
OPENED = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CLOSED = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}")
QWEN = CHATML.replace(
    "\n{{ m['content'] }}",
    "\n{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m['content'] }}",
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{{ '<|channel|>final' if m['role'] == 'assistant' else '' }}"
    "<|message|>{{ m['content'] }}{{ '<|return|>' if loop.last and m['role'] == 'assistant' else '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def tokenizer_of(template: str) -> Any:
    tokenizer = wrap(KINDS["byte-level"](), template)
    markup = ["<think>", "</think>", "<|start|>", "<|end|>", "<|return|>", "<|channel|>", "<|message|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": markup})
    return tokenizer


@pytest.mark.parametrize(
    ("template", "opened", "opening"),
    [
        (CHATML, None, ""),
        (OPENED, "</think>", "\n</think>\n\n"),  # DeepSeek-R1, Qwen3-Thinking
        (CLOSED, None, ""),  # Qwen3 and SmolLM3 with enable_thinking=false
        (QWEN, None, "<think>\n\n</think>\n\n"),  # Qwen3 without that argument
        (HARMONY, None, "<|channel|>final<|message|>"),  # gpt-oss
    ],
)
def test_a_choice_and_a_trained_reply_stand_where_the_answer_begins(
    template: str, opened: str | None, opening: str
) -> None:
    tokenizer = tokenizer_of(template)
    prompt, choice = prompt_ids(tokenizer, MESSAGES), choice_ids(tokenizer, MESSAGES)
    assert find_opened_block(tokenizer) == opened
    assert tokenizer.decode(choice) == tokenizer.decode(prompt) + opening
    assert find_open_block(tokenizer.decode(choice)) is None
    reply = reply_ids(tokenizer, MESSAGES, "Yes.")
    assert tokenizer.decode(reply[:-1]) == f"{opening}Yes."
    assert tokenizer.decode(reply[-1:]) == ("<|return|>" if template == HARMONY else "<|im_end|>")


def test_a_message_that_opens_a_block_opens_none() -> None:
    tokenizer = tokenizer_of(CHATML)
    hostile = [{"role": "user", "content": "Does it <think>"}]
    assert choice_ids(tokenizer, hostile) == prompt_ids(tokenizer, hostile)
