import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kailin_ray.corpus.overlap.ngrams import ngrams, places_in, split_words, text_hashes, word_list

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=30), st.text("aAé ́-β1²\u00ad", max_size=20)), max_size=8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Naïve β-cells (CO₂)", ["naive", "β", "cells", "co2"]),
        ("p<0.05; 1,000 µg", ["p", "0", "05", "1", "000", "μg"]),
        ("co\u00adoperate ﬁnds ΔΨm “it’s”", ["cooperate", "finds", "δψm", "it", "s"]),
        ("Straße İzmir 細胞", ["straße", "izmir", "細胞"]),
        ("-- \u2028 ()", []),
        ("", []),
    ],
)
def test_words_without_case_accents_and_typography(text: str, words: list[str]) -> None:
    assert word_list(text) == words
    assert word_list(unicodedata.normalize("NFD", text)) == words


@given(TEXTS)
@example(["a", None, "", "b"])
def test_the_same_words_by_hash_and_as_strings(texts: list[str | None]) -> None:
    found = split_words(pa.array(texts, pa.string()))
    lists = [word_list(text or "") for text in texts]
    assert np.diff(found.offsets).tolist() == [len(words) for words in lists]
    flat = [word for words in lists for word in words]
    hashes = dict(zip(flat, found.hashes.tolist(), strict=True))
    assert found.hashes.tolist() == [hashes[word] for word in flat]
    assert len(set(hashes.values())) == len(hashes)
    shown = [found.between(i, i) for i in range(len(flat))]
    assert [word for one in shown for word in word_list(one)] == flat


@given(TEXTS, st.integers(1, 4))
def test_ngrams_are_all_words_in_a_row(texts: list[str | None], length: int) -> None:
    words = split_words(pa.array(texts, pa.string()))
    grams, rows = ngrams(words.hashes, words.offsets, length)
    expected = []
    for text in texts:
        one = word_list(text or "")
        expected.append([tuple(one[i : i + length]) for i in range(len(one) - length + 1)])
    assert np.diff(rows).tolist() == [len(one) for one in expected]
    flat = [gram for one in expected for gram in one]
    assert len(set(zip(flat, grams.tolist(), strict=True))) == len(set(flat)) == len(set(grams.tolist()))


@given(TEXTS)
def test_a_text_hash_is_of_all_words_in_their_order(texts: list[str | None]) -> None:
    words = split_words(pa.array(texts, pa.string()))
    lists = [tuple(word_list(text or "")) for text in texts]
    hashes = text_hashes(words.hashes, words.offsets).tolist()
    assert [not value for value in hashes] == [not one for one in lists]
    assert len(set(zip(lists, hashes, strict=True))) == len(set(lists)) == len(set(hashes))


def test_hashes_are_the_same_on_every_machine() -> None:
    words = split_words(pa.array(["Naïve β-cells", "cells naïve β"]))
    assert words.hashes[:3].tolist() == words.hashes[[4, 5, 3]].tolist() == [plain("naive"), plain("β"), plain("cells")]


def plain(word: str) -> int:
    """FNV-1a over the characters, then the finalizer of splitmix64."""
    value = 0xCBF29CE484222325
    for character in word:
        value = (value ^ ord(character)) * 0x100000001B3 % (1 << 64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> shift)) * factor % (1 << 64)
    return value ^ (value >> 31)


def test_slices_and_chunks_are_the_rows_they_show() -> None:
    texts = pa.array(["one two", "three", None, "four five six"])
    chunked = pa.chunked_array([texts.slice(1, 2), texts.slice(3)])
    expected = split_words(pa.array(["three", None, "four five six"]))
    for found in (split_words(texts.slice(1)), split_words(chunked)):
        assert found.offsets.tolist() == expected.offsets.tolist() == [0, 1, 1, 4]
        assert found.hashes.tolist() == expected.hashes.tolist()
        assert found.between(1, 3) == "four five six"


@given(st.lists(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_places_in_a_sorted_array(values: list[int], ordered: set[int]) -> None:
    held = sorted(ordered)
    found = places_in(np.array(values, np.int64), np.array(held, np.int64))
    assert found.tolist() == [held.index(value) if value in ordered else -1 for value in values]
