"""The answer agent: answers the preferred question from the passages that it is shown (``answer.shown``).

Sample: ``Yes. Adding 0.1% azide to the fixative improved the preservation of mitochondria in dense tissues.`` Because
the question is a yes/no question, there is also a decision: ``{"yes": 0.91, "no": 0.03, "maybe": 0.06}``.
"""

import re
from collections.abc import Sequence

from kailin_ray.agents.copies import copies_passage, find_example_text
from kailin_ray.agents.forms import find_form
from kailin_ray.agents.passages import join_passage
from kailin_ray.agents.prompts import DECIDE, Message, answer_task, ask, prompt
from kailin_ray.schema import Row

MIN_WORDS = 4


def messages(shown: Sequence[Row], question: str, examples: bool = True) -> list[Message]:
    """Return messages that ask for the answer to ``question`` and show the passages ``shown`` and no other.

    A passage without a score is the source abstract (see ``passages``). The others are the contexts, in this order.
    """
    source = next((passage for passage in shown if passage["score"] is None), None)
    contexts = [join_passage(each["title"], each["text"]) for each in shown if each["score"] is not None]
    document = source and {"title": source["title"], "abstract": source["text"]}
    return prompt(document, answer_task(question, contexts, source is not None), examples)


def decision_messages(shown: Sequence[Row], question: str, answer: str, examples: bool = True) -> list[Message]:
    """Return messages that ask whether ``answer`` means yes, no or maybe. They start with the answer's prompt."""
    return [*messages(shown, question, examples), ask("assistant", answer), ask("user", DECIDE)]


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


def find_copy(answer: str, shown: Sequence[Row]) -> str | None:
    """Return the reason why ``answer`` is a copy, or None if it is the agent's own.

    ``shown`` are the passages that the agent was shown. Sentences of the source abstract may be repeated, because
    authors answer in their conclusion; only its title is no answer.
    """
    texts = [join_passage(passage["title"], passage["text"]) for passage in shown]
    if find_example_text(answer, texts):
        return "answer_copies_example"
    no_answers = (
        passage["title"] or "" if passage["is_source"] else text for passage, text in zip(shown, texts, strict=True)
    )
    return "answer_copies_context" if copies_passage(answer, no_answers) else None


def _plain(content: str) -> str:
    return " ".join(re.findall(r"\w+", content.lower()))
