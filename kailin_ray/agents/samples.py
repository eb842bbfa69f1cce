"""A sample of every prompt of an agent: the same roles, with short texts."""

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.agents.prompts import Message

_DOCUMENT = {"title": "T", "abstract": "A"}
_SHOWN = ("Q?", ["C"])


def question_samples(persona: str, examples: bool) -> list[list[Message]]:
    """Return the prompt of a question agent."""
    return [question.messages(_DOCUMENT, persona, examples)]


def judge_samples(examples: bool) -> list[list[Message]]:
    """Return the prompts of a judge: of pairs, and of single candidates."""
    return [
        evaluation.pairwise_messages(_DOCUMENT, _SHOWN, _SHOWN, examples),
        evaluation.pointwise_messages(_DOCUMENT, _SHOWN, examples),
    ]


def answer_samples(examples: bool) -> list[list[Message]]:
    """Return the prompts of the answer agent: for the answer, and for the decision."""
    return [
        answer.messages(_DOCUMENT, *_SHOWN, examples),
        answer.decision_messages(_DOCUMENT, *_SHOWN, "A.", examples),
    ]
