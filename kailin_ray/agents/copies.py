"""Text that a model copied: from the worked examples of its prompt, or from a passage, instead of writing its own.

Sample: ``and Aspergillus grows faster at a higher pH.`` has five words in a row of a worked example, and about a fungus
of whose pH the abstract says nothing.
"""

import re
from collections.abc import Iterable, Sequence

from kailin_ray.agents.prompts import EXAMPLES

EXAMPLE_WORDS = 5
"""Words in a row of a worked example that count as copied. Of PubMedQA's 1,000 questions, 1,000 long answers and 9,791
sentences of abstracts none has five; with four, 7 sentences have them (docs/evaluation.md)."""
PASSAGE_WORDS = 5
"""Words in a row of a passage that count as copied from it."""
MAX_COPIED = 0.9
"""An answer is a copy if this share of its words stands in such runs of one passage. The most that one of PubMedQA's
long answers shares with its own abstract is 0.83."""
STEM_CHARS = 5
_WORD = re.compile(r"[^\W_]+")
_COMMON = frozenset(("does", "with", "that", "which"))

NGram = tuple[str, ...]


def split_words(text: str) -> list[str]:
    """Return the words of a text, in lower case: runs of letters and digits."""
    return _WORD.findall(text.casefold())


def find_example_text(text: str, sources: Iterable[str]) -> str | None:
    """Return five words in a row that ``text`` copied from a worked example; None if there are none.

    Where the ``sources`` (the abstract, and the passages shown) are about an example's subject, its words may be used.
    So the runs count only if most of their longer words and numbers, taken together, are in no source. Words are
    compared by their first letters.
    """
    copied = _find_ngrams(split_words(text), EXAMPLE_WORDS) & _EXAMPLE_NGRAMS
    if not copied:
        return None
    telling = {word[:STEM_CHARS] for ngram in copied for word in ngram if len(word) > 3 or word.isdigit()} - _COMMON
    foreign = telling - {word[:STEM_CHARS] for source in sources for word in split_words(source)}
    return " ".join(min(copied)) if 2 * len(foreign) > len(telling) else None


def measure_copied_share(text: str, passage: str) -> float:
    """Return the share of the words of ``text`` that stand in runs of five or more words of ``passage``, 0 to 1.

    A shorter text counts as a whole.
    """
    words = split_words(text)
    if not words:
        return 0.0
    length = min(PASSAGE_WORDS, len(words))
    ngrams = _find_ngrams(split_words(passage), length)
    covered = {
        place + offset
        for place in range(len(words) - length + 1)
        if tuple(words[place : place + length]) in ngrams
        for offset in range(length)
    }
    return len(covered) / len(words)


def copies_passage(text: str, passages: Iterable[str]) -> bool:
    """Return whether ``text`` is (nearly) word for word a passage, sentences of it, or its title."""
    return any(measure_copied_share(text, passage) >= MAX_COPIED for passage in passages)


def _find_ngrams(words: Sequence[str], length: int) -> set[NGram]:
    return {tuple(words[place : place + length]) for place in range(len(words) - length + 1)}


_EXAMPLE_NGRAMS = {
    ngram
    for example in EXAMPLES
    for text in (
        example.title,
        example.abstract,
        *example.questions.values(),
        *example.evidence,
        example.question,
        example.answer,
    )
    for ngram in _find_ngrams(split_words(text), EXAMPLE_WORDS)
}
