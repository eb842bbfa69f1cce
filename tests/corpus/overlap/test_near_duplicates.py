from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.corpus.overlap.near_duplicates import (
    BANDS,
    NEIGHBOURS,
    ROWS,
    SHINGLE_WORDS,
    Sketches,
    candidate_pairs,
    in_range,
    removals,
    sketch,
    verify,
)
from kailin_ray.corpus.overlap.ngrams import ngrams, split_words, word_list


def text(generator: np.random.Generator, length: int = 120) -> list[str]:
    return [f"w{number}" for number in generator.integers(0, 5_000, length)]


def edited(generator: np.random.Generator, words: list[str], share: float) -> list[str]:
    return [f"e{i}" if generator.random() < share else word for i, word in enumerate(words)]


@pytest.fixture(scope="module")
def corpus() -> tuple[np.ndarray, list[str]]:
    """120 texts of which 80 are edits of 20 others, in a mixed order; their PMIDs, sorted."""
    generator = np.random.default_rng(1)
    originals = [text(generator) for _ in range(40)]
    texts = [" ".join(words) for words in originals]
    for words in originals[:20]:
        texts += [" ".join(edited(generator, words, share)) for share in (0, 0.01, 0.02, 0.2)]
    order = generator.permutation(len(texts))
    return np.sort(generator.choice(10_000, len(texts), replace=False)), [texts[i] for i in order]


def shingles(text: str) -> set[tuple[str, ...]]:
    words = word_list(text)
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


def true_jaccards(texts: list[str]) -> dict[tuple[int, int], float]:
    sets = [shingles(text) for text in texts]
    return {(i, j): len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in combinations(range(len(texts)), 2)}


def test_signatures_are_datasketchs(corpus: tuple[np.ndarray, list[str]]) -> None:
    texts = corpus[1][:5]
    words = split_words(pa.array(texts))
    grams, rows = ngrams(words.hashes, words.offsets, SHINGLE_WORDS)
    made = sketch(pa.array(texts))
    for i in range(len(texts)):
        one = MinHash(num_perm=BANDS * ROWS, seed=1, scheme="affine32", hashfunc=int)
        for gram in grams[rows[i] : rows[i + 1]].tolist():
            one.update(gram & 0xFFFFFFFF)
        assert made.signatures[i].tolist() == one.hashvalues.tolist()


def test_sketches_are_the_same_in_every_process() -> None:
    made = sketch(pa.array(["One two three four five six seven"]))
    assert made.buckets.shape == (1, 1 + BANDS)
    assert made.signatures.shape == (1, BANDS * ROWS)
    # Written down once: a run must be able to go on with what another machine sketched.
    assert made.signatures[0, :3].tolist() == [849428087, 238346063, 147820415]
    assert made.buckets[0, :2].tolist() == [2660835219502745723, 14258963484708935156]


def test_parts_are_sketched_as_the_whole(corpus: tuple[np.ndarray, list[str]]) -> None:
    texts = pa.array(corpus[1])
    whole = sketch(texts)
    parts = [sketch(texts.slice(0, 50)), sketch(texts.slice(50))]
    assert (np.concatenate([part.buckets for part in parts]) == whole.buckets).all()
    assert (np.concatenate([part.signatures for part in parts]) == whole.signatures).all()


def test_what_is_removed_is_what_comparing_all_with_all_removes(corpus: tuple[np.ndarray, list[str]]) -> None:
    pmids, texts = corpus
    made = sketch(pa.array(texts))
    pairs = np.unique(
        np.concatenate([candidate_pairs(*in_range(pmids, made.buckets, number, 3)) for number in range(3)]), axis=0
    )
    pairs, jaccard = verify(pairs, pmids, made.buckets, made.signatures, 0.8)
    true = true_jaccards(texts)
    place = {pmid: i for i, pmid in enumerate(pmids.tolist())}
    found = [(place[one], place[two]) for one, two in pairs.tolist()]
    assert all(abs(true[pair] - score) < 0.16 for pair, score in zip(found, jaccard.tolist(), strict=True))
    assert {pair for pair, score in true.items() if score > 0.9} <= set(found)
    assert set(found) <= {pair for pair, score in true.items() if score > 0.65}
    gone = removals(pairs, pmids, made.buckets, made.signatures)
    # Plain union: all that the found pairs link, under its first.
    kept = list(range(len(texts)))
    for one, two in sorted(found):
        low, high = sorted((kept[one], kept[two]))
        kept = [low if value == high else value for value in kept]
    expected = [(int(pmids[i]), int(pmids[first])) for i, first in enumerate(kept) if first != i]
    assert list(zip(gone["pmid"].to_pylist(), gone["kept_pmid"].to_pylist(), strict=True)) == expected
    for row in gone.to_pylist():
        one, two = place[row["kept_pmid"]], place[row["pmid"]]
        same = word_list(texts[one]) == word_list(texts[two])
        assert row["reason"] == ("duplicate" if same else "near_duplicate")
        assert row["jaccard"] == pytest.approx(1 if same else true[one, two], abs=0.16)


def test_case_and_punctuation_make_no_difference_and_a_word_does() -> None:
    texts = [
        "Rats (n=5) were fed; β-carotene twice.",
        "rats n = 5 were fed \u201cΒ carotene\u201d TWICE",
        "Rats were fed",
    ]
    made = sketch(pa.array(texts))
    assert made.buckets[0].tolist() == made.buckets[1].tolist()
    assert made.buckets[0, 0] != made.buckets[2, 0]


def test_short_texts_are_only_compared_as_a_whole_and_empty_ones_never() -> None:
    texts = ["No abstract.", None, "", "...", "no abstract", "not here"]
    pmids = np.arange(10, 16)
    made = sketch(pa.array(texts))
    pairs = candidate_pairs(*in_range(pmids, made.buckets, 0, 1))
    assert pairs.tolist() == [[10, 14]]
    pairs, jaccard = verify(pairs, pmids, made.buckets, made.signatures, 0.8)
    assert jaccard.tolist() == [1]
    assert removals(pairs, pmids, made.buckets, made.signatures).to_pylist() == [
        {"pmid": 14, "kept_pmid": 10, "jaccard": 1.0, "reason": "duplicate"}
    ]
    # Two short ones whose signatures are alike because both are of nothing.
    assert verify(np.array([[10, 15]]), pmids, made.buckets, made.signatures, 0.1)[0].tolist() == []


@given(
    st.lists(st.tuples(st.integers(1, 1 << 63), st.integers(0, 4)), max_size=40),
    st.integers(1, 5),
)
def test_pairs_share_a_bucket(entries: list[tuple[int, int]], ranges: int) -> None:
    """PMIDs 1, 2, ... with two buckets each, out of a few."""
    few = [0, *(value for value, _ in entries[:3])]
    buckets = np.array([[value, few[pick % len(few)]] for value, pick in entries], np.uint64).reshape(-1, 2)
    pmids = np.arange(1, len(buckets) + 1)
    parts = [in_range(pmids, buckets, number, ranges) for number in range(ranges)]
    assert sum(len(hashes) for hashes, _ in parts) == np.count_nonzero(buckets)
    found = {tuple(pair) for part in parts for pair in candidate_pairs(*part).tolist()}
    held = [set(row) - {0} for row in buckets.tolist()]
    assert found == {(i + 1, j + 1) for i, j in combinations(range(len(held)), 2) if held[i] & held[j]}


def test_a_text_that_thousands_share_stays_cheap() -> None:
    pmids = np.arange(1, 5_001)
    shared = np.full(len(pmids), 7, np.uint64)
    order = np.random.default_rng(0).permutation(len(pmids))
    pairs = candidate_pairs(shared, pmids[order])
    assert len(pairs) <= len(pmids) * (NEIGHBOURS + 1)
    assert {1} == set(pairs[np.isin(pairs[:, 1], pmids[1:]) & (pairs[:, 0] == 1), 0].tolist())
    buckets, signatures = np.full((5_000, 2), 7, np.uint64), np.zeros((5_000, 4), np.uint32)
    gone = removals(pairs, pmids, buckets, signatures)
    assert gone["pmid"].to_pylist() == pmids[1:].tolist()
    assert set(gone["kept_pmid"].to_pylist()) == {1}


def test_a_chain_keeps_its_lowest_and_says_how_alike_its_ends_are() -> None:
    signatures = np.array([[1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 2, 2], [9, 9, 9, 9]], np.uint32)
    buckets = np.array([[i + 1, 5] for i in range(4)], np.uint64)
    pmids = np.array([10, 20, 30, 40])
    pairs, jaccard = verify(np.array([[10, 20], [10, 30], [20, 30], [10, 40]]), pmids, buckets, signatures, 0.75)
    assert pairs.tolist() == [[10, 20], [20, 30]]
    assert jaccard.tolist() == [0.75, 0.75]
    assert removals(pairs, pmids, buckets, signatures).to_pylist() == [
        {"pmid": 20, "kept_pmid": 10, "jaccard": 0.75, "reason": "near_duplicate"},
        {"pmid": 30, "kept_pmid": 10, "jaccard": 0.5, "reason": "near_duplicate"},
    ]


def test_nothing_gives_nothing() -> None:
    made: Sketches = sketch(pa.array([], pa.string()))
    none = np.zeros(0, np.int64)
    pairs = candidate_pairs(*in_range(none, made.buckets, 0, 1))
    pairs, _ = verify(pairs, none, made.buckets, made.signatures, 0.8)
    assert removals(pairs, none, made.buckets, made.signatures).num_rows == 0
