"""A sample of every prompt of an agent: the same roles, with short texts."""

from collections.abc import Collection

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.agents.passages import context_passage, source_passage
from kailin_ray.agents.prompts import Message
from kailin_ray.schema import Row

_DOCUMENT: Row = {"pmid": 1, "title": "T", "abstract": "A"}
_SHOWN = ("Q?", ["C"])
_CONTEXT: Row = {"pmid": 2, "title": "", "text": "C", "score": 1.0}


def question_samples(persona: str, examples: bool) -> list[list[Message]]:
    """Return the prompt of a question agent."""
    return [question.messages(_DOCUMENT, persona, examples)]


def judge_samples(examples: bool) -> list[list[Message]]:
    """Return the prompts of a judge: of pairs, and of single candidates."""
    return [
        evaluation.pairwise_messages(_DOCUMENT, _SHOWN, _SHOWN, examples),
        evaluation.pointwise_messages(_DOCUMENT, _SHOWN, examples),
    ]


def answer_samples(shown: Collection[str], examples: bool) -> list[list[Message]]:
    """Return the prompts of the answer agent that is shown ``shown``: for the answer, and for the decision."""
    passages = [source_passage(_DOCUMENT)] if "source" in shown else []
    passages += [context_passage(_CONTEXT, _DOCUMENT["pmid"])] if "contexts" in shown else []
    return [
        answer.messages(passages, "Q?", examples),
        answer.decision_messages(passages, "Q?", "A.", examples),
    ]
