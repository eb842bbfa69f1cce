"""A record of PubMed XML as NLM writes it: one regular expression, of which each group is one of ``fields.PARTS``.

What it matches stands where the DTD has it, so nobody needs a tree of the record to find it. What is not wanted is not
looked at, but for its end; what is wanted is given as bytes and is still to be parsed, so that a match says nothing on
what stands inside of it. It is right only where ``<`` begins a tag: in records without comments, CDATA and processing
instructions.
"""

import re

from kailin_ray.corpus.readers.fields import PARTS

END = b"</PubmedArticle>"
"""What follows a match."""


def _until(end: str) -> str:
    """All up to an end tag, which this pattern finds. Nothing is tried twice, and nothing kept to be tried again."""
    return rf"[^<]*+(?:<(?!{end})[^<]*+)*+<{end}"


def _to_end(tag: str) -> str:
    return _until(rf"/{tag}\b") + r">\s*+"


def _element(tag: str) -> str:
    """An element to the next end tag of its name, and white space. Not one that ends itself: it has no end tag."""
    return rf"<{tag}(?:>| [^<>]*+(?<!/)>){_to_end(tag)}"


def _part(tag: str) -> str:
    """A group for the part, or the parts, of a tag; of a list of entries for what follows its start tag."""
    if PARTS[tag].entries:
        return rf"(?:<{tag}>(?P<{tag}>{_to_end(tag)}))?+"
    return rf"(?P<{tag}>(?:{_element(tag)}){'*+' if PARTS[tag].many else '?+'})"


def _skip(*tags: str) -> str:
    """Any number of each of these elements, in this order."""
    return "".join(rf"(?:{_element(tag)})*+" for tag in tags)


def _within(tag: str, attributes: tuple[str, ...], *content: str) -> str:
    """An element with at most these attributes and this content."""
    given = "".join(rf'(?: {name}="[\w-]*+")?+' for name in attributes)
    return rf"<{tag}{given}>\s*+{''.join(content)}</{tag}>\s*+"


_ARTICLE = (
    _part("Journal"),
    _part("ArticleTitle"),
    _skip("Pagination"),
    _part("ELocationID"),
    _part("Abstract"),
    _skip("AuthorList"),
    _part("Language"),
    _skip("DataBankList", "GrantList"),
    _part("PublicationTypeList"),
    _part("VernacularTitle"),
    _part("ArticleDate"),
)
_MEDLINE_CITATION = (
    _part("PMID"),
    _skip("DateCompleted", "DateRevised"),
    _within("Article", ("PubModel",), *_ARTICLE),
    _skip("MedlineJournalInfo"),
    _part("ChemicalList"),
    _part("SupplMeshList"),
    _skip("CitationSubset"),
    _part("CommentsCorrectionsList"),
    _skip("GeneSymbolList"),
    _part("MeshHeadingList"),
    _skip("NumberOfReferences", "PersonalNameSubjectList", "OtherID"),
    _part("OtherAbstract"),
    _part("KeywordList"),
    _skip("CoiStatement", "SpaceFlightMission", "InvestigatorList", "GeneralNote"),
)
_LAST_REFERENCES = r"/ReferenceList>(?=\s*+</PubmedData>)"  # lists of references nest
_PUBMED_DATA = (
    _skip("History", "PublicationStatus"),
    _part("ArticleIdList"),
    _skip("ObjectList"),
    rf"(?:<ReferenceList>{_until(_LAST_REFERENCES)}\s*+)?+",
)
RECORD = re.compile(
    (
        r"\s*+<PubmedArticle>\s*+"
        + _within("MedlineCitation", ("Status", "IndexingMethod", "Owner"), *_MEDLINE_CITATION)
        + rf"(?:{_within('PubmedData', (), *_PUBMED_DATA)})?+"
    ).encode()
)


def only_tags(xml: bytes) -> bool:
    """Whether there is no ``<!`` and no ``<?``. These marks are far rarer than ``<``, so this is 20 times faster."""
    for mark in (b"!", b"?"):
        at = xml.find(mark)
        while at >= 0:
            if xml[at - 1 : at] == b"<":
                return False
            at = xml.find(mark, at + 1)
    return True
