import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.corpus.overlap.benchmarks import BOILERPLATE_ITEMS, GRAM_WORDS, Benchmarks, Match
from kailin_ray.corpus.overlap.ngrams import word_list
from kailin_ray.schema import REMOVED

CONTEXT = "Ten rats were fed with oil for nine weeks and their livers were then found to be enlarged in every one."
QUESTION = "Does dietary oil enlarge the liver of laboratory rats within nine weeks?"
ITEM = {"QUESTION": QUESTION, "CONTEXTS": [CONTEXT], "LONG_ANSWER": "It does."}


def load(folder: Path, **files: object) -> Benchmarks:
    paths = []
    for name, value in files.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        paths.append(path)
    return Benchmarks.load(paths)


@pytest.fixture
def benchmarks(tmp_path: Path) -> Benchmarks:
    return load(tmp_path, pubmedqa={"123": ITEM, "77": {"QUESTION": "Why?"}}, truth={"500": "yes", "123": "no"})


def test_a_pmid_is_its_first_items(benchmarks: Benchmarks) -> None:
    found = benchmarks.find_pmids(np.array([500, 1, 123]))
    assert found == [
        Match("benchmark_pmid", "truth.json", "500", 1.0, "500"),
        None,
        Match("benchmark_pmid", "pubmedqa.json", "123", 1.0, "123"),
    ]
    assert benchmarks.pmids.tolist() == [77, 123, 500]


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not(benchmarks: Benchmarks) -> None:
    words = CONTEXT.split()
    texts = [
        f"Once, {' '.join(words[2:15]).upper()}! And so on.",
        " ".join(words[2:14]),
        " ".join(words[2:14]) + " always " + " ".join(words[14:]),
    ]
    assert benchmarks.find(texts) == [
        Match("benchmark_overlap", "pubmedqa.json", "123", 0.2, " ".join(words[2:15]).upper()),
        None,
        None,
    ]


def test_an_overlap_goes_before_a_question_and_is_shown_at_its_longest(benchmarks: Benchmarks) -> None:
    text = f"{QUESTION} {' '.join(CONTEXT.split()[:13])} or {CONTEXT} {QUESTION}"
    (match,) = benchmarks.find(pa.array([text]))
    assert match is not None
    assert match.reason == "benchmark_overlap"
    assert match.text == CONTEXT[:-1]
    (match,) = benchmarks.find([f"In short: {QUESTION.replace('dietary', 'any')}"])
    assert match is not None
    assert (match.reason, match.file, match.item) == ("benchmark_question", "pubmedqa.json", "123")
    assert 0.75 < match.score < 1


def test_what_many_items_say_is_nobodys(tmp_path: Path) -> None:
    stem = "Which of the following is the most likely cause of this patient's current symptoms"
    assert len(word_list(stem)) > GRAM_WORDS
    for copies in (BOILERPLATE_ITEMS, BOILERPLATE_ITEMS + 1):
        items = [{"question": f"A man number {i} coughs. {stem}?"} for i in range(copies)]
        (match,) = load(tmp_path, medqa=items).find([f"She asked: {stem}?"])
        assert (match is None) == (copies > BOILERPLATE_ITEMS)


def test_a_benchmark_in_two_forms_is_found_as_in_one(tmp_path: Path, benchmarks: Benchmarks) -> None:
    twice = load(tmp_path, pubmedqa={"123": ITEM}, again=[ITEM | {"pubid": 123}])
    texts = [CONTEXT, QUESTION, "neither"]
    assert twice.find(texts) == benchmarks.find(texts)
    assert len(twice.question_items) == 1


def test_chunks_and_nulls(benchmarks: Benchmarks) -> None:
    column = pa.chunked_array([pa.array([None, CONTEXT]), pa.array([""], pa.string()), pa.array([QUESTION])])
    assert [match and match.reason for match in benchmarks.find(column)] == [
        None,
        "benchmark_overlap",
        None,
        "benchmark_question",
    ]
    assert benchmarks.find([]) == []


def test_many_texts_are_found_block_by_block(benchmarks: Benchmarks, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["nothing", CONTEXT, QUESTION, "nothing", QUESTION] * 3
    whole = benchmarks.find(texts)
    monkeypatch.setattr("kailin_ray.corpus.overlap.benchmarks.TEXTS_AT_ONCE", 2)
    assert benchmarks.find(texts) == whole


def test_no_array_can_be_written(benchmarks: Benchmarks) -> None:
    for array in (benchmarks.grams, benchmarks.pmids, benchmarks.questions.letters, benchmarks.questions.vocabulary):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 1


def test_the_reasons_are_known() -> None:
    assert {"benchmark_pmid", "benchmark_overlap", "benchmark_question"} < set(REMOVED)


LETTERS = st.lists(st.sampled_from("abc"), min_size=10, max_size=40)


@settings(max_examples=100)
@given(st.lists(LETTERS, min_size=1, max_size=4), st.lists(LETTERS, min_size=1, max_size=5), st.integers(0, 20))
def test_overlaps_are_those_of_plain_sets(contexts: list[list[str]], texts: list[list[str]], cut: int) -> None:
    """A plain reference: sets of tuples of words. Half of the texts have a piece of a context."""
    texts = [text + contexts[i % len(contexts)][cut:] if i % 2 else text for i, text in enumerate(texts)]

    def grams(words: list[str]) -> list[tuple[str, ...]]:
        return [tuple(words[i : i + GRAM_WORDS]) for i in range(len(words) - GRAM_WORDS + 1)]

    owners: dict[tuple[str, ...], set[int]] = {}
    for number, words in enumerate(contexts):
        for gram in grams(words):
            owners.setdefault(gram, set()).add(number)
    first = {gram: min(items) for gram, items in owners.items() if len(items) <= BOILERPLATE_ITEMS}
    found = benchmarks_of(contexts).find([" ".join(words) for words in texts])
    for words, match in zip(texts, found, strict=True):
        hits = [first[gram] for gram in grams(words) if gram in first]
        assert (match is not None) == bool(hits)
        if match:
            assert match.score == round(len(hits) / len(grams(words)), 3)
            assert match.item == str(max(range(len(contexts)), key=hits.count) + 1)


def benchmarks_of(contexts: list[list[str]]) -> Benchmarks:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kailin_ray.corpus.overlap.benchmarks.read_items", lambda _: items(contexts))
        return Benchmarks.load([Path("made.json")])


def items(contexts: list[list[str]]) -> list[object]:
    from kailin_ray.corpus.overlap.benchmark_files import Item

    return [Item(str(i + 1), f"Why {i}?", (" ".join(words),), ()) for i, words in enumerate(contexts)]
