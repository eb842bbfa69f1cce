"""Whether an answer agrees with the decision on its yes/no question. For English only.

Sample: ``Yes. Azide preserved the tissues.`` contradicts the decision ``no``.

Only a clear statement counts: an answer that opens with yes, no or maybe, or that denies the question in its own words.
Other answers (``Azide preserved the tissues.``) are in agreement with every decision, because what they mean for the
question is a matter of judgement.
"""

import re

YES, NO, MAYBE = "yes", "no", "maybe"

_OPENINGS = {
    # "Yes" opens no other statement, except as the name of a gene: Yes-associated protein.
    YES: re.compile(r"yes\b(?![-‐‑/]\w)", re.I),
    # "No" may belong to a noun ("No change occurred").
    NO: re.compile(r"no(?:\s*[.,;:!—–]|\s+-|\s+(?:it|they|he|she|we|there|this|these|that|those|the)\b|\s*$)", re.I),
    MAYBE: re.compile(r"(?:maybe\b|(?:perhaps|possibly)\s*[,.;:]|it depends\b)", re.I),
}
_DENIAL = re.compile(
    r"(?:there (?:is|was|are|were) |(?:we|the authors) (?:found|find) |)no (?:\w+ ){0,2}evidence (?:that|of|for|to)\b"
    r"|[^.!?;:,]*?\b(?:does|do|did|is|are|was|were|has|have|had|can|could|should|will|would) not\b",
    re.I,
)
_NEGATIVE = re.compile(r"\b(?:not?|without|never|fails?|unable|lack|n't)\b", re.I)
_HEDGE = re.compile(
    r"\b(?:but|although|though|however|while|may|might|can|could|possibl[ey]|perhaps|probabl[ey]|part(?:ly|ially)?"
    r"|some|sometimes|only|depend\w*|unless|if|unclear|uncertain|unknown|suggest\w*|appear\w*|seem\w*|potential\w*"
    r"|likely|unlikely|limited|further|except|whether|not|no)\b",
    re.I,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_CONTENT = re.compile(r"[^\W_]{4,}")
_STEM_CHARS = 5
_COMMON = frozenset("does have that this with from they been were will could should would might must than".split())


def contradicts(answer: str, question: str, decision: str) -> bool:
    """Return whether ``answer`` states something else than ``decision`` (yes, no or maybe)."""
    text = answer.lstrip("\"'“‘*_ \n")
    opening = next((word for word, pattern in _OPENINGS.items() if pattern.match(text)), None)
    if opening == decision:
        return False
    if opening is None:
        # A denial need not be a no: what is not shown may be a maybe.
        return decision == YES and _denies(text, question)
    if decision == MAYBE:
        # "Yes, but only in women" may be a maybe. A yes without any reservation is none.
        return not _HEDGE.search(text.partition(" ")[2])
    return True


def _denies(answer: str, question: str) -> bool:
    """Return whether the first sentence denies the question: it negates, and has all of the question's longer words.

    A denial of something else may mean yes: "Is azide safe?" "There is no evidence that azide harms."
    """
    sentence = _SENTENCE_END.split(answer, maxsplit=1)[0]
    negation = _DENIAL.match(sentence)
    if not negation or _NEGATIVE.search(question):
        return False
    asked = _find_stems(question)
    return bool(asked) and asked <= _find_stems(sentence)


def _find_stems(text: str) -> set[str]:
    return {word[:_STEM_CHARS] for word in _CONTENT.findall(text.casefold()) if word not in _COMMON}
