"""The numbers of an answer that stand in no passage: plain code finds them, so that a reader can doubt them.

Sample: of ``Adenomas recurred in 38% (95% CI 31 to 45) of 1,200 patients.`` and a passage with ``38 percent``,
``thirty-one to 45`` and ``1200 patients`` none is unseen.

Only the numbers are compared, not their units: an answer may convert or omit a unit, and units are written in too many
ways to be told apart without a list. Names (genes, drugs, people) are not looked for at all, because plain code cannot
tell them from words, and what can would be a model or a dependency.
"""

import re
from collections.abc import Iterable
from decimal import Decimal

_DIGITS = re.compile(
    # Not inside a name: IL-6, p53, CO2, HbA1c.
    r"(?<![^\W_])(?<![^\W\d_][-‐‑])(?<![\d.·])"
    r"(?:\d{1,3}(?:[,\u00a0\u2009\u202f' ]\d{3})+(?!\d)|\d+)(?:[.·∙‧]\d+)?"
    r"|(?<![\w.·])[.·∙‧]\d+"
)
_LEVEL = re.compile(r"\b9[059](?:[.·]\d+)?\s*(?:%|percent|per cent)\s*(?:\(?CIs?\b|confidence|credib)", re.I)
"""A confidence level: a convention, not a finding."""
_PERCENT = re.compile(r"\s*(?:%|percent\b|per cent\b)", re.I)
_WORD = re.compile(r"[a-z]+")

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = {word: 10 * (2 + place) for place, word in enumerate(
    "twenty thirty forty fifty sixty seventy eighty ninety".split())}  # fmt: skip
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "once": 1, "twice": 2, "both": 2, "half": 50, "halved": 50, "doubled": 2, "double": 2, "triple": 3,
    "tripled": 3, "quarter": 25, "dozen": 12, "tenfold": 10, "twofold": 2, "threefold": 3, "fourfold": 4,
    "fivefold": 5, "single": 1, "dual": 2, "pair": 2,
}  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}


def find_unseen_numbers(text: str, passages: Iterable[str]) -> list[str]:
    """Return the numbers of ``text``, as it writes them, that stand in none of the ``passages``; each once.

    A number counts as seen if a passage has the same value with other separators, spelled out, as a share of one
    instead of a percentage, or with more decimals. Numbers that ``text`` spells out are not looked for.
    """
    seen = {value for passage in passages for value in _read_values(passage)}
    return list(dict.fromkeys(written for written in _find_digits(text) if not _is_seen(_value(written), seen)))


def _find_digits(text: str) -> list[str]:
    levels = [match.span() for match in _LEVEL.finditer(text)]
    return [
        match.group()
        for match in _DIGITS.finditer(text)
        if not any(start <= match.start() < end for start, end in levels)
    ]


def _value(written: str) -> Decimal:
    return Decimal(re.sub(r"[,\u00a0\u2009\u202f' ]", "", re.sub("[·∙‧]", ".", written)))


def _is_seen(value: Decimal, seen: set[Decimal]) -> bool:
    if value in seen:
        return True
    exponent = value.as_tuple().exponent
    # An answer may round: 37.6 to 38. It may not round 1,023 to 1,000, which is another number.
    step = Decimal(1).scaleb(int(exponent))
    return any(abs(other - value) <= step / 2 for other in seen if int(other.as_tuple().exponent) < int(exponent))


def _read_values(passage: str) -> Iterable[Decimal]:
    """Yield the values of a passage's numbers, and of each the percentage and the share of one that it may mean."""
    for match in _DIGITS.finditer(passage):
        value = _value(match.group())
        yield value
        if _PERCENT.match(passage, match.end()):
            yield value / 100
        elif value <= 1:
            yield value * 100
        # "1 200 patients" is one number or two ("group 1 200 patients").
        if " " in match.group():
            yield from (Decimal(part) for part in re.split(r"[ ]", match.group()) if part.isdigit())
    yield from map(Decimal, _read_words(passage))


def _read_words(passage: str) -> Iterable[int]:
    """Yield the values of spelled-out numbers: thirty-one is 31, and also 30 and 1; two hundred is 200."""
    total, words = 0, _WORD.findall(passage.lower())
    for word in words:
        if word in _UNITS:
            value = _UNITS.index(word)
            total = total + value if total and total % 10 == 0 else value
            yield value
        elif word in _TENS:
            value = _TENS[word]
            total = total + value if total and total % 100 == 0 else value
        elif word in _SCALES:
            total = max(total, 1) * _SCALES[word]
        elif word in _ORDINALS:
            yield _ORDINALS[word]
            continue
        elif word == "and" and total:
            continue
        else:
            total = 0
            continue
        yield total
