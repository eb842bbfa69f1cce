"""What models write around a question or an answer. A text with any of it is rejected, never repaired.

Reasoning is separated before (``engines.reasoning``). What is left of it here could not be separated.
"""

import re

_MARKUP = re.compile(
    r"<\||\|>|^#|https?://|```|\\boxed|</?(?:think|thinking|reasoning|analysis|answer|question|tool_call|final)>", re.I
)
_CHANNEL = re.compile(r"^(?:analysis|commentary)(?=[A-Z])|assistantfinal|^(?:final|assistant)\s*:", re.I)
"""gpt-oss's channels, as they look without their special tokens."""
_JSON = re.compile(r"^[{\[].*[}\]]$", re.DOTALL)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|okay|ok|alright)\s*[,.!:]|here(?: is|['’]s| are)\b"
    r"|(?:okay|ok|so|well|hmm|alright), (?:the user|let me|i need|we need)\b"
    r"|(?:we need to|i need to|let me)\b"
    r"|\W*(?:the |a |my |one )?(?:\w+ )?(?:answer|question|q)(?: \d+)?(?: is)?\W*:)",
    re.I,
)
_REFUSAL = re.compile(
    r"^(?:i['’]?m (?:very |so |really )?sorry|i am (?:very |so )?sorry|sorry\s*[,.!]|sorry\b.{0,40}\b(?:but )?i\b"
    r"|i (?:apologi[sz]e|cannot|can['’]t|can not|won['’]t|am unable|am not able)\b|i['’]m (?:unable|not able)\b"
    r"|as an? (?:ai|language model|large language model)\b|unfortunately, i\b)",
    re.I,
)
_FORMS = {"markup": (_MARKUP, _CHANNEL, _JSON), "preamble": (_PREAMBLE,), "refusal": (_REFUSAL,)}


def find_form(text: str) -> str | None:
    """Return what ``text`` has besides a plain question or answer: markup, preamble or refusal; None if nothing."""
    return next((name for name, patterns in _FORMS.items() if any(form.search(text) for form in patterns)), None)
