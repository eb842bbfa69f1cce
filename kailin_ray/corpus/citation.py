r"""One ``PubmedArticle`` to a citation.

A citation: the columns of ``schema.DOCUMENTS`` but ``source_file``, and ``deleted``::

    {"pmid": 399296, "version": 1, "deleted": False,
     "title": "Effect of sodium azide on ...", "vernacular_title": None,
     "abstract": "AIMS: To compare ...\nMETHODS: We ...",
     "sections": [{"label": "AIMS", "category": "OBJECTIVE", "text": "To compare ..."}, ...],
     "other_abstracts": [{"type": "Publisher", "language": "ger", "text": "ZIEL: ..."}],
     "year": 1979, "date": "1979-05", "journal": "...", "language": "eng", "languages": ["eng"],
     "mesh": [{"ui": "D000818", "name": "Animals", "major": False, "qualifiers": []}, ...],
     "supplementary": [{"ui": "C538496", "name": "...", "type": "Disease"}], "keywords": ["mink"],
     "publication_types": ["Journal Article"], "retracted": False,
     "notices": [{"type": "ErratumIn", "pmid": 400001, "source": "J Things. 1980 Jan;3(1):9"}],
     "doi": "10.1000/xyz", "pmcid": "PMC123"}
"""

import re
from collections.abc import Iterable
from typing import Any

from kailin_ray.corpus.text import clean, text

Citation = dict[str, Any]

_YEAR = re.compile(r"(?<!\d)(1[5-9]|20)\d\d(?!\d)")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_AND_DAY = re.compile(rf"\b({'|'.join(_MONTHS)})[a-z]*\.?(?: (\d\d?))?(?!\d)", re.IGNORECASE)


def citation(article: Any, read: dict[str, list[Any]]) -> Citation | None:
    """The citation of a ``PubmedArticle``, None where PMID or article is missing or wrong.

    ``read``: what elements of ``REPEATED``, by their tags, said that were taken out of it before.
    """
    parts = _children(article)
    medline = _children(parts.get("MedlineCitation"))
    identifier = medline.get("PMID")
    pmid = None if identifier is None else read_pmid(identifier)
    if pmid is None or "Article" not in medline:
        return None
    body = _children(medline["Article"])
    journal, year, date = (_read(read, "Journal", body.get("Journal")) or [("", None, None)])[0]
    if year is None and "ArticleDate" in body:
        year, date = _date(body["ArticleDate"])
    languages = [code for node in _all(body, "Language") if (code := text(node))]
    sections = _sections(body.get("Abstract"))
    types = (_read(read, "PublicationTypeList", body.get("PublicationTypeList")) or [[]])[0]
    notices = [
        _notice(node) for node in medline.get("CommentsCorrectionsList", ()) if node.tag == "CommentsCorrections"
    ]
    headings = read.get("MeshHeading")
    if headings is None:
        headings = [heading(node) for node in medline.get("MeshHeadingList", ()) if node.tag == "MeshHeading"]
    identifiers = _identifiers(_children(parts.get("PubmedData")).get("ArticleIdList"))
    return {
        "pmid": pmid,
        "version": read_version(identifier),
        "deleted": False,
        "title": _title(_first(body, "ArticleTitle"), languages),
        "vernacular_title": _first(body, "VernacularTitle") or None,
        "abstract": join_sections(sections),
        "sections": sections,
        "other_abstracts": [_other_abstract(node) for node in _all(medline, "OtherAbstract")],
        "year": year,
        "date": date,
        "journal": journal,
        "language": languages[0] if languages else "",
        "languages": languages,
        "mesh": headings,
        "supplementary": _supplementary(medline),
        "keywords": _keywords(medline),
        "publication_types": types,
        "retracted": "Retracted Publication" in types or any(one["type"] == "RetractionIn" for one in notices),
        "notices": notices,
        "doi": identifiers.get("doi") or _location(body),
        "pmcid": identifiers.get("pmc"),
    }


def _children(node: Any) -> dict[str, Any]:
    """The first child of each tag. One walk over all is cheaper than a search for each."""
    return {} if node is None else {child.tag: child for child in node.iterchildren(reversed=True)}


def _all(parts: dict[str, Any], tag: str) -> Iterable[Any]:
    """All children of ``tag``, where ``parts`` has the first of each."""
    return (parts[tag], *parts[tag].itersiblings(tag)) if tag in parts else ()


def _read(read: dict[str, list[Any]], tag: str, node: Any) -> list[Any]:
    return read[tag] if tag in read else [] if node is None else [REPEATED[tag](node)]


def _first(parts: dict[str, Any], tag: str) -> str:
    return text(parts[tag]) if tag in parts else ""


def join_sections(sections: list[dict[str, str | None]]) -> str:
    """An abstract as one text, a line a section: ``LABEL: text``, or the bare text where there is no label."""
    return "\n".join(f"{s['label']}: {s['text']}" if s["label"] else str(s["text"]) for s in sections)


def _sections(abstract: Any) -> list[dict[str, str | None]]:
    sections: list[dict[str, str | None]] = []
    for node in () if abstract is None else abstract.iterchildren("AbstractText"):
        if content := text(node):
            label = clean(node.get("Label") or "")
            category = clean(node.get("NlmCategory") or "")
            # NLM's words for having none.
            label = "" if label.upper() in ("UNLABELLED", "UNLABELED") else label
            category = "" if category == "UNASSIGNED" else category
            sections.append({"label": label or None, "category": category or None, "text": content})
    return sections


def _other_abstract(node: Any) -> dict[str, Any]:
    return {"type": node.get("Type"), "language": node.get("Language"), "text": join_sections(_sections(node))}


def _title(title: str, languages: list[str]) -> str:
    """The title without what NLM puts around one that it translated: ``[The pineal body (author's transl)].`` or so."""
    if not title.startswith("[") or languages in ([], ["eng"]) or not _in_one_bracket(title):
        return title
    inner = title[1 : title.rindex("]")].replace("(author's transl)", "").strip()
    if inner in ("Not Available", "In Process Citation"):
        return ""
    return inner if inner.endswith((".", "?", "!")) else f"{inner}."


def _in_one_bracket(title: str) -> bool:
    """Whether the first bracket is closed by the last one, behind which at most a full stop stands."""
    depth = 0
    for at, character in enumerate(title):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return title[at + 1 :].strip() in ("", ".")
    return False


def heading(node: Any) -> dict[str, Any]:
    """One ``MeshHeading``: descriptor, and its qualifiers' names; major if any of them is starred."""
    ui = name = ""
    major = False
    qualifiers = []
    for part in node:
        major = major or part.get("MajorTopicYN") == "Y"
        if part.tag == "DescriptorName":
            name = text(part)
            ui = part.get("UI") or name  # MeSH resolves names too
        elif part.tag == "QualifierName":
            qualifiers.append(text(part))
    return {"ui": ui, "name": name, "major": major, "qualifiers": qualifiers}


def _types(node: Any) -> list[str]:
    return [text(one) for one in node.iterchildren("PublicationType")]


def _supplementary(medline: dict[str, Any]) -> list[dict[str, Any]]:
    """Supplementary concepts (``C`` numbers): those of ``SupplMeshList`` by type, and the chemicals."""
    found = [(node, node.get("Type") or "") for node in medline.get("SupplMeshList", ()) if node.tag == "SupplMeshName"]
    if "ChemicalList" in medline:
        substances = medline["ChemicalList"].iter("NameOfSubstance")
        found += [(node, "Chemical") for node in substances if (node.get("UI") or "").startswith("C")]
    return [{"ui": node.get("UI") or "", "name": text(node), "type": kind} for node, kind in found]


def _keywords(medline: dict[str, Any]) -> list[str]:
    nodes = (node for group in _all(medline, "KeywordList") for node in group.iterchildren("Keyword"))
    return list(dict.fromkeys(word for node in nodes if (word := text(node))))


def _notice(node: Any) -> dict[str, Any]:
    pmid = node.find("PMID")
    return {
        "type": node.get("RefType") or "",
        "pmid": None if pmid is None else read_pmid(pmid),
        "source": text(node.find("RefSource")),
    }


def _identifiers(listed: Any) -> dict[str, str]:
    """The article's own ids by kind (``doi``, ``pmc``, ``pii`` ...), of each kind the first."""
    nodes = () if listed is None else listed.iterchildren("ArticleId", reversed=True)
    return {kind: text(node) for node in nodes if (kind := node.get("IdType")) in ("doi", "pmc")}


def _location(body: dict[str, Any]) -> str | None:
    for node in _all(body, "ELocationID"):
        if node.get("EIdType") == "doi" and node.get("ValidYN") != "N":
            return text(node) or None
    return None


def _journal(node: Any) -> tuple[str, int | None, str | None]:
    """Title, and year and date of the issue."""
    parts = _children(node)
    return _first(parts, "Title"), *_date(_children(parts.get("JournalIssue")).get("PubDate"))


def _date(node: Any) -> tuple[int | None, str | None]:
    return read_date({} if node is None else {part.tag: part.text or "" for part in node})


def read_date(parts: dict[str, str]) -> tuple[int | None, str | None]:
    """Year, and the date as far as it is known (``1998``, ``1998-12``, ``1998-12-05``); of a span its beginning.

    ``parts``: texts of ``Year``, ``Month`` (name or number) and ``Day``, or of ``MedlineDate``, which is free text such
    as ``1998 Dec-1999 Jan``, ``1978 Mar 15-21``, ``1977-1978 Fall-Winter``, ``2021 3rd Quarter``.
    """
    spoken = parts.get("MedlineDate", "")
    found = _YEAR.search(parts.get("Year") or spoken)
    if not found:
        return None, None
    year, month, day = found.group(), parts.get("Month", "").strip(), parts.get("Day", "").strip()
    if spoken and (named := _MONTH_AND_DAY.search(spoken)):
        month, day = named[1], named[2] or ""
    number = _MONTHS.index(month[:3].lower()) + 1 if month[:3].lower() in _MONTHS else _number(month, 12)
    if not number:
        return int(year), year
    return int(year), f"{year}-{number:02}" + (f"-{_number(day, 31):02}" if _number(day, 31) else "")


def _number(digits: str, highest: int) -> int:
    right = digits.isascii() and digits.isdigit() and len(digits) < 3
    return int(digits) if right and int(digits) <= highest else 0


def read_pmid(node: Any) -> int | None:
    """The number inside a ``PMID``; None where it is none."""
    content = "" if len(node) else (node.text or "").strip()  # an entity or a tag inside would cut the number short
    # The length first: Python refuses to read numbers of thousands of digits.
    right = content.isascii() and content.isdigit() and len(content) < 20 and 0 < int(content) < 2**63
    return int(content) if right else None


def read_version(node: Any) -> int:
    """The version that a ``PMID`` names, 1 where it names none."""
    version = node.get("Version") or "1"
    return int(version) if version.isascii() and version.isdigit() and len(version) < 5 else 1


REPEATED = {"MeshHeading": heading, "Journal": _journal, "PublicationTypeList": _types}
"""Elements that many citations have word for word alike, and what is read from each."""
