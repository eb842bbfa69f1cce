import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.agents import answer, question
from kailin_ray.agents.copies import copies_passage, find_example_text, measure_copied_share
from kailin_ray.agents.prompts import EXAMPLES

FUNGUS = {
    "title": "Growth of Aspergillus niger on agar.",
    "abstract": "Aspergillus niger was grown on agar at several temperatures. The colonies were widest at 30 degrees.",
}
CONTEXT = (
    "Preservation of dense tissues with azide. Tissues were kept in sodium azide for a week before they were fixed. "
    "Mitochondria in the middle of the blocks were intact."
)


def find_copy(said: str, document: dict[str, str], contexts: list[str]) -> str | None:
    source = {"title": document["title"], "text": document["abstract"], "is_source": True}
    return answer.find_copy(said, [source, *({"title": None, "text": text, "is_source": False} for text in contexts)])


def test_an_example_s_words_about_another_subject_are_a_copy() -> None:
    said = "Aspergillus niger grows faster at a higher pH."
    assert find_example_text(said, FUNGUS.values()) in ("faster at a higher ph", "grows faster at a higher")
    assert find_copy(said, FUNGUS, []) == "answer_copies_example"
    asked = "Why does ripening of agar allow Aspergillus niger to multiply?"
    assert question.problem(asked, "stop", FUNGUS) is None
    copied = "Is Aspergillus niger found in most colorectal tumours on agar?"
    assert question.problem(copied, "stop", FUNGUS) == "copies_example"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_abstract_may_be_about_an_example_s_subject(example) -> None:
    own = (example.title, example.abstract, *example.evidence)
    for text in (*example.questions.values(), example.answer):
        assert find_example_text(text, FUNGUS.values())
        assert find_example_text(text, own) is None
    document = {
        "title": "Aspirin at a low dose and recurrent adenomas.",
        "abstract": "Recurrences of adenomas in the colorectum were reduced by aspirin at a low dose.",
    }
    asked = "Does low-dose aspirin reduce the recurrence of colorectal adenomas?"
    assert question.problem(asked, "stop", document) is None


def test_a_passage_shown_accounts_for_an_example_s_words() -> None:
    said = "Listeria grows faster at a higher pH than Aspergillus."
    assert find_copy(said, FUNGUS, []) == "answer_copies_example"
    assert find_copy(said, FUNGUS, ["The bacterium grows slowly, but faster at higher pH values."]) is None


@pytest.mark.parametrize(
    "said",
    [
        "Preservation of dense tissues with azide.",
        "Tissues were kept in sodium azide for a week before they were fixed.",
        "Preservation of dense tissues with azide. Tissues were kept in sodium azide for a week before they were",
        "Yes. Tissues were kept in sodium azide for a week before they were fixed.",
        "Mitochondria in the middle of the blocks were intact.",
    ],
)
def test_a_context_or_a_title_word_for_word_is_no_answer(said: str) -> None:
    assert find_copy(said, FUNGUS, ["Another passage.", CONTEXT]) == "answer_copies_context"
    assert find_copy(said, FUNGUS, ["Another passage."]) is None


def test_the_source_s_title_is_no_answer_but_its_conclusion_is() -> None:
    document = {"title": "Preservation of dense tissues with azide.", "abstract": CONTEXT}
    assert find_copy(document["title"], document, []) == "answer_copies_context"
    assert find_copy("Mitochondria in the middle of the blocks were intact.", document, []) is None


def test_own_words_are_no_copy() -> None:
    said = "Yes. After a week in sodium azide, the mitochondria in the middle of the blocks were intact."
    assert 0.4 < measure_copied_share(said, CONTEXT) < 0.9
    assert not copies_passage(said, [CONTEXT])


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_compared(said: str, passage: str) -> None:
    assert 0 <= measure_copied_share(said, passage) <= 1
    assert find_example_text(said, [passage]) is None or said
    assert measure_copied_share(said, said) in (0, 1)
