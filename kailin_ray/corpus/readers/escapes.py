"""Undo a second escaping in PubMed records: some publishers send texts that are already escaped, and NLM escapes again.

A reader of PubMed should see ``P < 0.05`` and an italic name, but the XML decodes to ``P &lt; 0.05`` and
``<i>E. coli</i>``. What stands alone is text and stays: ``<5 mg and >3 mg``, ``AT&T``, a tag without its end tag. A
record that speaks of HTML or XML stays as it is.
"""

import html
import re
from html.entities import name2codepoint

from kailin_ray.corpus.readers.citation import Citation, join_sections
from kailin_ray.corpus.readers.xml_text import clean, is_power

_ENTITY = re.compile(rf"&(?:#\d{{1,7}}|#[xX][0-9a-fA-F]{{1,6}}|apos|{'|'.join(name2codepoint)});")
_MAX_TIMES = 3
_MAX_CHARACTERS = 1 << 20
"""A longer text is no abstract, and its tags would take too much memory."""
_NAMES = "i|b|u|em|strong|sup|sub|italic|bold|underline|sc|small|tt|span|p"
_TAG = re.compile(rf'<(/?)({_NAMES})(?:\s+[\w:.-]+="[^"<>]*")*+\s*>|<br\s*/?>', re.IGNORECASE)
_ABOUT_MARKUP = re.compile(
    r"(?<![./])\b(?:x?html[45]?|xml|sgml|jats|mark-?up|hypertext|angle brackets?)\b", re.IGNORECASE
)


def unescape_citation(row: Citation) -> Citation | None:
    """Return the citation with its texts unescaped; None if none of them was escaped twice."""
    # Most records have none of these characters, and searching for a single one is fast.
    texts = _all_texts(row)
    if "&" not in texts and "<" not in texts:
        return None
    if not _is_escaped(texts) or _ABOUT_MARKUP.search(texts):
        return None
    sections = [
        section._replace(label=unescape(section.label or "") or None, text=content)
        for section in row.sections or ()
        if (content := unescape(section.text))
    ]
    unescaped = row._replace(
        title=unescape(row.title or ""),
        vernacular_title=unescape(row.vernacular_title or "") or None,
        abstract=join_sections(sections),
        sections=sections,
        other_abstracts=[other._replace(text=_unescape_lines(other.text)) for other in row.other_abstracts or ()],
        keywords=list(dict.fromkeys(filter(None, map(unescape, row.keywords or ())))),
    )
    return None if unescaped == row else unescaped


def _all_texts(row: Citation) -> str:
    other = "\n".join([other.text for other in row.other_abstracts]) if row.other_abstracts else ""
    keywords = "\n".join(row.keywords) if row.keywords else ""
    return f"{row.title}\n{row.abstract}\n{row.vernacular_title}\n{other}\n{keywords}"


def unescape(text: str) -> str:
    """Return a text without entities, and without inline tags that form pairs; ``10<sup>-3</sup>`` becomes 10^-3."""
    if len(text) > _MAX_CHARACTERS or not _is_escaped(text):
        return text
    decoded = text
    for _ in range(_MAX_TIMES):
        decoded = _ENTITY.sub(lambda match: html.unescape(match[0]), decoded)
    shown = _drop_tags(decoded)
    return text if shown == text else clean(shown)


def _is_escaped(text: str) -> bool:
    return bool(_ENTITY.search(text)) or ("</" in text and bool(_TAG.search(text)))


def _unescape_lines(text: str) -> str:
    return "\n".join(filter(None, map(unescape, text.split("\n"))))


def _drop_tags(text: str) -> str:
    """Return ``text`` without the tags that enclose something; ``<br/>`` is a space there."""
    tags = list(_TAG.finditer(text))
    opened: list[re.Match[str]] = []
    dropped: dict[int, str] = {}
    for tag in tags:
        name = (tag[2] or "").lower()
        if name and not tag[1]:
            opened.append(tag)
        elif name and opened and opened[-1][2].lower() == name:
            start = opened.pop()
            if _is_mentioned(text, start.end(), tag.start()):
                continue
            raised = text[start.end() : min(tag.start(), start.end() + 40)].strip()
            is_raised = name == "sup" and is_power(text[start.start() - 1 : start.start()], raised)
            block = " " if name == "p" else ""
            dropped |= {start.start(): "^" if is_raised else block, tag.start(): block}
    if not dropped:
        return text
    pieces, at = [], 0
    for tag in tags:
        kept = tag[0] if tag[2] else " "
        pieces += [text[at : tag.start()], dropped.get(tag.start(), kept)]
        at = tag.end()
    return "".join([*pieces, text[at:]])


def _is_mentioned(text: str, start: int, end: int) -> bool:
    """Return whether tags are only mentioned, as in: the tags <b> and </b>. They enclose nothing, or blanks."""
    return start == end or (text[start].isspace() and text[end - 1].isspace())
