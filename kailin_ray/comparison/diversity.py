"""How varied questions are: an agent that learned to please asks the same of every abstract."""

from collections import Counter
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH

from kailin_ray.corpus.words import word_list

ALIKE = 0.7
"""Jaccard similarity of two questions' sets of words from which on the one nearly repeats the other."""
PERMUTATIONS = 128
OPENING = 3
"""Words of an opening."""


def diversity(questions: list[str]) -> dict[str, Any]:
    """Of n questions about n abstracts.

    ``distinct_n``: distinct n-grams of words over all (Li et al. 2016, arXiv 1510.03055); ``repeats``: the share that
    another question equals, ``near_repeats``: that nearly repeats another or equals it; ``commonest_opening``: the
    share that begins with the same three words.
    """
    words = [word_list(question) for question in questions]
    found: dict[str, Any] = {f"distinct_{n}": _distinct(words, n) for n in (1, 2, 3)}
    times = Counter(map(tuple, words))
    found["repeats"] = _share(sum(number for number in times.values() if number > 1), len(words))
    found["near_repeats"] = _share(_near_repeats(words), len(words))
    openings = Counter(" ".join(some[:OPENING]) for some in words)
    opening, number = openings.most_common(1)[0] if openings else ("", 0)
    return found | {"commonest_opening": _share(number, len(words)), "opening": opening}


def _share(number: int, total: int) -> float | None:
    return round(number / total, 4) if total else None


def _distinct(words: list[list[str]], n: int) -> float | None:
    grams = [tuple(some[at : at + n]) for some in words for at in range(len(some) - n + 1)]
    return _share(len(set(grams)), len(grams))


def _near_repeats(words: list[list[str]]) -> int:
    """How many have another like them; candidates by MinHash, then their words are compared."""
    sets = [set(some) for some in words]
    index = MinHashLSH(threshold=ALIKE, num_perm=PERMUTATIONS)
    sketches = MinHash.bulk([[word.encode() for word in some] for some in sets], num_perm=PERMUTATIONS)
    alike = np.zeros(len(sets), bool)
    for number, sketch in enumerate(sketches):
        for other in index.query(sketch):
            if len(sets[number] & sets[other]) >= ALIKE * len(sets[number] | sets[other]):
                alike[[number, other]] = True
        index.insert(number, sketch)
    return int(alike.sum())
