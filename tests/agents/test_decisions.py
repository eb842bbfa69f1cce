import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.agents.decisions import contradicts

ASKED = "Does azide preserve dense tissues?"


@pytest.mark.parametrize(
    ("said", "agrees"),
    [
        ("Yes. Azide preserved the tissues.", {"yes"}),
        ("Yes, azide preserved the tissues.", {"yes"}),
        ("Yes - azide preserved the tissues.", {"yes"}),
        ("Yes azide preserved the tissues.", {"yes"}),
        ("**Yes**, azide preserved the tissues.", {"yes"}),
        ("No. Azide destroyed the tissues.", {"no"}),
        ("No, azide destroyed the tissues.", {"no"}),
        ("No; azide destroyed the tissues.", {"no"}),
        ("No - azide destroyed the tissues.", {"no"}),
        ("No. 38 percent of the tissues were destroyed.", {"no"}),
        ("No it destroyed the tissues.", {"no"}),
        # With a reservation the answer may be a maybe.
        ("Yes, but in dogs.", {"yes", "maybe"}),
        ("Yes, azide may preserve the tissues.", {"yes", "maybe"}),
        ("No, although the samples were small.", {"no", "maybe"}),
        ("Maybe. The samples were small.", {"maybe"}),
        ("It depends on the dose of azide.", {"maybe"}),
        # The question's own words, denied. What is not shown may be a maybe.
        ("There is no evidence that azide preserves dense tissues.", {"no", "maybe"}),
        ("There was no clear evidence for azide preserving dense tissues.", {"no", "maybe"}),
        ("Azide does not preserve dense tissues.", {"no", "maybe"}),
        # Something else is denied: it says nothing of the question.
        ("There is no evidence that azide damages dense tissues.", {"yes", "no", "maybe"}),
        ("No change was seen in the tissues with azide.", {"yes", "no", "maybe"}),
        ("No one knew that azide preserved tissues.", {"yes", "no", "maybe"}),
        ("Nothing but azide preserved the tissues.", {"yes", "no", "maybe"}),
        ("Yes-associated protein 1 was preserved.", {"yes", "no", "maybe"}),
        ("Azide preserved the tissues.", {"yes", "no", "maybe"}),
    ],
)
def test_an_answer_and_its_decision_agree(said: str, agrees: set[str]) -> None:
    assert {word for word in ("yes", "no", "maybe") if not contradicts(said, ASKED, word)} == agrees


def test_a_question_that_denies_is_not_denied() -> None:
    said = "Azide does not preserve dense tissues."
    assert not contradicts(said, "Is it true that azide does not preserve dense tissues?", "yes")


@given(st.text(max_size=200), st.text(max_size=100), st.sampled_from(["yes", "no", "maybe"]))
def test_any_text_is_judged(said: str, asked: str, decision: str) -> None:
    assert contradicts(said, asked, decision) in (True, False)
    assert not contradicts(f"{decision.capitalize()}. {said}", asked, decision)
