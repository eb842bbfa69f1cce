"""Find near-copies of questions inside longer texts: find candidates by shared words, then compare strings.

The *informative* words of a question are all words except function words. A word weighs more if fewer questions have
it. In each text, the search looks for the window that holds the most weight of the question's words. A window is at
most one and a half times as long as the question. Question and window are compared as strings only if that weight is
high enough.
"""

import re
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rapidfuzz import fuzz

from kailin_ray.corpus.overlap.ngrams import Hashes, Offsets, Words, places_in, split_words, word_list

FUNCTION_WORDS = """
a about after all also among an and any are as at be because been before being between both but by can could did do
does done due during each either few for from had has have he her his how however i if in into is it its may might more
most must no nor not of on one only or other our over per shall she should so some such than that the their them then
there these they this those through to too two under up upon use used using very was we were what when where whether
which while who whom whose why will with within without would you your
following best likely true false except regarding"""

MIN_SHARE = 0.6
"""Share of the weight of a question's informative words that a window must hold."""
MIN_RATIO = 75.0
"""Lowest similarity of question and window, by rapidfuzz: 0 to 100."""
SHORT, SHORT_RATIO = 6, 85.0
"""Questions of fewer than ``SHORT`` informative words need ``SHORT_RATIO``, since half a sentence may resemble them by
chance."""
NEAR_WORDS, EXACT_WORDS = 4, 3
"""Lowest numbers of informative words with which a question's near-copies, and its exact copies, are searched for."""
LEAST_WORDS = 5
"""Lowest number of words of any kind. Shorter "questions" are only the name of a thing ("Vitamin D deficiency")."""
SLACK = 1.5
"""Maximum length of a window, as a multiple of the question's length."""

_WEIGHT = 1_000  # weights are whole numbers, so that a sum does not depend on its order


@dataclass(frozen=True)
class Questions:
    """q questions with v distinct informative words, indexed by word and by question, in read-only arrays."""

    letters: npt.NDArray[np.uint8]
    """The words of all questions, each followed by a space, in UTF-8. Question i is
    ``letters[places[i]:places[i + 1]]``."""
    places: Offsets
    lengths: npt.NDArray[np.int32]
    """(q,) number of words of each question, of any kind."""
    vocabulary: Hashes
    """(v,) sorted hashes of informative words."""
    weights: npt.NDArray[np.int64]
    """(v,) weight of each word."""
    totals: npt.NDArray[np.int64]
    """(q,) total weight of the distinct informative words of each question."""
    word_rows: Offsets
    """(v + 1,) offsets into ``word_questions``, which lists the questions that have each word."""
    word_questions: npt.NDArray[np.int32]
    question_rows: Offsets
    """(q + 1,) offsets into ``question_words``, which lists the words of each question as indexes into
    ``vocabulary``."""
    question_words: npt.NDArray[np.int32]

    def text(self, number: int) -> str:
        """Return the words of a question, separated by spaces."""
        return self.letters[self.places[number] : self.places[number + 1]].tobytes().decode()[:-1]


@dataclass(frozen=True)
class Near:
    """A question found in a text. ``first`` and ``last`` are its window, as word numbers in the searched ``Words``."""

    question: int
    ratio: float
    first: int
    last: int


def index_questions(questions: list[str]) -> Questions:
    """Index questions for ``find_near``."""
    words = split_words(pa.array(questions, pa.large_string()))
    encoded = [("".join(f"{word} " for word in word_list(question))).encode() for question in questions]
    counts = np.diff(words.offsets)
    owner = np.repeat(np.arange(len(questions)), counts)
    informative = ~np.isin(words.hashes, split_words(pa.array([FUNCTION_WORDS])).hashes)
    vocabulary, number = np.unique(words.hashes[informative], return_inverse=True)
    # Each word counts once per question. Pairs are sorted by word, then by question; `by_question` reverses this.
    pairs = np.unique(np.stack([number, owner[informative]], axis=1), axis=0)
    frequency = np.bincount(pairs[:, 0], minlength=len(vocabulary))
    weights = np.round(_WEIGHT * np.log1p((len(questions) + 1) / frequency)).astype(np.int64)
    totals = np.zeros(len(questions), np.int64)
    np.add.at(totals, pairs[:, 1], weights[pairs[:, 0]])
    by_question = np.lexsort((pairs[:, 0], pairs[:, 1]))
    return Questions(
        letters=np.frombuffer(b"".join(encoded), np.uint8),
        places=_rows(np.array([len(text) for text in encoded], np.int64)),
        lengths=counts.astype(np.int32),
        vocabulary=vocabulary,
        weights=weights,
        totals=totals,
        word_rows=_rows(frequency),
        word_questions=pairs[:, 1].astype(np.int32),
        question_rows=_rows(np.bincount(pairs[:, 1], minlength=len(questions))),
        question_words=pairs[by_question, 0].astype(np.int32),
    )


def _rows(counts: npt.NDArray[Any]) -> Offsets:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def find_near(questions: Questions, words: Words) -> list[Near | None]:
    """Return the question that each of n texts copies most closely; None if it copies none.

    A near-copy holds at least ``MIN_SHARE`` of the question's weight. Its similarity is at least ``MIN_RATIO``, or
    ``SHORT_RATIO`` for a short question, with the words in their own order or in alphabetical order. An exact copy
    always counts. Questions of fewer than ``EXACT_WORDS`` informative words or ``LEAST_WORDS`` words are not searched
    for.
    """
    best: list[Near | None] = [None] * (len(words.offsets) - 1)
    terms = places_in(words.hashes, questions.vocabulary)
    for text, question, first, last in zip(*_windows(terms, words.offsets, *_arrays(questions)), strict=True):
        start, end = (int(place) for place in words.offsets[text : text + 2])
        near = _verify(questions, words, int(question), int(first), int(last), start, end)
        current = best[text]
        if near is not None and (current is None or (near.ratio, -near.question) > (current.ratio, -current.question)):
            best[text] = near
    return best


def _arrays(index: Questions) -> tuple[Any, ...]:
    return (
        index.weights, index.totals, index.lengths, index.word_rows, index.word_questions, index.question_rows,
        index.question_words,
    )  # fmt: skip


def _verify(
    questions: Questions, words: Words, question: int, first: int, last: int, start: int, end: int
) -> Near | None:
    question_text = questions.text(question)
    informative = int(np.diff(questions.question_rows[question : question + 2])[0])
    window = " ".join(word_list(words.between(first, last)))
    ratio = max(fuzz.ratio(question_text, window), fuzz.token_sort_ratio(question_text, window))
    min_ratio = SHORT_RATIO if informative < SHORT else MIN_RATIO
    if informative >= NEAR_WORDS and ratio >= min_ratio:
        return Near(question, ratio, first, last)
    # The window begins and ends with informative words, but a question may begin and end with other words.
    length = int(questions.lengths[question])
    low = max(first - length, start)
    high = min(last + length, end - 1)
    around = " ".join(word_list(words.between(low, high)))
    if re.search(rf"(?:^| ){re.escape(question_text)}(?: |$)", around):
        return Near(question, 100.0, first, last)
    return None


@numba.njit(cache=True, nogil=True)
def _windows(
    terms: Any,
    offsets: Any,
    weights: Any,
    totals: Any,
    lengths: Any,
    word_rows: Any,
    word_questions: Any,
    question_rows: Any,
    question_words: Any,
) -> Any:
    """Return text, question, first word and last word of the best window of each text and question.

    Only windows with ``MIN_SHARE`` of the question's weight are returned. The best window holds the most weight; of
    equals, it is the shortest, then the first.
    """
    texts = [0 for _ in range(0)]
    questions, firsts, lasts = texts.copy(), texts.copy(), texts.copy()
    shared = np.zeros(len(totals), np.int64)
    touched = np.empty(len(totals), np.int64)
    seen = np.full(len(weights), -1, np.int64)
    times = np.full(len(weights), -1, np.int64)  # count of a word in the window; -1: not in this question
    for text in range(len(offsets) - 1):
        start, end = offsets[text], offsets[text + 1]
        num_touched = 0
        for i in range(start, end):
            term = terms[i]
            if term >= 0 and seen[term] != text:
                seen[term] = text
                for row in range(word_rows[term], word_rows[term + 1]):
                    question = word_questions[row]
                    if shared[question] == 0:
                        touched[num_touched] = question
                        num_touched += 1
                    shared[question] += weights[term]
        for k in range(num_touched):
            question = touched[k]
            share = shared[question] / totals[question]
            shared[question] = 0
            rows = question_words[question_rows[question] : question_rows[question + 1]]
            if share < MIN_SHARE or len(rows) < EXACT_WORDS or lengths[question] < LEAST_WORDS:
                continue
            for term in rows:
                times[term] = 0
            longest = int(np.ceil(lengths[question] * SLACK))
            weight, first, last = _best_window(terms[start:end], weights, times, longest)
            for term in rows:
                times[term] = -1
            if weight / totals[question] >= MIN_SHARE:
                texts.append(text)
                questions.append(question)
                firsts.append(start + first)
                lasts.append(start + last)
    return np.array(texts), np.array(questions), np.array(firsts), np.array(lasts)


@numba.njit(cache=True, nogil=True)
def _best_window(terms: Any, weights: Any, times: Any, longest: int) -> Any:
    best, best_first, best_last = 0, 0, 0
    weight, first = 0, 0
    for last in range(len(terms)):
        term = terms[last]
        if term < 0 or times[term] < 0:
            continue
        if times[term] == 0:
            weight += weights[term]
        times[term] += 1
        # Drop first words that add nothing: not in the question, too far away, or repeated later in the window.
        while True:
            old = terms[first]
            counted = old >= 0 and times[old] >= 0
            if counted and times[old] == 1 and last - first < longest:
                break
            if counted:
                times[old] -= 1
                if times[old] == 0:
                    weight -= weights[old]
            first += 1
        if weight > best or (weight == best and last - first < best_last - best_first):
            best, best_first, best_last = weight, first, last
    return best, best_first, best_last
