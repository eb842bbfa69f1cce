import pytest
from hypothesis import example as with_example
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.agents import question
from kailin_ray.agents.prompts import EXAMPLES, PREAMBLE, TASKS

DOCUMENT = {
    "title": "Effect of sodium azide on the preservation of tissues.",
    "abstract": "Dense tissues were fixed with glutaraldehyde and sodium azide. Mitochondria were preserved.",
}
GOOD = "Does sodium azide improve the preservation of dense tissues?"


@pytest.mark.parametrize(
    ("asked", "finish", "problem"),
    [
        (GOOD, "stop", None),
        ("Why does sodium azide preserve mitochondria in dense tissues?", "stop", None),
        ("", "stop", "empty"),
        (GOOD, "length", "truncated"),
        (f"**{GOOD}**", "stop", "markup"),
        (f"1. {GOOD}", "stop", "markup"),
        (f"{GOOD} <|im_end|>", "stop", "markup"),
        ("Sodium azide improves the preservation of tissues.", "stop", "not_one_question"),
        (f"{GOOD} {GOOD}", "stop", "not_one_question"),
        (f"Here is a question:\n{GOOD}", "stop", "preamble"),
        (f'"{GOOD}"', "stop", "not_one_question"),
        ("Does azide help tissues?", "stop", None),
        ("Is azide preserved?", "stop", None),
        ("Is azide ototoxic?", "stop", None),
        ("Were they preserved?", "stop", "length"),
        ("Does it help tissues?", "stop", None),
        ("Azide tissues?", "stop", "length"),
        ("Does " + "sodium azide " * 20 + "help?", "stop", "length"),
        ("What is the purpose of this study of sodium azide?", "stop", "points_at_source"),
        ("What did the authors find about sodium azide?", "stop", "points_at_source"),
        ("Which effect of sodium azide is described above in detail?", "stop", "points_at_source"),
        ("Does low-dose aspirin affect mitochondria in dense tissues?", "stop", "copies_example"),
        ("What could possibly happen somewhere next year?", "stop", "off_topic"),
        ("Does sodium bicarbonate relieve heartburn in pregnant women?", "stop", "off_topic"),
        ("Which tissues does sodium azide preserve?", "stop", None),
    ],
)
def test_questions_are_checked_strictly(asked: str, finish: str, problem: str | None) -> None:
    assert question.problem(asked, finish, DOCUMENT) == problem


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ("Here is the question: {}", "preamble"),
        ("Here's a question. {}", "preamble"),
        ("Sure! {}", "preamble"),
        ("Question: {}", "preamble"),
        ("Q: {}", "preamble"),
        ("Clinical question 1: {}", "preamble"),
        ("The question is: {}", "preamble"),
        ("**Question:** {}", "markup"),
        ("Okay, let me think of one. {}", "preamble"),
        ("We need to ask about azide. {}", "preamble"),
        ("<question>{}</question>", "markup"),
        ("<think>Azide.</think> {}", "markup"),
        ('{{"question": "{}"}}', "markup"),
        ("```{}```", "markup"),
        ("assistantfinal{}", "markup"),
        ("I'm sorry, but {}", "refusal"),
        ("I cannot do that. {}", "refusal"),
    ],
)
def test_what_models_write_around_a_question_is_no_question(form: str, problem: str) -> None:
    assert question.problem(form.format(GOOD), "stop", DOCUMENT) == problem


def test_an_example_s_subject_may_be_asked_about_where_the_abstract_has_it() -> None:
    document = {"title": "Aspirin in dogs.", "abstract": "Dogs took aspirin."}
    assert question.problem("Does aspirin have an effect in dogs?", "stop", document) is None


@given(st.text(max_size=300), st.sampled_from(["stop", "length", "abort", "none"]))
def test_no_text_breaks_the_check_and_what_passes_is_one_question(asked: str, finish: str) -> None:
    if question.problem(asked, finish, DOCUMENT) is None:
        assert asked.endswith("?")
        assert asked.count("?") == 1
        assert "\n" not in asked


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (GOOD, True),
        ("Can dogs swim well today?", True),
        ("Why do dogs swim?", False),
        ("In dogs with arthritis, does swimming help?", True),
        ("Swimming of dogs: is it safe?", True),
        ("What is swimming, and is it safe?", False),
        ("Swimming of dogs: a new therapy?", False),
        ("Doesntmatter if so?", False),
    ],
)
def test_yes_no_questions_are_known_by_their_first_word(asked: str, expected: bool) -> None:
    assert question.is_yes_no(asked) is expected


def test_agents_share_all_but_the_task_so_that_the_engine_reads_an_abstract_once() -> None:
    one, two = (question.messages(DOCUMENT, persona) for persona in ("clinical", "mechanism"))
    assert one[:-1] == two[:-1] == PREAMBLE
    start = f"Title: {DOCUMENT['title']}\nAbstract: {DOCUMENT['abstract']}\n\n"
    assert one[-1]["content"] == start + TASKS["clinical"]
    assert two[-1]["content"] == start + TASKS["mechanism"]


def test_the_worked_examples_pass_the_checks_they_teach() -> None:
    assert EXAMPLES
    for example in EXAMPLES:
        assert example.questions
        document = {"title": example.title, "abstract": example.abstract}
        for asked in (*example.questions.values(), example.question):
            assert question.problem(asked, "stop", document) is None


@given(st.text(max_size=300) | st.text(alphabet="?<|> \n\ud800\u202ethe studyAI*#", max_size=300), st.text(), st.text())
@with_example("this " * 20_000, "", "")
@with_example("the " + "a " * 50_000 + "study?", "", "")
def test_any_output_of_a_model_is_judged(said: str, title: str, abstract: str) -> None:
    found = question.problem(said, "stop", {"title": title, "abstract": abstract})
    names = [
        "empty",
        "markup",
        "preamble",
        "refusal",
        "not_one_question",
        "length",
        "points_at_source",
        "copies_example",
        "off_topic",
    ]
    assert found in (None, *names)
    if found is None:
        assert said.endswith("?")
        assert "<|" not in said
    assert question.problem(said, "length", {"title": title, "abstract": abstract}) in ("empty", "truncated")
    assert question.is_yes_no(said) in (True, False)
