"""The answer agent: answers the preferred question from the abstract and the contexts.

Sample: ``Yes. Adding 0.1% azide to the fixative improved the preservation of mitochondria in dense tissues.`` Because
the question is a yes/no question, there is also a decision: ``{"yes": 0.91, "no": 0.03, "maybe": 0.06}``.
"""

import re

from kailin_ray.agents.forms import find_form
from kailin_ray.agents.prompts import DECIDE, Message, answer_task, ask, prompt
from kailin_ray.schema import Row

MIN_WORDS = 4


def messages(document: Row, question: str, contexts: list[str], examples: bool = True) -> list[Message]:
    """Return messages that ask for the answer to ``question``; ``contexts`` are shown in the given order."""
    return prompt(document, answer_task(question, contexts), examples)


def decision_messages(
    document: Row, question: str, contexts: list[str], answer: str, examples: bool = True
) -> list[Message]:
    """Return messages that ask whether ``answer`` means yes, no or maybe. They start with the answer's prompt."""
    return [*messages(document, question, contexts, examples), ask("assistant", answer), ask("user", DECIDE)]


def problem(answer: str, finish_reason: str, question: str) -> str | None:
    """Return the reason (a key of ``schema.REASONS``) why ``answer`` is unusable, or None if it is usable."""
    if not answer:
        return "answer_empty"
    if finish_reason != "stop":
        return "answer_truncated"
    if _plain(answer) == _plain(question):
        return "answer_copies_question"
    if len(answer.split()) < MIN_WORDS:
        return "answer_too_short"
    if find_form(answer) or answer.endswith("?"):
        return "answer_malformed"
    return None


def _plain(content: str) -> str:
    return " ".join(re.findall(r"\w+", content.lower()))
