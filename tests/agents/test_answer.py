import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kailin_ray.agents import answer, evaluation
from kailin_ray.agents.passages import context_passage, source_passage
from kailin_ray.agents.prompts import EXAMPLES, SUITS
from kailin_ray.schema import REASONS

DOCUMENT = {"pmid": 1, "title": "Azide.", "abstract": "Azide preserved tissues."}
CONTEXTS = [{"pmid": 2, "title": "", "text": text, "score": 0.5} for text in ("one", "two")]
SHOWN = [source_passage(DOCUMENT), *(context_passage(context, 1) for context in CONTEXTS)]
ASKED = "Does azide preserve tissues well?"


@pytest.mark.parametrize(
    ("given_answer", "finish", "problem"),
    [
        ("Yes. Azide preserved the tissues.", "stop", None),
        ("", "stop", "answer_empty"),
        ("Yes.", "stop", "answer_too_short"),
        ("Yes. Azide preserved the", "length", "answer_truncated"),
        ("does azide preserve tissues well", "stop", "answer_copies_question"),
        ("Does azide preserve all tissues well?", "stop", "answer_malformed"),
        ("Yes. Azide did. <|im_start|>user", "stop", "answer_malformed"),
    ],
)
def test_answers_are_checked_strictly(given_answer: str, finish: str, problem: str | None) -> None:
    assert answer.problem(given_answer, finish, ASKED) == problem


ANSWER = "Azide preserved the tissues well."
FORMS = [
    f"<think>The user asks.</think> {ANSWER}",
    f"<think>\nOkay.\n</think>\n\n{ANSWER}",
    f"{ANSWER} </think>",
    f"analysisWe need to answer.assistantfinal{ANSWER}",
    f"final: {ANSWER}",
    f"<|channel|>final<|message|>{ANSWER}",
    f"Okay, the user asks whether azide helps. {ANSWER}",
    f"Here is the answer: {ANSWER}",
    f"Here’s the answer. {ANSWER}",
    f"Sure! {ANSWER}",
    f"Certainly. {ANSWER}",
    f"Answer: {ANSWER}",
    f"**Answer:** {ANSWER}",
    f"The final answer is: {ANSWER}",
    f"```\n{ANSWER}\n```",
    f'{{"answer": "{ANSWER}"}}',
    f'["{ANSWER}"]',
    f"\\boxed{{{ANSWER}}}",
    f"<answer>{ANSWER}</answer>",
    "I'm sorry, but I can't help with that request.",
    "I cannot provide medical advice to you.",
    "Sorry, I do not know it.",
    "As an AI language model, I have no opinion.",
    "Unfortunately, I cannot answer this question.",
    f"# Answer\n{ANSWER}",
]


@pytest.mark.parametrize("form", FORMS)
def test_what_models_write_around_an_answer_is_no_answer(form: str) -> None:
    assert answer.problem(form, "stop", ASKED) == "answer_malformed"


@pytest.mark.parametrize(
    "text",
    [
        "Yes. Azide (0.1 %) preserved [3H]-labelled tissues; p < 0.05 in all groups.",
        "No. Thinking and reasoning were not affected by the treatment.",
        "Sorry states of tissues were not seen with azide.",
        "The answer depends on the dose that was given.",
        "Okadaic acid inhibited the phosphatase in all cells.",
        "Here, azide preserved the tissues in {all} of the groups.",
    ],
)
def test_ordinary_answers_pass(text: str) -> None:
    assert answer.problem(text, "stop", ASKED) is None


@given(st.text(max_size=300), st.sampled_from(["stop", "length", "abort"]))
def test_every_problem_is_a_known_reason(given_answer: str, finish: str) -> None:
    problem = answer.problem(given_answer, finish, ASKED)
    assert problem is None or problem in REASONS


def test_the_decision_prompt_starts_with_the_answer_prompt() -> None:
    asked = answer.messages(SHOWN, ASKED)
    decided = answer.decision_messages(SHOWN, ASKED, "Yes. It does so.")
    assert decided[: len(asked)] == asked
    assert "[1] one\n[2] two\n" in asked[-1]["content"]
    assert asked[-1]["content"].index("[2] two") < asked[-1]["content"].index(ASKED)


def test_the_pointwise_judge_s_prompt_is_the_answer_s_but_for_the_last_line() -> None:
    judged = evaluation.pointwise_messages(DOCUMENT, (ASKED, ["one", "two"]))
    answered = answer.messages(SHOWN, ASKED)
    assert judged[:-1] == answered[:-1]
    one, two = (messages[-1]["content"].rpartition("\n") for messages in (judged, answered))
    assert one[0] == two[0]
    assert (one[2], two[2]) == (SUITS, "Answer in one sentence.")


def test_without_contexts_the_prompt_has_no_empty_heading() -> None:
    assert "Evidence" not in answer.messages(SHOWN[:1], ASKED)[-1]["content"]


def test_contexts_alone_are_shown_without_the_abstract() -> None:
    asked = answer.messages(SHOWN[1:], ASKED, examples=False)[-1]["content"]
    assert asked == f"Evidence from abstracts:\n[1] one\n[2] two\n\nQuestion: {ASKED}\nAnswer in one sentence."


def test_the_worked_examples_pass_the_checks_they_teach() -> None:
    assert EXAMPLES
    assert all(answer.problem(example.answer, "stop", example.question) is None for example in EXAMPLES)


@given(st.text(max_size=300) | st.text(alphabet="?<|># \n\ud800\u202eabc", max_size=300), st.text(max_size=50))
@example("a" * 100_000, "b")
def test_any_output_of_a_model_is_judged(said: str, asked: str) -> None:
    found = answer.problem(said, "stop", asked)
    assert found is None or found in REASONS
    if found is None:
        assert len(said.split()) >= 4
        assert "<|" not in said
    assert answer.problem(said, "length", asked) in ("answer_empty", "answer_truncated")
