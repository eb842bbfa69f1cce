"""Separate what a model answers from the reasoning that it writes before.

Sample: ``<think>The abstract reports 12 of 40.</think>Yes, in 30% of cases.`` becomes the reasoning ``The abstract
reports 12 of 40.`` and the answer ``Yes, in 30% of cases.``
"""

import re
from dataclasses import dataclass

BLOCKS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen, GLM, SmolLM3, and most others
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),  # Mistral
    ("<|channel>thought", "<channel|>"),  # Gemma
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    ("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    ("<unused94>thought", "<unused95>"),  # MedGemma
    ("◁think▷", "◁/think▷"),  # Kimi
)
"""The markup with which models surround their reasoning: before it, and after it."""

_WRAPPER = re.compile(r"^(?:<answer>(.*)</answer>|<\|START_RESPONSE\|>(.*)<\|END_RESPONSE\|>)$", re.DOTALL)
_CHANNEL = re.compile(
    r"(?:<\|start\|>assistant)?<\|channel\|>\s*(\w+)[^<]*<\|message\|>(.*?)(?:<\|end\|>|<\|return\|>|\Z)", re.DOTALL
)
"""A message of gpt-oss, which names its channel: analysis, commentary or final."""


@dataclass(frozen=True)
class Output:
    """A model's text in two parts."""

    reasoning: str | None
    """None if the model wrote none."""
    answer: str
    """Empty if the text ends within the reasoning."""


def split_reasoning(text: str, open_block: str | None = None) -> Output:
    """Separate the reasoning at the beginning of ``text`` from the answer.

    ``open_block``: the markup that ends a block which the prompt has opened already (``find_open_block``). Markup that
    stands elsewhere than at the beginning is left in the answer.
    """
    text = text.strip()
    if text.startswith(("<|channel|>", "<|start|>assistant")):
        return _split_channels(text)
    reasoning: list[str] = []
    closing = open_block or _missing_opening(text)
    while True:
        for opening, end in BLOCKS:
            if text.startswith(opening):
                text, closing = text.removeprefix(opening), end
                break
        if closing is None:
            break
        block, _, text = text.partition(closing)
        reasoning.append(block.strip())
        text, closing = text.strip(), None
    wrapped = _WRAPPER.match(text)
    answer = next(group for group in wrapped.groups() if group is not None).strip() if wrapped else text
    return Output("\n\n".join(filter(None, reasoning)) or None, answer)


def find_open_block(prompt: str) -> str | None:
    """Return the markup that ends the block of reasoning which ``prompt`` opens and does not close; None if none."""
    ends = [(prompt.rfind(opening), end) for opening, end in BLOCKS if opening in prompt]
    start, closing = max(ends, default=(-1, ""))
    return closing if closing and closing not in prompt[start:] else None


def _missing_opening(text: str) -> str | None:
    """Return the end of the first block whose beginning is missing, as the model or the prompt left it out."""
    for opening, end in BLOCKS:
        if end in text and opening not in text.partition(end)[0]:
            return end
    return None


def _split_channels(text: str) -> Output:
    reasoning, answer, end = [], "", 0
    for message in _CHANNEL.finditer(text):
        if message.start() != end:
            break
        end = message.end()
        if message[1] == "final":
            answer = message[2].strip()
        else:
            reasoning.append(message[2].strip())
    rest = text[end:].strip()  # what does not have the form of a message stays in the answer, where it is rejected
    return Output("\n\n".join(filter(None, reasoning)) or None, f"{answer}{rest}")
