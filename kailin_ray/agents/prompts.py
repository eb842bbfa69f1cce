"""What every agent's prompt starts with: the system text, worked examples, then the abstract; the task comes last.

All agents share it to the letter, so an engine reads an abstract once and finds it in its prefix cache afterwards.
The examples show every agent's task, because a prefix that differed from agent to agent could not be shared::

    system     You turn biomedical abstracts into questions and answers ...
    user       Title: ... Abstract: ... (example)   <task>
    assistant  ...
    ...
    user       Title: ... Abstract: ... (the row's) <task>

The judge's task is the exception: examples of it in the preamble made a small model answer questions instead of asking
them (docs/evaluation.md), and a judge that is constrained to two words needs none.
"""

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
"""A question agent's persona: what it is asked to ask. Personas keep two agents on one model diverse; ``any`` is for
agents that differ by themselves, and for the preference pairs, whose two sides must have been asked the same."""

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
    """Only where the question is a yes/no question."""


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
    """One message."""
    return {"role": role, "content": content}


def abstract_text(document: Row) -> str:
    """Title and abstract of a row, as every agent reads them."""
    return f"Title: {document['title']}\nAbstract: {document['abstract']}"


def answer_task(question: str, evidence: list[str]) -> str:
    """The answer agent's task: the evidence, then the question."""
    return f"{_format_question(question, evidence)}\nAnswer in one sentence."


def suits_task(question: str, evidence: list[str]) -> str:
    """The pointwise judge's task. All but its last line is the answer agent's task, so the answer finds it cached."""
    return f"{_format_question(question, evidence)}\n{SUITS}"


def compare_task(first: tuple[str, list[str]], second: tuple[str, list[str]]) -> str:
    """The pairwise judge's task: two questions, each with its evidence, in the order in which they are shown."""
    shown = (
        f"{side}: {question}\n{_number_passages(evidence)}"
        for side, (question, evidence) in zip(SIDES, (first, second), strict=True)
    )
    return "Two questions about this abstract, each with evidence from other abstracts.\n" + "".join(shown) + COMPARE


def _format_question(question: str, evidence: list[str]) -> str:
    heading = f"Evidence from other abstracts:\n{_number_passages(evidence)}\n" if evidence else ""
    return f"{heading}Question: {question}"


def _number_passages(evidence: list[str]) -> str:
    return "".join(f"[{number}] {passage}\n" for number, passage in enumerate(evidence, start=1))


def _example_turns(example: Example) -> list[Message]:
    about = {"title": example.title, "abstract": example.abstract}
    turns = [(TASKS[persona], question) for persona, question in example.questions.items()]
    turns.append((answer_task(example.question, list(example.evidence)), example.answer))
    if example.decision:
        turns.append((DECIDE, example.decision))
    turns[0] = (f"{abstract_text(about)}\n\n{turns[0][0]}", turns[0][1])
    return [message for task, reply in turns for message in (ask("user", task), ask("assistant", reply))]


PREAMBLE = [ask("system", SYSTEM), *(message for example in EXAMPLES for message in _example_turns(example))]


def prompt(document: Row, task: str, examples: bool = True) -> list[Message]:
    """The messages of one call about one row: the shared preamble, the abstract, the task.

    Without ``examples`` it is what an agent is trained on: it no longer needs them.
    """
    opening = PREAMBLE if examples else PREAMBLE[:1]
    return [*opening, ask("user", f"{abstract_text(document)}\n\n{task}")]
