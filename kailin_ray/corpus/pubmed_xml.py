r"""PubMed XML to citations.

A citation, as ``read_citations`` gives it: the columns of ``schema.DOCUMENTS`` but ``source_file``, and
``version`` and ``deleted``::

    {"pmid": 399296, "version": 1, "deleted": False, "title": "Effect of sodium azide on ...",
     "abstract": "AIMS: To compare ...\nMETHODS: We ...",
     "sections": [{"label": "AIMS", "text": "To compare ..."}, ...],
     "year": 1979, "journal": "...", "language": "eng",
     "mesh": [{"ui": "D000818", "name": "Animals", "major": False, "qualifiers": []}, ...],
     "publication_types": ["Journal Article"], "retracted": False}
"""

import gzip
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from lxml import etree

from kailin_ray.files import open_unpacked

Citation = dict[str, Any]

MAX_RECORD_BYTES = 16 << 20
"""XML of one record, and of what may stand between two. The parser holds it in memory; papers of 15,000 authors take
about 6 MiB."""

# libxml2 hands text of untrusted files through as it is; these never carry meaning in an abstract.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SAFE: dict[str, Any] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
_YEAR = re.compile(r"(?<!\d)(1[5-9]|20)\d\d(?!\d)")


class DamagedFileError(ValueError):
    """A file that cannot be read to its end, or is not PubMed XML; the message names file and fault."""


def read_citations(path: Path, skipped: Counter[str]) -> Iterator[Citation]:
    """Stream the citations of one PubMed XML file (``.xml`` or ``.xml.gz``) in their order.

    A ``DeleteCitation`` gives rows with ``deleted`` true and no text. Records that are no usable citation are
    counted by reason in ``skipped``. Entities are never expanded and nothing outside the file is read.

    Raises ``DamagedFileError`` if the file is truncated, not well-formed, or not a ``PubmedArticleSet``; and if it
    would fill the memory: a gzip bomb, or a record of more than ``MAX_RECORD_BYTES``.
    """
    try:
        with open_unpacked(path) as stream:
            _, root = next(etree.iterparse(_Watched(path, stream), events=("start",), **_SAFE))
        if root.tag != "PubmedArticleSet":
            raise DamagedFileError(f"{path}: not PubMed XML: its root element is <{root.tag}>, not <PubmedArticleSet>")
        with open_unpacked(path) as stream:
            yield from _parse(_Watched(path, stream), skipped)
    except (etree.XMLSyntaxError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error


class _Watched:
    """A stream that ends with ``DamagedFileError`` where no record ends for too long."""

    def __init__(self, path: Path, stream: BinaryIO):
        self._path, self._stream, self._mark = path, stream, 0
        self.name = str(path)  # for the parser's messages

    def read(self, size: int) -> bytes:
        if self._stream.tell() - self._mark > MAX_RECORD_BYTES:
            raise DamagedFileError(f"{self._path}: {MAX_RECORD_BYTES:,} bytes without the end of a record")
        return self._stream.read(size)

    def record_ended(self) -> None:
        self._mark = self._stream.tell()


def _parse(stream: _Watched, skipped: Counter[str]) -> Iterator[Citation]:
    tags = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
    for _, element in etree.iterparse(stream, tag=tags, **_SAFE):
        if element.getparent().getparent() is not None:
            continue  # a record inside another is none: it belongs to that one's text
        if element.tag == "PubmedBookArticle":
            skipped["book"] += 1
        elif element.tag == "DeleteCitation":
            for node in element.iterfind("PMID"):
                pmid = _pmid(node)
                if pmid is None:
                    skipped["malformed"] += 1
                else:
                    yield {"pmid": pmid, "version": _version(node), "deleted": True}
        else:
            citation = _citation(element)
            if citation is None:
                skipped["malformed"] += 1
            else:
                yield citation
        stream.record_ended()
        # Free what has been read: without this the whole tree of the file stays in memory.
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]


def _citation(article: Any) -> Citation | None:
    medline = article.find("MedlineCitation")
    if medline is None:
        return None
    identifier, body = medline.find("PMID"), medline.find("Article")
    pmid = None if identifier is None else _pmid(identifier)
    if pmid is None or body is None:
        return None
    sections = _sections(body.find("Abstract"))
    types = [text(node) for node in body.iterfind("PublicationTypeList/PublicationType")]
    notices = medline.iterfind("CommentsCorrectionsList/CommentsCorrections")
    return {
        "pmid": pmid,
        "version": _version(identifier),
        "deleted": False,
        "title": text(body.find("ArticleTitle")),
        "abstract": join_sections(sections),
        "sections": sections,
        "year": _year(body),
        "journal": text(body.find("Journal/Title")),
        "language": text(body.find("Language")),
        "mesh": [_heading(node) for node in medline.iterfind("MeshHeadingList/MeshHeading")],
        "publication_types": types,
        "retracted": "Retracted Publication" in types or any(n.get("RefType") == "RetractionIn" for n in notices),
    }


def text(element: Any) -> str:
    """All text inside ``element``, inline markup dropped (``H<sub>2</sub>O`` is ``H2O``), white space collapsed."""
    if element is None:
        return ""
    if len(element):
        return _clean("".join(element.itertext()))
    raw = element.text or ""
    return _clean_again(raw) if len(raw) <= _SHORT else _clean(raw)


def _clean(raw: str) -> str:
    return unicodedata.normalize("NFC", " ".join(_CONTROL.sub(" ", raw).split()))


# Names of descriptors, qualifiers and journals come again and again; abstracts would only fill the memory.
_SHORT = 200
_clean_again = lru_cache(maxsize=1 << 16)(_clean)


def join_sections(sections: list[dict[str, str | None]]) -> str:
    """An abstract as one text, a line a section: ``LABEL: text``, or the bare text where there is no label."""
    return "\n".join(f"{s['label']}: {s['text']}" if s["label"] else str(s["text"]) for s in sections)


def _sections(abstract: Any) -> list[dict[str, str | None]]:
    if abstract is None:
        return []
    parts = [
        {"label": _clean(node.get("Label") or "") or None, "text": text(node)}
        for node in abstract.iterfind("AbstractText")
    ]
    return [part for part in parts if part["text"]]


def _heading(node: Any) -> dict[str, Any]:
    heading: dict[str, Any] = {"ui": "", "name": "", "major": False, "qualifiers": []}
    for part in node:
        # A heading is a major topic if the descriptor or any of its qualifiers is starred.
        heading["major"] |= part.get("MajorTopicYN") == "Y"
        if part.tag == "DescriptorName":
            heading |= {"ui": part.get("UI") or text(part), "name": text(part)}  # MeSH resolves names too
        elif part.tag == "QualifierName":
            heading["qualifiers"].append(text(part))
    return heading


def _pmid(node: Any) -> int | None:
    content = "" if len(node) else (node.text or "").strip()  # an entity or a tag inside would cut the number short
    # The length first: Python refuses to read numbers of thousands of digits.
    right = content.isascii() and content.isdigit() and len(content) < 20 and 0 < int(content) < 2**63
    return int(content) if right else None


def _version(node: Any) -> int:
    version = node.get("Version") or "1"
    return int(version) if version.isascii() and version.isdigit() and len(version) < 5 else 1


def _year(body: Any) -> int | None:
    for path in ("Journal/JournalIssue/PubDate/Year", "Journal/JournalIssue/PubDate/MedlineDate", "ArticleDate/Year"):
        match = _YEAR.search(body.findtext(path) or "")
        if match:
            return int(match.group())
    return None
