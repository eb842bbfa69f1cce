"""The prompts of all agents: the system text, worked examples, the abstract, and last the task.

All agents share the same prefix, so an engine processes an abstract once and then finds it in its prefix cache.
The examples show every agent's task, because a prefix that differed between agents could not be shared::

    system     You turn biomedical abstracts into questions and answers ...
    user       Title: ... Abstract: ... (example)   <task>
    assistant  ...
    ...
    user       Title: ... Abstract: ... (the row's) <task>

Only the judge's task has no examples. With such examples in the preamble, a small model answered questions instead of
asking them (docs/evaluation.md), and a judge that is constrained to two words needs none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kailin_ray.schema import Row

Message = dict[str, str]

SYSTEM = (
    "You turn biomedical abstracts into questions and answers for doctors and scientists. "
    "A question names its subject and can be understood on its own."
)

TASKS = {
    "clinical": "Ask a yes/no question about the effect, the diagnosis or the treatment.",
    "mechanism": "Ask a how, why or what question about the mechanism or the method.",
    "any": "Ask one question that this abstract helps to answer.",
}
"""The task of a question agent, by persona. Personas keep two agents on the same model diverse. ``any`` is for agents
that differ by themselves, and for preference pairs, whose two sides must have the same prompt."""

DECIDE = "Is the answer yes, no or maybe?"
DECISIONS = ("yes", "no", "maybe")

COMPARE = "Which question fits the abstract better, together with its evidence? Answer A or B."
SIDES = ("A", "B")

SUITS = "Do the question and its evidence suit this abstract? Answer yes or no."
VERDICTS = ("yes", "no")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A worked example, written for this project; its figures are illustrations."""

    title: str
    abstract: str
    questions: dict[str, str]
    evidence: tuple[str, ...]
    question: str
    answer: str
    decision: str | None
    """The decision on a yes/no question; None for other questions."""


EXAMPLES = (
    Example(
        title="Low-dose aspirin and recurrence of colorectal adenomas.",
        abstract="Patients with a recent colorectal adenoma took placebo or 81 mg of aspirin daily. After three years "
        "adenomas recurred in 47 percent with placebo and 38 percent with aspirin, which inhibits cyclooxygenase.",
        questions={
            "clinical": "Does low-dose aspirin reduce the recurrence of colorectal adenomas?",
            "mechanism": "How does aspirin prevent the growth of colorectal adenomas?",
        },
        evidence=("Cyclooxygenase-2 is found in most colorectal tumours.",),
        question="Does low-dose aspirin reduce the recurrence of colorectal adenomas?",
        answer="Yes. Adenomas recurred in 38 percent of the patients who took low-dose aspirin daily, but in "
        "47 percent of those who took placebo.",
        decision="yes",
    ),
    Example(
        title="Growth of Listeria monocytogenes in refrigerated soft cheese.",
        abstract="Soft cheese was inoculated with Listeria monocytogenes. Counts rose tenfold within 14 days at 10 "
        "degrees C but not at 4 degrees C. Ripening raised the pH and allowed the bacteria to multiply.",
        questions={
            "clinical": "Can Listeria monocytogenes multiply in soft cheese stored at 4 degrees C?",
            "mechanism": "Why does ripening of soft cheese allow Listeria monocytogenes to multiply?",
        },
        evidence=("Listeria monocytogenes grows slowly below pH 5.5.",),
        question="Why does ripening of soft cheese allow Listeria monocytogenes to multiply?",
        answer="Ripening raises the pH of the cheese, and Listeria monocytogenes grows faster at a higher pH.",
        decision=None,
    ),
)


def ask(role: str, content: str) -> Message:
    """Return one message."""
    return {"role": role, "content": content}


def abstract_text(document: Row) -> str:
    """Return title and abstract of a row as text, as it is shown to every agent."""
    return f"Title: {document['title']}\nAbstract: {document['abstract']}"


def answer_task(question: str, evidence: Sequence[str], with_source: bool = True) -> str:
    """Return the answer agent's task: the evidence, then the question.

    ``with_source``: whether the prompt has the source abstract. If it has not, the evidence may contain it.
    """
    return f"{_format_question(question, evidence, with_source)}\nAnswer in one sentence."


def suits_task(question: str, evidence: list[str]) -> str:
    """Return the pointwise judge's task.

    Except for its last line it equals the answer agent's task, so the answer's call finds it in the prefix cache.
    """
    return f"{_format_question(question, evidence)}\n{SUITS}"


def compare_task(first: tuple[str, list[str]], second: tuple[str, list[str]]) -> str:
    """Return the pairwise judge's task: two questions with their evidence, ``first`` shown as A."""
    sides = (
        f"{side}: {question}\n{_number_passages(evidence)}"
        for side, (question, evidence) in zip(SIDES, (first, second), strict=True)
    )
    return "Two questions about this abstract, each with evidence from other abstracts.\n" + "".join(sides) + COMPARE


def _format_question(question: str, evidence: Sequence[str], with_source: bool = True) -> str:
    heading = f"Evidence from {'other ' if with_source else ''}abstracts:\n"
    return f"{heading}{_number_passages(evidence)}\nQuestion: {question}" if evidence else f"Question: {question}"


def _number_passages(evidence: Sequence[str]) -> str:
    return "".join(f"[{number}] {passage}\n" for number, passage in enumerate(evidence, start=1))


def _example_turns(example: Example) -> list[Message]:
    document = {"title": example.title, "abstract": example.abstract}
    turns = [(TASKS[persona], question) for persona, question in example.questions.items()]
    turns.append((answer_task(example.question, list(example.evidence)), example.answer))
    if example.decision:
        turns.append((DECIDE, example.decision))
    turns[0] = (f"{abstract_text(document)}\n\n{turns[0][0]}", turns[0][1])
    return [message for task, reply in turns for message in (ask("user", task), ask("assistant", reply))]


PREAMBLE = [ask("system", SYSTEM), *(message for example in EXAMPLES for message in _example_turns(example))]


def prompt(document: Row | None, task: str, examples: bool = True) -> list[Message]:
    """Return the messages of one call about one row: the shared preamble, the abstract, the task.

    Without a ``document`` they have no abstract, because an answer agent may be shown contexts alone. Agents are
    trained on prompts without ``examples``, which a trained agent no longer needs.
    """
    opening = PREAMBLE if examples else PREAMBLE[:1]
    return [*opening, ask("user", f"{abstract_text(document)}\n\n{task}" if document else task)]
