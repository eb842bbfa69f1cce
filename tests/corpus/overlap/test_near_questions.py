import math
from itertools import combinations_with_replacement

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from kailin_ray.corpus.overlap import near_questions
from kailin_ray.corpus.overlap.near_questions import (
    EXACT_WORDS,
    FUNCTION_WORDS,
    LEAST_WORDS,
    MIN_RATIO,
    MIN_SHARE,
    NEAR_WORDS,
    SHORT,
    SHORT_RATIO,
    SLACK,
    find_near,
    index_questions,
)
from kailin_ray.corpus.overlap.ngrams import split_words, word_list

MITOCHONDRIA = "Do mitochondria play a role in remodelling lace plant leaves during programmed cell death?"
SURVIVAL = "Does laparoscopic colectomy improve five-year survival of elderly patients with sigmoid cancer?"
KELOID = "What is the treatment of choice for keloid?"
VITAMIN = "Vitamin D deficiency"
QUESTIONS = [MITOCHONDRIA, SURVIVAL, KELOID, VITAMIN]
BEFORE, AFTER = "Rats were kept in cages for ten days.", "They were then weighed, and the liver was taken out."


def found(texts: list[str], questions: list[str] = QUESTIONS) -> list[int | None]:
    nearest = find_near(index_questions(questions), split_words(pa.array(texts)))
    return [near and near.question for near in nearest]


@pytest.mark.parametrize(
    "copy",
    [
        MITOCHONDRIA,
        MITOCHONDRIA.upper().replace(" ", "\u00a0"),
        "do mitochondria play a role in re\u00admodelling \u201clace plant\u201d leaves in programmed cell\u2010death",
        "Do mitochondria play a part in remodelling lace plant leaves during programmed cell death",
        "Mitochondria play a role in remodelling lace plant leaves during cell death",
        "During programmed cell death, do mitochondria play a role in remodelling lace plant leaves?",
        "Do the mitochondria also play any role in remodelling the lace plant's leaves during programmed cell death?",
    ],
)
def test_near_copies_are_found_wherever_they_stand(copy: str) -> None:
    texts = [copy, f"{copy}\n{BEFORE} {AFTER}", f"{BEFORE} {copy} {AFTER}", f"{BEFORE} {AFTER} {copy}"]
    assert found(texts) == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "other",
    [
        "Mitochondria were isolated from leaves. The plant was then exposed to stress, and cell death was seen.",
        "Does laparoscopic surgery improve survival of patients with cancer?",
        "Does open gastrectomy improve one-year survival of young patients with gastric lymphoma?",
        "Vitamin D deficiency was common.",
        "The choice of a treatment for keloid is hard.",
        "",
    ],
)
def test_what_only_has_the_same_subject_is_not(other: str) -> None:
    assert found([other, f"{BEFORE} {other} {AFTER}"]) == [None, None]


def test_a_short_question_is_found_word_for_word() -> None:
    texts = [f"{BEFORE} What is the TREATMENT of choice for keloid: {AFTER}", "What is the treatment for keloid?"]
    assert found(texts) == [2, None]


def test_the_window_is_what_was_copied() -> None:
    words = split_words(pa.array(["none", f"{BEFORE} {SURVIVAL} {AFTER}"]))
    near = find_near(index_questions(QUESTIONS), words)[1]
    assert near is not None
    # From its first informative word to its last.
    assert words.between(near.first, near.last) == SURVIVAL[len("Does ") : -1]
    assert near.question == 1
    assert near.ratio > 95


def test_the_most_alike_question_is_told() -> None:
    other = SURVIVAL.replace("sigmoid cancer", "rectal cancer")
    assert found([SURVIVAL, other], [other, SURVIVAL]) == [1, 0]


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        # One and a half times six words are nine.
        ("aaa bbb ccc x y z ddd eee fff", 0, 8),
        ("aaa bbb ccc w x y z ddd eee fff", 0, 8),
        ("aaa x aaa bbb ccc ddd eee fff eee", 2, 7),
        ("aaa bbb x ccc ddd eee fff y aaa bbb ccc ddd eee fff", 8, 13),
        ("aaa bbb ccc ddd eee fff y aaa bbb ccc ddd eee fff", 0, 5),
    ],
)
def test_the_window_is_the_fullest_then_the_shortest_then_the_first(text: str, first: int, last: int) -> None:
    (near,) = find_near(index_questions(["aaa bbb ccc ddd eee fff"]), split_words(pa.array([text])))
    assert near is not None
    assert (near.first, near.last) == (first, last)


def test_no_questions_and_no_texts() -> None:
    assert found([SURVIVAL], []) == [None]
    assert found([], QUESTIONS) == []


def slow(questions: list[str], text: str) -> tuple[int, float] | None:
    """All windows, all questions, in plain Python."""
    function_words = set(FUNCTION_WORDS.split())
    sets = [set(word_list(question)) - function_words for question in questions]
    weight = {
        word: round(1_000 * math.log1p((len(questions) + 1) / sum(word in one for one in sets)))
        for word in set().union(*sets)
    }
    words, best = word_list(text), None
    for number, (question, informative) in enumerate(zip(questions, sets, strict=True)):
        asked, places = word_list(question), [i for i, word in enumerate(words) if word in informative]
        if len(informative) < EXACT_WORDS or len(asked) < LEAST_WORDS:
            continue
        windows = [
            (sum(weight[word] for word in set(words[i : j + 1]) & informative), i - j, -i)
            for i, j in combinations_with_replacement(places, 2)
            if j - i < math.ceil(SLACK * len(asked))
        ]
        if not windows or max(windows)[0] < MIN_SHARE * sum(weight[word] for word in informative):
            continue
        _, length, first = max(windows)
        window = " ".join(words[-first : -first - length + 1])
        ratio = max(fuzz.ratio(" ".join(asked), window), fuzz.token_sort_ratio(" ".join(asked), window))
        if len(informative) < NEAR_WORDS or ratio < (SHORT_RATIO if len(informative) < SHORT else MIN_RATIO):
            around = words[max(-first - len(asked), 0) : -first - length + 1 + len(asked)]
            copies = [around[i : i + len(asked)] for i in range(len(around))]
            ratio = 100 if asked in copies else 0
        if ratio and (best is None or ratio > best[1]):
            best = (number, ratio)
    return best


WORDS = st.sampled_from("the of is does liver cancer survival drug rats heart cell death role".split())
SENTENCE = st.lists(WORDS, min_size=3, max_size=12)


@settings(max_examples=200)
@given(st.lists(SENTENCE, min_size=1, max_size=6), st.data())
def test_equal_to_trying_every_window(asked: list[list[str]], data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.one_of(SENTENCE, st.sampled_from(asked)), max_size=4))
    text = " ".join(word for piece in pieces for word in piece)
    questions = [" ".join(words) for words in asked]
    (near,) = find_near(index_questions(questions), split_words(pa.array([text])))
    assert (near and (near.question, near.ratio)) == slow(questions, text)


def test_function_words_are_words() -> None:
    words = near_questions.FUNCTION_WORDS.split()
    assert word_list(near_questions.FUNCTION_WORDS) == words
    assert len(set(words)) == len(words)
