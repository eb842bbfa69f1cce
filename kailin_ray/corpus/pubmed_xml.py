"""PubMed XML files to citations (``corpus/citation.py``), in a stream, in constant memory.

Two thirds of a file are authors, references, histories, of which nothing is wanted; MeSH headings, journals and
publication types repeat. So whole records are cut out of the bytes, what is not wanted is left away, what repeats is
read once, and the rest goes through libxml2, a block at a time. That is right only where ``<`` begins a tag: in records
without comments, CDATA and processing instructions, of a file without a DTD of its own. All else, and whatever libxml2
refuses, takes the careful way: the whole file, element by element.
"""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from lxml import etree

from kailin_ray.corpus.citation import REPEATED, Citation, citation, read_pmid, read_version
from kailin_ray.files import open_unpacked

MAX_RECORD_BYTES = 16 << 20
"""XML of one record, and of what may stand between two. The parser holds it in memory; papers of 15,000 authors take
about 6 MiB."""
BLOCK_BYTES = 1 << 19

_SAFE: dict[str, Any] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
_HEAD = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:<\?xml version=.1\.0.(?: encoding=.(?i:utf-8|us-ascii).)?(?: standalone=.\w+.)?\s*\?>)?\s*"
    rb"(?:<!DOCTYPE [^<>\[\]]*>)?\s*<PubmedArticleSet\s*>"
)
_START, _END, _TAIL = b"<PubmedArticle", b"</PubmedArticle>", b"</PubmedArticleSet>"
# As NLM writes them; one that is written otherwise is read by libxml2 with the rest.
_AUTHORS, _GRANTS = (b"<AuthorList ", b"</AuthorList>"), (b"<GrantList ", b"</GrantList>")
_COMPLETED, _REVISED = (b"<DateCompleted>", b"</DateCompleted>"), (b"<DateRevised>", b"</DateRevised>")
_INVESTIGATORS, _HISTORY = (b"<InvestigatorList>", b"</InvestigatorList>"), (b"<History>", b"</History>")
_JOURNAL, _JOURNAL_INFO = (b"<Journal>", b"</Journal>"), (b"<MedlineJournalInfo>", b"</MedlineJournalInfo>")
_TYPES, _HEADINGS = (
    (b"<PublicationTypeList>", b"</PublicationTypeList>"),
    (b"<MeshHeadingList>", b"</MeshHeadingList>"),
)
_HEADING_END = b"</MeshHeading>"
_PARSER = etree.XMLParser(**_SAFE)
_MAX_KNOWN = 1 << 18
"""Different elements that are remembered: about 150 MB."""


class DamagedFileError(ValueError):
    """A file that cannot be read to its end, or is not PubMed XML; the message names file and fault."""


class _OddError(Exception):
    """A block that only the careful way can read, or refuse."""


def read_citations(path: Path, skipped: Counter[str]) -> Iterator[Citation]:
    """Stream the citations of one PubMed XML file (``.xml`` or ``.xml.gz``) in their order.

    A ``DeleteCitation`` gives rows with ``deleted`` true and no text. Records that are no usable citation are
    counted by reason in ``skipped``. Entities are never expanded and nothing outside the file is read.

    Raises ``DamagedFileError`` if the file is truncated, not well-formed (but for the inside of lists of authors,
    grants, investigators and references, which may not be looked at), or not a ``PubmedArticleSet``; and if it would
    fill the memory: a gzip bomb, or a record of more than ``MAX_RECORD_BYTES``.
    """
    try:
        with open_unpacked(path) as stream:
            _, root = next(etree.iterparse(_Watched(path, stream), events=("start",), **_SAFE))
        if root.tag != "PubmedArticleSet":
            raise DamagedFileError(f"{path}: not PubMed XML: its root element is <{root.tag}>, not <PubmedArticleSet>")
        counts: Counter[str] = Counter()
        given = 0
        try:
            with open_unpacked(path) as stream:
                for rows in _blocks(stream, counts):
                    given += len(rows)
                    yield from rows
        except (_OddError, etree.XMLSyntaxError):
            counts = Counter()
            with open_unpacked(path) as stream:
                yield from islice(_elements(_Watched(path, stream), counts), given, None)
        skipped.update(counts)
    except (etree.XMLSyntaxError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _blocks(stream: BinaryIO, skipped: Counter[str]) -> Iterator[list[Citation]]:
    """The citations block by block. Raises ``_OddError`` or lxml's ``XMLSyntaxError`` at one for the careful way."""
    left = stream.read(BLOCK_BYTES)
    found = _HEAD.match(left)
    if not found:
        raise _OddError
    head, left = found.group(), left[found.end() :]
    known: dict[bytes, Any] = {}
    last = False
    while not last:
        more = stream.read(BLOCK_BYTES)
        end = left.rfind(_END) + len(_END) if _END in left else 0
        if len(left) - end > MAX_RECORD_BYTES:
            raise _OddError
        # The last block is what follows the last record: deletions, and the end of the root element.
        last = not more and not end
        if end or last:
            yield _read_block(head, left if last else left[:end], b"" if last else _TAIL, known, skipped)
        left = left[end:] + more
        if len(known) > _MAX_KNOWN:
            known.clear()


def _read_block(
    head: bytes, block: bytes, tail: bytes, known: dict[bytes, Any], skipped: Counter[str]
) -> list[Citation]:
    """The citations of whole records. ``known``: what repeated elements say, by their bytes; new ones are added."""
    pieces = block.split(_END)
    rest = pieces.pop()
    if block.count(_START) != len(pieces):
        raise _OddError
    plain = _only_tags(block)
    cut = [_cut(piece) if plain or _only_tags(piece) else (piece, {}) for piece in pieces]
    # In C: some 50 of them a record.
    # In C, as there are ten to twenty a record.
    missed = list(set(chain.from_iterable(chain.from_iterable(taken.values() for _, taken in cut))).difference(known))
    document = [head, *(part for piece, _ in cut for part in (piece, _END)), rest]
    root = etree.fromstring(b"".join([*document, *([b"<new>", *missed, b"</new>"] if missed else []), tail]), _PARSER)
    if missed:
        new = list(root[-1])
        if len(new) != len(missed) or any(node.tag not in REPEATED for node in new):
            raise _OddError
        known.update((one, REPEATED[node.tag](node)) for one, node in zip(missed, new, strict=True))
        root.remove(root[-1])
    rows: list[Citation] = []
    number = 0
    for element in root:
        read = {}
        if element.tag == "PubmedArticle" and number < len(cut):
            read = {tag: [known[one] for one in group] for tag, group in cut[number][1].items()}
            number += 1
        rows += _record(element, read, skipped)
    if number != len(cut):
        raise _OddError
    return rows


def _only_tags(xml: bytes) -> bool:
    """Whether there is no ``<!`` and no ``<?``. These marks are far rarer than ``<``, so this is 20 times faster."""
    for mark in (b"!", b"?"):
        at = xml.find(mark)
        while at >= 0:
            if xml[at - 1 : at] == b"<":
                return False
            at = xml.find(mark, at + 1)
    return True


def _cut(piece: bytes) -> tuple[bytes, dict[str, list[bytes]]]:
    """A record without what is not wanted and what repeats; and the bytes of the latter's elements, by their tags.

    What does not look as NLM writes it stays in the record. Elements in the order in which they come.
    """
    kept: list[bytes] = []
    taken: dict[str, list[bytes]] = {}
    at = _skip(piece, kept, 0, _COMPLETED, 600)
    at = _skip(piece, kept, at, _REVISED, at + 300)
    at = _take(piece, kept, at, _JOURNAL, taken, at + 3_000)
    at = _skip(piece, kept, at, _AUTHORS, len(piece))
    medline = piece.find(b"</MedlineCitation>", at)
    at = _skip(piece, kept, at, _GRANTS, medline)
    at = _take(piece, kept, at, _TYPES, taken, medline)
    at = _skip(piece, kept, at, _JOURNAL_INFO, medline)
    after = _skip(piece, kept, at, _HEADINGS, medline)
    if after > at:
        *headings, rest = piece[at + len(kept[-1]) + len("<MeshHeadingList>") : after - len(_HEADINGS[1])].split(
            _HEADING_END
        )
        if rest.isspace() and headings:
            at, taken["MeshHeading"] = after, [one + _HEADING_END for one in headings]
        else:
            kept.pop()
    at = _skip(piece, kept, at, _INVESTIGATORS, medline)
    at = _skip(piece, kept, at, _HISTORY, len(piece))
    begin, stop = piece.find(b"<ReferenceList", at), piece.rfind(b"</ReferenceList>", at)  # they nest
    if 0 <= begin < stop:
        kept.append(piece[at:begin])
        at = stop + len(b"</ReferenceList>")
    kept.append(piece[at:])
    return b"".join(kept), taken


def _skip(piece: bytes, kept: list[bytes], at: int, tags: tuple[bytes, bytes], limit: int) -> int:
    """Keep what stands before an element, if it begins from ``at`` to ``limit``; return where it ends, else ``at``."""
    start, end = tags
    begin = piece.find(start, at, limit)
    stop = piece.find(end, begin) if begin >= 0 else -1
    if stop < 0:
        return at
    kept.append(piece[at:begin])
    return stop + len(end)


def _take(
    piece: bytes, kept: list[bytes], at: int, tags: tuple[bytes, bytes], taken: dict[str, list[bytes]], limit: int
) -> int:
    """As ``_skip``, and note the element's bytes."""
    after = _skip(piece, kept, at, tags, limit)
    if after > at:
        taken[tags[1][2:-1].decode()] = [piece[at + len(kept[-1]) : after]]
    return after


def _record(element: Any, read: dict[str, list[Any]], skipped: Counter[str]) -> list[Citation]:
    """The citations that a child of the root element gives: one, none, or, of ``DeleteCitation``, some.

    ``read``: of a ``PubmedArticle``, what the elements said that were taken out of it.
    """
    if element.tag == "PubmedBookArticle":
        skipped["book"] += 1
    elif element.tag == "DeleteCitation":
        pmids = [(read_pmid(node), read_version(node)) for node in element.iterfind("PMID")]
        if malformed := sum(pmid is None for pmid, _ in pmids):
            skipped["malformed"] += malformed
        return [{"pmid": pmid, "version": version, "deleted": True} for pmid, version in pmids if pmid is not None]
    elif element.tag == "PubmedArticle":
        made = citation(element, read)
        if made is not None:
            return [made]
        skipped["malformed"] += 1
    return []


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


def _elements(stream: _Watched, skipped: Counter[str]) -> Iterator[Citation]:
    """The careful way: libxml2 sees every byte."""
    tags = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
    for _, element in etree.iterparse(stream, tag=tags, **_SAFE):
        if element.getparent().getparent() is not None:
            continue  # a record inside another is none: it belongs to that one's text
        yield from _record(element, {}, skipped)
        stream.record_ended()
        # Free what has been read: without this the whole tree of the file stays in memory.
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
