"""The question agents: each writes one question from one abstract.

Sample: the question of persona "clinical" on an abstract about sodium azide:
``Does sodium azide improve the ultrastructural preservation of tissues?``
"""

import re

from kailin_ray.agents.copies import find_example_text
from kailin_ray.agents.forms import find_form
from kailin_ray.agents.prompts import TASKS, Message, prompt
from kailin_ray.schema import Row

MIN_WORDS, MAX_WORDS = 3, 40
"""People ask in three words: "Is halofantrine ototoxic?"."""
SHORT, SHORT_CONTENT = 5, 2
"""A question of fewer than ``SHORT`` words needs this many content words, since "Does it work?" has no subject."""
MIN_SHARED = 0.4
"""Share of a question's content words that must occur in the source. Words are compared by their first five letters."""

# A question that refers to its source cannot be understood without it.
_POINTS_AT_SOURCE = re.compile(
    r"\b(?:this|these|that|those|the|our|present|current|above|following)\s+(?:\w+\s+){0,2}?"
    r"(?:stud(?:y|ies)|abstracts?|articles?|papers?|texts?|passages?|authors?|reports?|researchers?|research|"
    r"investigations?|investigators?|experiments?|findings?|results?|survey|series|title|document|evidence|questions?|answers?)\b"
    r"|\b(?:described|mentioned|reported|presented|discussed)\s+(?:here|above|below)\b",
    re.IGNORECASE,
)
_LIST_OR_BOLD = re.compile(r"\*\*|^[-*•]\s|^\s*\d+[.)]\s")
_WORD = re.compile(r"[a-z][a-z0-9-]{3,}")
_YES_NO = re.compile(
    r"(?:does|do|did|is|are|was|were|can|could|has|have|had|will|would|should|may|might|must)\b", re.IGNORECASE
)
_CLAUSE = re.compile(r"[:;,.?–—]\s+(?:(?:and|or|but|so)\s+)?|--|\s-\s")
_OPEN = re.compile(r"\b(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)


def messages(document: Row, persona: str, examples: bool = True) -> list[Message]:
    """Return messages that ask for one question about ``document``; ``persona`` is a key of ``prompts.TASKS``."""
    return prompt(document, TASKS[persona], examples)


def problem(question: str, finish_reason: str, document: Row) -> str | None:
    """Return why ``question`` is unusable, or None if it is usable. The check is strict: nothing is repaired.

    One of: empty, truncated, markup, preamble, refusal, not_one_question, length, points_at_source, copies_example,
    off_topic.
    """
    if not question:
        return "empty"
    if finish_reason != "stop":
        return "truncated"
    form = "markup" if _LIST_OR_BOLD.search(question) else find_form(question)
    if form:
        return form
    if question.count("?") != 1 or not question.endswith("?") or "\n" in question or not question[0].isalnum():
        return "not_one_question"
    if not MIN_WORDS <= len(question.split()) <= MAX_WORDS:
        return "length"
    if _POINTS_AT_SOURCE.search(question):
        return "points_at_source"
    text = f"{document['title']} {document['abstract']}"
    words, source = _words(question), _words(text)
    content = words - _COMMON
    if len(question.split()) < SHORT and len(content) < SHORT_CONTENT:
        return "length"
    if words & _EXAMPLE_WORDS - source or find_example_text(question, (text,)):
        return "copies_example"
    stems = {word[:5] for word in source}
    if sum(word[:5] in stems for word in content) < max(1, MIN_SHARED * len(content)):
        return "off_topic"
    return None


def is_yes_no(question: str) -> bool:
    """Return whether the question can be answered with yes, no or maybe.

    Judged by its first word, or by that of a later clause if no question word stands anywhere: "In women, does it?".
    """
    if _YES_NO.match(question):
        return True
    return not _OPEN.search(question) and any(map(_YES_NO.match, _CLAUSE.split(question)))


def _words(content: str) -> frozenset[str]:
    return frozenset(_WORD.findall(content.lower()))


_COMMON = frozenset(
    "does have were that this with from they their which what when where there into than been will would could should "
    "more most some such only also between during about after before under over through".split()
)
# The subjects of the worked examples (prompts.EXAMPLES); a small model tends to copy them.
_EXAMPLE_WORDS = frozenset({"aspirin", "adenomas", "cheese", "listeria", "monocytogenes"})
