"""Decontamination: find benchmark texts in a corpus, or in generated questions and answers.

A text matches a benchmark in one of three ways. It has the PMID of an abstract that the benchmark was made from. It
shares 13 consecutive words with any text of the benchmark (Brown et al. 2020, arXiv 2005.14165, appendix C). Or it
contains a near-copy of one of the benchmark's questions (``near_questions``), which may be shorter than 13 words or
rewritten.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.corpus.overlap.benchmark_files import Item, read_items
from kailin_ray.corpus.overlap.near_questions import Questions, find_near, index_questions
from kailin_ray.corpus.overlap.ngrams import TEXTS_AT_ONCE, Hashes, Words, ngrams, places_in, split_words, text_hashes

PMID, OVERLAP, QUESTION = "benchmark_pmid", "benchmark_overlap", "benchmark_question"
"""Reasons of ``schema.REMOVED``."""

GRAM_WORDS = 13
BOILERPLATE_ITEMS = 3
"""13-grams that occur in more items than this are boilerplate ("Which of the following is the most likely cause of this
patient's") and are ignored. The limit is above 1 because a benchmark, such as PubMedQA, may be given in two forms."""
ID_CHARACTERS, SHOWN_CHARACTERS = 80, 200


@dataclass(frozen=True)
class Match:
    """A match between a text and a benchmark."""

    reason: str
    file: str
    """Name of the benchmark file, without folders."""
    item: str
    """The item's id in the file, or its number in the file, from 1."""
    score: float
    """For an overlap: the share of the text's 13-grams that occur in a benchmark. For a question: the similarity, 0 to
    1. For a PMID: 1."""
    text: str
    """The matching words of the text, or the PMID; at most ``SHOWN_CHARACTERS``."""

    def __str__(self) -> str:
        return f"{self.file}, item {self.item}, {self.score:.2f}: {self.text}"


@dataclass(frozen=True)
class Benchmarks:
    """All benchmarks as read-only arrays, which Ray actors share instead of copying."""

    files: npt.NDArray[np.str_]
    item_files: npt.NDArray[np.int32]
    """(i,) index into ``files`` of each item."""
    item_ids: npt.NDArray[np.str_]
    """(i,) id of each item, cut to ``ID_CHARACTERS``."""
    pmids: npt.NDArray[np.int64]
    """(p,) sorted and unique; ``pmid_items`` (p,) is the first item that has each PMID."""
    pmid_items: npt.NDArray[np.int32]
    grams: Hashes
    """(g,) hashes of 13-grams, sorted and unique; ``gram_items`` (g,) is the first item that has each 13-gram."""
    gram_items: npt.NDArray[np.int32]
    question_items: npt.NDArray[np.int32]
    """(q,) item of each question; a repeated question belongs to the first item that has it."""
    questions: Questions

    @classmethod
    def load(cls, paths: Iterable[Path]) -> "Benchmarks":
        """Read benchmark files in the formats of ``benchmark_files``. Raises ``ConfigError`` that names the file."""
        files = list(paths)
        numbered = [(number, item) for number, path in enumerate(files) for item in read_items(path)]
        items = [item for _, item in numbered]
        pmids, pmid_items = _pmids(items)
        grams, gram_items = _grams(items)
        question_items = _first_questions(items)
        return _frozen(
            cls(
                files=np.array([path.name for path in files], np.str_),
                item_files=np.array([number for number, _ in numbered], np.int32),
                item_ids=np.array([item.id[:ID_CHARACTERS] for item in items], np.str_),
                pmids=pmids,
                pmid_items=pmid_items,
                grams=grams,
                gram_items=gram_items,
                question_items=question_items,
                questions=index_questions([items[item].question for item in question_items]),
            )
        )

    def find_pmids(self, pmids: npt.NDArray[np.int64]) -> list[Match | None]:
        """Return a match for each of n PMIDs; None if no benchmark was made from that abstract."""
        at = places_in(pmids, self.pmids)
        return [
            None if place < 0 else self._match(PMID, int(self.pmid_items[place]), 1.0, str(pmid))
            for pmid, place in zip(pmids, at, strict=True)
        ]

    def find(self, texts: pa.Array | pa.ChunkedArray | list[str]) -> list[Match | None]:
        """Return a match for each of n texts (abstracts with their titles, questions, answers), or None.

        If a text has both an overlap and a question, the overlap is returned. 32,768 abstracts of today take five
        seconds on one core. They take 60 MB, because at most ``TEXTS_AT_ONCE`` texts are split into words at a time.
        """
        column = pa.array(texts, pa.large_string()) if isinstance(texts, list) else texts
        all_matches: list[Match | None] = []
        for start in range(0, len(column), TEXTS_AT_ONCE):
            words = split_words(column.slice(start, TEXTS_AT_ONCE))
            matches = self._near(words)
            for row, match in self._overlaps(words):
                matches[row] = match
            all_matches += matches
        return all_matches

    def _overlaps(self, words: Words) -> Iterator[tuple[int, Match]]:
        grams, rows = ngrams(words.hashes, words.offsets, GRAM_WORDS)
        hits = np.flatnonzero((places := places_in(grams, self.grams)) >= 0)
        texts = np.searchsorted(rows, hits, side="right") - 1
        starts = np.flatnonzero(np.diff(texts, prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(hits)]):
            row = int(texts[start])
            items = self.gram_items[places[hits[start:end]]]
            item = int(np.bincount(items).argmax())
            first, last = _longest_run(hits[start:end][items == item] - rows[row])
            shown = words.between(int(words.offsets[row]) + first, int(words.offsets[row]) + last + GRAM_WORDS - 1)
            yield row, self._match(OVERLAP, item, (end - start) / int(rows[row + 1] - rows[row]), shown)

    def _near(self, words: Words) -> list[Match | None]:
        matches: list[Match | None] = []
        for near in find_near(self.questions, words):
            if near is None:
                matches.append(None)
                continue
            item = int(self.question_items[near.question])
            matches.append(self._match(QUESTION, item, near.ratio / 100, words.between(near.first, near.last)))
        return matches

    def _match(self, reason: str, item: int, score: float, text: str) -> Match:
        file = str(self.files[self.item_files[item]])
        return Match(reason, file, str(self.item_ids[item]), round(score, 3), text[:SHOWN_CHARACTERS])


def _longest_run(places: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the first and last number of the longest run of consecutive numbers in a sorted array."""
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 2) != 1)
    lengths = np.diff(starts, append=len(places))
    longest = int(lengths.argmax())
    first = int(places[starts[longest]])
    return first, first + int(lengths[longest]) - 1


def _pmids(items: list[Item]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    pmids = np.array([pmid for item in items for pmid in item.pmids], np.int64)
    owners = np.repeat(np.arange(len(items), dtype=np.int32), [len(item.pmids) for item in items])
    unique, first = np.unique(pmids, return_index=True)
    return unique, owners[first]


def _grams(items: list[Item]) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """Return all 13-grams of all texts, except boilerplate, and the first item of each."""
    texts = pa.array([text for item in items for text in item.texts], pa.large_string())
    words = split_words(texts)
    grams, rows = ngrams(words.hashes, words.offsets, GRAM_WORDS)
    owners = np.repeat(np.arange(len(items)), [len(item.texts) for item in items])
    unique, number = np.unique(grams, return_inverse=True)
    pairs = np.unique(np.stack([number, np.repeat(owners, np.diff(rows))], axis=1), axis=0)
    _, first, num_items = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    is_specific = num_items <= BOILERPLATE_ITEMS
    return unique[is_specific], pairs[first[is_specific], 1].astype(np.int32)


def _first_questions(items: list[Item]) -> npt.NDArray[np.int32]:
    """Return the first item of each distinct question."""
    words = split_words(pa.array([item.question for item in items], pa.large_string()))
    unique, first = np.unique(text_hashes(words.hashes, words.offsets), return_index=True)
    return np.sort(first[unique != 0]).astype(np.int32)


def _frozen(benchmarks: Benchmarks) -> Benchmarks:
    # Arrays from Ray's object store are read-only too, so numba compiles for only one kind of array.
    for holder in (benchmarks, benchmarks.questions):
        for field in fields(holder):
            if isinstance(array := getattr(holder, field.name), np.ndarray):
                array.flags.writeable = False
    return benchmarks
