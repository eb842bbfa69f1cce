"""What is recorded of a passage, joined again, is what an agent was shown of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.agents.passages import context_passage, cut_passage, join_passage

TEXTS = st.text(st.sampled_from("ab \n.…\u00a0"), max_size=30)


@given(TEXTS, TEXTS, st.none() | st.integers(1, 12))
def test_title_and_text_joined_are_the_passage_cut_as_one(title: str, text: str, max_words: int | None) -> None:
    words = f"{title} {text}".split()
    whole = " ".join(words[:max_words]) + (" …" if max_words and len(words) > max_words else "")
    shown = join_passage(*cut_passage(title, text, max_words))
    assert shown == whole
    context = {"pmid": 2, "score": 0.5, "title": cut_passage(title, text, max_words)[0], "text": shown}
    passage = context_passage(context, 1)
    assert (passage["title"], passage["text"]) == cut_passage(title, text, max_words)


@pytest.mark.parametrize(
    ("max_words", "cut"),
    [
        (None, ("One two.", "Three four.")),
        (4, ("One two.", "Three four.")),
        (3, ("One two.", "Three …")),
        (2, ("One two.", "…")),
        (1, ("One …", "")),
    ],
)
def test_the_mark_stands_where_the_passage_was_cut(max_words: int | None, cut: tuple[str, str]) -> None:
    assert cut_passage("One  two.", "Three\nfour.", max_words) == cut


def test_a_context_of_an_earlier_version_keeps_title_and_text_together() -> None:
    passage = context_passage({"pmid": 1, "score": 0.5, "text": "One two. Three."}, 1)
    assert passage == {"pmid": 1, "title": None, "text": "One two. Three.", "score": 0.5, "is_source": True}
    assert join_passage(passage["title"], passage["text"]) == "One two. Three."
