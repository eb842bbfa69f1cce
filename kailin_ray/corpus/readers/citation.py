r"""A citation and its columns, built from the elements of a record that ``fields.py`` reads."""

import re
from itertools import chain
from typing import NamedTuple


class Section(NamedTuple):
    """A section of a structured abstract, with the author's ``label`` and NLM's ``category``.

    Categories are BACKGROUND, OBJECTIVE, METHODS, ...
    """

    label: str | None
    category: str | None
    text: str


class OtherAbstract(NamedTuple):
    """An abstract in another language, or of another type, such as ``Publisher`` or ``plain-language-summary``."""

    type: str | None
    language: str | None
    text: str


class Heading(NamedTuple):
    """A MeSH descriptor and the names of its qualifiers. ``major``: the descriptor or a qualifier is starred."""

    ui: str
    name: str
    major: bool
    qualifiers: tuple[str, ...]


class Substance(NamedTuple):
    """A MeSH supplementary concept; ``type`` is Disease, Protocol, ..., Chemical."""

    ui: str
    name: str
    type: str


class Notice(NamedTuple):
    """An erratum, retraction or comment; ``type`` is NLM's ``RefType``."""

    type: str
    pmid: int | None
    source: str


class Citation(NamedTuple):
    r"""One row of ``schema.DOCUMENTS`` without its place in its file, or a deletion, which has no text.

    For example::

        Citation(
            pmid=399296, version=1, deleted=False,
            title="Effect of sodium azide on ...", vernacular_title=None,
            abstract="AIMS: To compare ...\nMETHODS: We ...",
            sections=[Section("AIMS", "OBJECTIVE", "To compare ..."), ...],
            other_abstracts=[OtherAbstract("Publisher", "ger", "ZIEL: ...")],
            year=1979, date="1979-05", journal="...", language="eng", languages=["eng"],
            mesh=[Heading("D000818", "Animals", False, ()), ...],
            supplementary=[Substance("C538496", "...", "Disease")], keywords=["mink"],
            publication_types=["Journal Article"], retracted=False,
            notices=[Notice("ErratumIn", 400001, "J Things. 1980 Jan;3(1):9")],
            doi="10.1000/xyz", pmcid="PMC123",
        )
    """

    pmid: int
    version: int
    deleted: bool
    title: str | None = None
    vernacular_title: str | None = None
    abstract: str | None = None
    sections: list[Section] | None = None
    other_abstracts: list[OtherAbstract] | None = None
    year: int | None = None
    date: str | None = None
    journal: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    mesh: list[Heading] | None = None
    supplementary: list[Substance] | None = None
    keywords: list[str] | None = None
    publication_types: list[str] | None = None
    retracted: bool | None = None
    notices: list[Notice] | None = None
    doi: str | None = None
    pmcid: str | None = None


Date = tuple[int | None, str | None]
"""The year, and as much of ``YYYY-MM-DD`` as is known."""


def citation(
    identity: tuple[int | None, int] | None,
    journal: tuple[str, Date] | None,
    title: str | None,
    locations: list[str | None],
    sections: list[Section] | None,
    languages: list[str],
    types: list[str] | None,
    vernacular_title: str | None,
    article_dates: list[Date],
    chemicals: list[Substance | None],
    supplementary: list[Substance] | None,
    notices: list[Notice] | None,
    headings: list[Heading],
    other_abstracts: list[OtherAbstract],
    keywords: list[list[str]],
    identifiers: dict[str, str] | None,
) -> Citation | None:
    """Return the citation of a record; None if its PMID is missing or invalid.

    There is one argument for each of ``fields.PARTS``, in the same order. None, or an empty value, means that the
    record does not have that element.
    """
    pmid, version = identity or (None, 1)
    if pmid is None:
        return None
    journal_title, (year, date) = journal or ("", (None, None))
    if year is None and article_dates:
        year, date = article_dates[0]
    if "" in languages:
        languages = [code for code in languages if code]
    sections, types, notices, identifiers = sections or [], types or [], notices or [], identifiers or {}
    return Citation(
        pmid,
        version,
        deleted=False,
        title=_title(title or "", languages),
        vernacular_title=vernacular_title or None,
        abstract=join_sections(sections),
        sections=sections,
        other_abstracts=other_abstracts,
        year=year,
        date=date,
        journal=journal_title,
        language=languages[0] if languages else "",
        languages=languages,
        mesh=headings,
        supplementary=[*(supplementary or ()), *filter(None, chemicals)],
        keywords=list(dict.fromkeys(chain.from_iterable(keywords))) if keywords else [],
        publication_types=types,
        retracted="Retracted Publication" in types or any(notice.type == "RetractionIn" for notice in notices),
        notices=notices,
        doi=identifiers.get("doi") or next(filter(None, locations), None),
        pmcid=identifiers.get("pmc"),
    )


def join_sections(sections: list[Section]) -> str:
    """Join an abstract's sections, one per line: ``LABEL: text``, or only the text if there is no label."""
    return "\n".join(f"{section.label}: {section.text}" if section.label else section.text for section in sections)


def _title(title: str, languages: list[str]) -> str:
    """Return the title without NLM's marks of a translation: ``[The pineal body (author's transl)].`` and the like."""
    if not title.startswith("[") or languages in ([], ["eng"]) or not _in_one_bracket(title):
        return title
    inner = title[1 : title.rindex("]")].replace("(author's transl)", "").strip()
    if inner in ("Not Available", "In Process Citation"):
        return ""
    return inner if inner.endswith((".", "?", "!")) else f"{inner}."


def _in_one_bracket(title: str) -> bool:
    """Return whether the first bracket is closed by the last one, with at most a full stop after it."""
    depth = 0
    for bracket in _BRACKET.finditer(title):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return title[bracket.end() :].strip() in ("", ".")
    return False


_BRACKET = re.compile(r"[\[\]]")
_YEAR = re.compile(r"(?<!\d)(1[5-9]|20)\d\d(?!\d)")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_AND_DAY = re.compile(rf"\b({'|'.join(_MONTHS)})[a-z]*\.?(?: (\d\d?))?(?!\d)", re.IGNORECASE)


def read_date(parts: dict[str, str]) -> Date:
    """Return the year and the known part of the date (``1998``, ``1998-12``, ``1998-12-05``); the start of a range.

    ``parts`` has the texts of ``Year``, ``Month`` (name or number) and ``Day``, or of ``MedlineDate``, which is free
    text such as ``1998 Dec-1999 Jan``, ``1978 Mar 15-21``, ``1977-1978 Fall-Winter``, ``2021 3rd Quarter``.
    """
    free_text = parts.get("MedlineDate", "")
    year_match = _YEAR.search(parts.get("Year") or free_text)
    if not year_match:
        return None, None
    year, month, day = year_match.group(), parts.get("Month", "").strip(), parts.get("Day", "").strip()
    if free_text and (month_match := _MONTH_AND_DAY.search(free_text)):
        month, day = month_match[1], month_match[2] or ""
    number = _MONTHS.index(month[:3].lower()) + 1 if month[:3].lower() in _MONTHS else _number(month, 12)
    if not number:
        return int(year), year
    return int(year), f"{year}-{number:02}" + (f"-{_number(day, 31):02}" if _number(day, 31) else "")


def _number(digits: str, highest: int) -> int:
    is_number = digits.isascii() and digits.isdigit() and len(digits) < 3
    return int(digits) if is_number and int(digits) <= highest else 0
