"""The elements of a ``PubmedArticle`` that a citation needs: where each is, and how it is read. Defined only here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kailin_ray.corpus.readers.citation import (
    Citation,
    Date,
    Heading,
    Notice,
    OtherAbstract,
    Section,
    Substance,
    citation,
    join_sections,
    read_date,
)
from kailin_ray.corpus.readers.xml_text import clean, text


@dataclass(frozen=True)
class Part:
    """An element that a citation is built from: the tag of its parent, and the function that reads it."""

    within: str
    read: Callable[[Any], Any]
    many: bool = False
    """A record may have several of these elements; the values form a list."""
    entries: str = ""
    """The element is a list of elements with this tag, and ``read`` reads each of them."""
    repeats: bool = False
    """Many citations have the same element, or the same entries, byte for byte."""


def read_article(article: Any) -> Citation | None:
    """Return the citation of a ``PubmedArticle``; None if the PMID or article is missing or invalid."""
    medline = article.find("MedlineCitation")
    body = None if medline is None else medline.find("Article")
    parents = {"MedlineCitation": medline, "Article": body, "PubmedData": article.find("PubmedData")}
    return (
        None
        if body is None
        else citation(*(_read_part(part, tag, parents[part.within]) for tag, part in PARTS.items()))
    )


def _read_part(part: Part, tag: str, parent: Any) -> Any:
    """Return the value of ``part`` in ``parent``: a list if it is many or has entries, else None if it is missing."""
    nodes = iter(()) if parent is None else parent.iterchildren(tag)
    if part.many:
        return [part.read(node) for node in nodes]
    node = next(nodes, None)
    if part.entries:
        return [] if node is None else [part.read(entry) for entry in node.iterchildren(part.entries)]
    return None if node is None else part.read(node)


def _sections(abstract: Any) -> list[Section]:
    sections: list[Section] = []
    for node in abstract.iterchildren("AbstractText"):
        if content := text(node):
            label = clean(node.get("Label") or "")
            category = clean(node.get("NlmCategory") or "")
            # NLM writes these words if a section has no label or category.
            label = "" if label.upper() in ("UNLABELLED", "UNLABELED") else label
            category = "" if category == "UNASSIGNED" else category
            sections.append(Section(label or None, category or None, content))
    return sections


def _other_abstract(node: Any) -> OtherAbstract:
    return OtherAbstract(node.get("Type"), node.get("Language"), join_sections(_sections(node)))


def _heading(node: Any) -> Heading:
    ui = name = ""
    major = False
    qualifiers = []
    for child in node:
        major = major or child.get("MajorTopicYN") == "Y"
        if child.tag == "DescriptorName":
            name = text(child)
            ui = child.get("UI") or name  # MeSH resolves names too
        elif child.tag == "QualifierName":
            qualifiers.append(text(child))
    return Heading(ui, name, major, tuple(qualifiers))


def _types(node: Any) -> list[str]:
    return [text(child) for child in node.iterchildren("PublicationType")]


def _supplementary(node: Any) -> list[Substance]:
    """Return the supplementary concepts (``C`` numbers) with their types."""
    return [_substance(child, child.get("Type") or "") for child in node.iterchildren("SupplMeshName")]


def _chemical(node: Any) -> Substance | None:
    """Return the supplementary concept of a ``Chemical``; None if it is a descriptor or has no number."""
    substance = _first(node, "NameOfSubstance")
    return _substance(substance, "Chemical") if substance is not None and substance.get("UI", "")[:1] == "C" else None


def _substance(node: Any, kind: str) -> Substance:
    return Substance(node.get("UI") or "", text(node), kind)


def _keywords(group: Any) -> list[str]:
    return [word for node in group.iterchildren("Keyword") if (word := text(node))]


def _notices(node_list: Any) -> list[Notice]:
    return [_notice(node) for node in node_list.iterchildren("CommentsCorrections")]


def _notice(node: Any) -> Notice:
    pmid = _first(node, "PMID")
    return Notice(node.get("RefType") or "", None if pmid is None else read_pmid(pmid), text(_first(node, "RefSource")))


def _identifiers(node_list: Any) -> dict[str, str]:
    """Return the article's own ``doi`` and ``pmc`` ids, the first of each kind."""
    nodes = node_list.iterchildren("ArticleId", reversed=True)
    return {kind: text(node) for node in nodes if (kind := node.get("IdType")) in ("doi", "pmc")}


def _location(node: Any) -> str | None:
    return text(node) or None if node.get("EIdType") == "doi" and node.get("ValidYN") != "N" else None


def _journal(node: Any) -> tuple[str, Date]:
    """Return the title of the journal and the date of the issue."""
    issue = _first(node, "JournalIssue")
    return text(_first(node, "Title")), _date(None if issue is None else _first(issue, "PubDate"))


def _date(node: Any) -> Date:
    return read_date({} if node is None else {child.tag: child.text or "" for child in node})


def _first(node: Any, tag: str) -> Any:
    return next(node.iterchildren(tag), None)  # faster than find(), which compiles its path first


def read_pmid(node: Any) -> int | None:
    """Return the number inside a ``PMID``; None if it is not a valid PMID."""
    content = "" if len(node) else (node.text or "").strip()  # an entity or a tag inside would cut the number short
    # Check the length first, because Python refuses to parse numbers of thousands of digits.
    is_valid = content.isascii() and content.isdigit() and len(content) < 20 and 0 < int(content) < 2**63
    return int(content) if is_valid else None


def read_version(node: Any) -> int:
    """Return the version of a ``PMID``; 1 if it has none."""
    version = node.get("Version") or "1"
    return int(version) if version.isascii() and version.isdigit() and len(version) < 5 else 1


def read_identity(node: Any) -> tuple[int | None, int]:
    """Return the PMID and version."""
    return read_pmid(node), read_version(node)


PARTS = {
    "PMID": Part("MedlineCitation", read_identity),
    "Journal": Part("Article", _journal, repeats=True),
    "ArticleTitle": Part("Article", text),
    "ELocationID": Part("Article", _location, many=True),
    "Abstract": Part("Article", _sections),
    "Language": Part("Article", text, many=True, repeats=True),
    "PublicationTypeList": Part("Article", _types, repeats=True),
    "VernacularTitle": Part("Article", text),
    "ArticleDate": Part("Article", _date, many=True, repeats=True),
    "ChemicalList": Part("MedlineCitation", _chemical, entries="Chemical", repeats=True),
    "SupplMeshList": Part("MedlineCitation", _supplementary),
    "CommentsCorrectionsList": Part("MedlineCitation", _notices),
    "MeshHeadingList": Part("MedlineCitation", _heading, entries="MeshHeading", repeats=True),
    "OtherAbstract": Part("MedlineCitation", _other_abstract, many=True),
    "KeywordList": Part("MedlineCitation", _keywords, many=True),
    "ArticleIdList": Part("PubmedData", _identifiers),
}
"""The elements by tag, in the order in which NLM writes them."""
