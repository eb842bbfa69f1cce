"""PubMed XML files to citations (``corpus/citation.py``), in a stream, in constant memory.

A file is read a block of bytes at a time, its records cut (``corpus/cut.py``), and only what was not met before is given
to libxml2. A record that is not written as NLM does is read whole. A file with a DTD of its own or another encoding, and
whatever libxml2 refuses, takes the careful way: from its start, element by element.
"""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from lxml import etree

from kailin_ray.corpus.citation import Citation, citation
from kailin_ray.corpus.garbage import no_search
from kailin_ray.corpus.grammar import END, RECORD, only_tags
from kailin_ray.corpus.parts import PARTS, Part, read_article, read_identity
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
    rb"(?:\xef\xbb\xbf)?(?:<\?xml version=.1\.0.(?: encoding=.(?i:utf-8).)?(?: standalone=.\w+.)?\s*\?>)?\s*"
    rb"(?:<!DOCTYPE [^<>\[\]]*>)?\s*<PubmedArticleSet\s*>"
)
_PARSER = etree.XMLParser(**_SAFE)
_MAX_KNOWN_BYTES = 32 << 20
"""Of XML that is remembered with what it says: about 150 MB of memory."""


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
    left = left[found.end() :]
    known = _Known()
    while True:
        more = stream.read(BLOCK_BYTES)
        end = left.rfind(END) + len(END) if END in left else 0
        if len(left) - end > MAX_RECORD_BYTES:
            raise _OddError
        if end:
            yield _read_block(left[:end], known, skipped)
        elif not more:
            break
        left = left[end:] + more
    # What follows the last record: deletions, and the end of the root element.
    yield _read_elements(b"<PubmedArticleSet>" + left, skipped)


@no_search()
def _read_block(block: bytes, known: "_Known", skipped: Counter[str]) -> list[Citation]:
    """The citations of whole records."""
    pieces = block.split(END)[:-1]
    plain = only_tags(block)
    matches = [RECORD.fullmatch(piece) if plain or only_tags(piece) else None for piece in pieces]
    parts = dict(
        zip(RECORD.groupindex, zip(*(match.groups(b"") for match in matches if match), strict=True), strict=False)
    )
    regular = map(citation, *known.read(parts))
    rows: list[Citation] = []
    for piece, match in zip(pieces, matches, strict=True):
        if not match:
            rows += _read_elements(b"".join((b"<_>", piece, END, b"</_>")), skipped)
        elif made := next(regular):
            rows.append(made)
        else:
            skipped["malformed"] += 1
    return rows


def _read_elements(xml: bytes, skipped: Counter[str]) -> list[Citation]:
    return [row for element in etree.fromstring(xml, _PARSER) for row in _record(element, skipped)]


class _Known:
    """Reads parts by their bytes, what repeats but once."""

    def __init__(self) -> None:
        self._said: dict[bytes, Any] = {}
        self._bytes = 0

    def read(self, parts: dict[str, tuple[bytes, ...]]) -> list[list[Any]]:
        """What the parts of some records say: a list for each of ``PARTS``, in their order, an entry for each record.

        ``parts``: by their tags, what ``RECORD`` found in each record, empty where there is nothing.
        """
        if self._bytes > _MAX_KNOWN_BYTES:
            self._said, self._bytes = {}, 0
        columns = [_Column(tag, part, parts.get(tag, ())) for tag, part in PARTS.items()]
        new = [column.missed(self._said) for column in columns]
        self._bytes += sum(sum(map(len, xml)) for part, xml in zip(PARTS.values(), new, strict=True) if part.repeats)
        root = etree.fromstring(b"".join((b"<_>", *chain.from_iterable(new), b"</_>")), _PARSER)
        if len(root) != sum(map(len, new)):
            raise _OddError
        nodes = iter(root)
        return [column.values(self._said, xml, nodes) for column, xml in zip(columns, new, strict=True)]


class _Column:
    """One of ``PARTS`` in some records."""

    def __init__(self, tag: str, part: Part, records: tuple[bytes, ...]):
        self._part = part
        self._lists: list[list[bytes]] | None = None
        self._elements: Sequence[bytes] = records
        if part.many or part.entries:
            end, rest = f"</{part.entries or tag}>".encode(), f"</{tag}>".encode() if part.entries else b""
            self._lists = [_split(record, end, rest) if record else [] for record in records]
            self._elements = list(chain.from_iterable(self._lists))

    def missed(self, said: dict[bytes, Any]) -> list[bytes]:
        """The elements that have to be read."""
        missed = set(self._elements).difference(said) if self._part.repeats else self._elements
        start = f"<{self._part.entries}>".encode()
        if self._part.entries and not all(one.lstrip().startswith(start) for one in missed):
            raise _OddError
        return [one for one in missed if one]

    def values(self, said: dict[bytes, Any], new: list[bytes], nodes: Iterator[Any]) -> list[Any]:
        """What each record says. ``nodes``: begin with those of the missed elements."""
        read = map(self._part.read, nodes)
        if self._part.repeats:
            said.update(zip(new, read))
            values = map(said.get, self._elements)
        else:
            values = (next(read) if one else None for one in self._elements)
        return (
            list(values)
            if self._lists is None
            else [list(islice(values, len(one))) if one else [] for one in self._lists]
        )


def _split(record: bytes, end: bytes, rest: bytes) -> list[bytes]:
    """Elements by their end tag, and behind them ``rest``."""
    *elements, found = record.split(end)
    if found.strip() != rest:
        raise _OddError
    return [element + end for element in elements]


def _record(element: Any, skipped: Counter[str]) -> list[Citation]:
    """The citations that a child of the root element gives: one, none, or, of ``DeleteCitation``, some."""
    if element.tag == "PubmedBookArticle":
        skipped["book"] += 1
    elif element.tag == "DeleteCitation":
        identities = [read_identity(node) for node in element.iterfind("PMID")]
        if malformed := sum(pmid is None for pmid, _ in identities):
            skipped["malformed"] += malformed
        return [Citation(pmid, version, deleted=True) for pmid, version in identities if pmid is not None]
    elif element.tag == "PubmedArticle":
        if made := read_article(element):
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
        yield from _record(element, skipped)
        stream.record_ended()
        # Free what has been read: without this the whole tree of the file stays in memory.
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
