"""What is wanted of a ``PubmedArticle``: where each part stands, and what reads it. The only place that says so."""

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
    """One of the elements that a citation is made of: where it stands, and what reads it."""

    within: str
    read: Callable[[Any], Any]
    many: bool = False
    """A record may have several: what is read is a list."""
    entries: str = ""
    """It is a list of elements of this tag, and these are read, one by one."""
    repeats: bool = False
    """Many citations have it, or its entries, word for word alike."""


def read_article(article: Any) -> Citation | None:
    """The citation of a ``PubmedArticle``, None where PMID or article is missing or wrong."""
    medline = article.find("MedlineCitation")
    body = None if medline is None else medline.find("Article")
    parents = {"MedlineCitation": medline, "Article": body, "PubmedData": article.find("PubmedData")}
    return (
        None
        if body is None
        else citation(*(_read_part(part, tag, parents[part.within]) for tag, part in PARTS.items()))
    )


def _read_part(part: Part, tag: str, parent: Any) -> Any:
    """What ``part`` says in ``parent``: a list if it is many or has entries, else None where there is none."""
    nodes = iter(()) if parent is None else parent.iterchildren(tag)
    if part.many:
        return [part.read(node) for node in nodes]
    node = next(nodes, None)
    if part.entries:
        return [] if node is None else [part.read(one) for one in node.iterchildren(part.entries)]
    return None if node is None else part.read(node)


def _sections(abstract: Any) -> list[Section]:
    sections: list[Section] = []
    for node in abstract.iterchildren("AbstractText"):
        if content := text(node):
            label = clean(node.get("Label") or "")
            category = clean(node.get("NlmCategory") or "")
            # NLM's words for having none.
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
    for part in node:
        major = major or part.get("MajorTopicYN") == "Y"
        if part.tag == "DescriptorName":
            name = text(part)
            ui = part.get("UI") or name  # MeSH resolves names too
        elif part.tag == "QualifierName":
            qualifiers.append(text(part))
    return Heading(ui, name, major, tuple(qualifiers))


def _types(node: Any) -> list[str]:
    return [text(one) for one in node.iterchildren("PublicationType")]


def _supplementary(node: Any) -> list[Substance]:
    """Supplementary concepts (``C`` numbers) by type."""
    return [_substance(one, one.get("Type") or "") for one in node.iterchildren("SupplMeshName")]


def _chemical(node: Any) -> Substance | None:
    """The supplementary concept that a ``Chemical`` is, None where it is a descriptor, or has no number."""
    substance = _first(node, "NameOfSubstance")
    return _substance(substance, "Chemical") if substance is not None and substance.get("UI", "")[:1] == "C" else None


def _substance(node: Any, kind: str) -> Substance:
    return Substance(node.get("UI") or "", text(node), kind)


def _keywords(group: Any) -> list[str]:
    return [word for node in group.iterchildren("Keyword") if (word := text(node))]


def _notices(listed: Any) -> list[Notice]:
    return [_notice(node) for node in listed.iterchildren("CommentsCorrections")]


def _notice(node: Any) -> Notice:
    pmid = _first(node, "PMID")
    return Notice(node.get("RefType") or "", None if pmid is None else read_pmid(pmid), text(_first(node, "RefSource")))


def _identifiers(listed: Any) -> dict[str, str]:
    """The article's own ids by kind (``doi``, ``pmc``, ``pii`` ...), of each kind the first."""
    nodes = listed.iterchildren("ArticleId", reversed=True)
    return {kind: text(node) for node in nodes if (kind := node.get("IdType")) in ("doi", "pmc")}


def _location(node: Any) -> str | None:
    return text(node) or None if node.get("EIdType") == "doi" and node.get("ValidYN") != "N" else None


def _journal(node: Any) -> tuple[str, Date]:
    """Title, and date of the issue."""
    issue = _first(node, "JournalIssue")
    return text(_first(node, "Title")), _date(None if issue is None else _first(issue, "PubDate"))


def _date(node: Any) -> Date:
    return read_date({} if node is None else {part.tag: part.text or "" for part in node})


def _first(node: Any, tag: str) -> Any:
    return next(node.iterchildren(tag), None)  # find() first compiles its path


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


def read_identity(node: Any) -> tuple[int | None, int]:
    """PMID and version."""
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
"""By their tags, in the order in which NLM writes them."""
