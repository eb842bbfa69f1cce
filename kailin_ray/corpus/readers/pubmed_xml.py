"""Read PubMed XML files as a stream of citations (``citation.py``), in constant memory.

Two thirds of a file are authors, references and histories, which are not needed. MeSH headings, journals and
publication types repeat. So a file is read one block of bytes at a time. A regular expression cuts each record into
elements, still as bytes (``record_pattern.py``), and repeated elements are parsed only once (``part_cache.py``). A
record that does not have NLM's form is parsed whole. A file with its own DTD or another encoding, or one that libxml2
refuses, is parsed in full: from its start, element by element. All three ways use the same definitions of elements
(``fields.py``).
"""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from lxml import etree

from kailin_ray.corpus.readers.citation import Citation, citation
from kailin_ray.corpus.readers.escapes import unescape_citation
from kailin_ray.corpus.readers.fields import read_article, read_identity
from kailin_ray.corpus.readers.gc_pause import no_search
from kailin_ray.corpus.readers.part_cache import SAFE, Known, OddError, parse
from kailin_ray.corpus.readers.record_pattern import END, RECORD, only_tags
from kailin_ray.io.compressed import RecordStream, open_unpacked

MAX_RECORD_BYTES = 16 << 20
"""Maximum size of a record's XML, and of the XML between two records. The parser holds it in memory. Papers with 15,000
authors take about 6 MiB."""
BLOCK_BYTES = 1 << 19
UNESCAPED = "unescaped"
"""Key of the count of citations whose texts were escaped twice."""

_HEAD = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:<\?xml version=.1\.0.(?: encoding=.(?i:utf-8).)?(?: standalone=.\w+.)?\s*\?>)?\s*"
    rb"(?:<!DOCTYPE [^<>\[\]]*>)?\s*<PubmedArticleSet\s*>"
)


class DamagedFileError(ValueError):
    """A file that cannot be read to its end, or is not PubMed XML; the message names the file and the error."""


def read_citations(path: Path, skipped: Counter[str]) -> Iterator[Citation]:
    """Stream the citations of one PubMed XML file (``.xml`` or ``.xml.gz``) in order.

    A ``DeleteCitation`` yields rows with ``deleted`` true and no text. Records that are not usable citations are
    counted by reason in ``skipped``. It also counts citations that were escaped twice, as ``UNESCAPED``. Entities are
    never expanded, and nothing outside the file is read.

    Raises ``DamagedFileError`` if the file is truncated, not well-formed or not a ``PubmedArticleSet``. Unused
    elements, such as authors and references, may not be checked. Also raises it if the file would fill the memory,
    such as a gzip bomb, or a record of more than ``MAX_RECORD_BYTES``.
    """
    try:
        with open_unpacked(path) as stream:
            _, root = next(etree.iterparse(_Watched(path, stream), events=("start",), **SAFE))
        if root.tag != "PubmedArticleSet":
            raise DamagedFileError(f"{path}: not PubMed XML: its root element is <{root.tag}>, not <PubmedArticleSet>")
        counts: Counter[str] = Counter()
        num_yielded = 0
        try:
            with open_unpacked(path) as stream:
                for rows in _blocks(stream, counts):
                    num_yielded += len(rows)
                    yield from rows
        except (OddError, etree.XMLSyntaxError):
            counts = Counter()
            with open_unpacked(path) as stream:
                yield from islice(_elements(_Watched(path, stream), counts), num_yielded, None)
        skipped.update(counts)
    except (etree.XMLSyntaxError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedFileError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _blocks(stream: BinaryIO, skipped: Counter[str]) -> Iterator[list[Citation]]:
    """Yield the citations block by block.

    Raises ``OddError`` or lxml's ``XMLSyntaxError`` at a block that needs the full parse.
    """
    buffer = stream.read(BLOCK_BYTES)
    head = _HEAD.match(buffer)
    if not head:
        raise OddError
    buffer = buffer[head.end() :]
    known = Known()
    while True:
        more = stream.read(BLOCK_BYTES)
        end = buffer.rfind(END) + len(END) if END in buffer else 0
        if len(buffer) - end > MAX_RECORD_BYTES:
            raise OddError
        if end:
            yield _read_block(buffer[:end], known, skipped)
        elif not more:
            break
        buffer = buffer[end:] + more
    # After the last record come deletions and the end of the root element.
    yield _read_elements(b"<PubmedArticleSet>" + buffer, skipped)


@no_search()
def _read_block(block: bytes, known: Known, skipped: Counter[str]) -> list[Citation]:
    """Return the citations of a block of complete records."""
    pieces = block.split(END)[:-1]
    plain = only_tags(block)
    matches = [RECORD.fullmatch(piece) if plain or only_tags(piece) else None for piece in pieces]
    groups = zip(*(match.groups(b"") for match in matches if match), strict=True)
    of_nlms_form = map(citation, *known.read(dict(zip(RECORD.groupindex, groups, strict=False))))
    rows: list[Citation] = []
    for piece, match in zip(pieces, matches, strict=True):
        if not match:
            rows += _read_elements(b"".join((b"<_>", piece, END, b"</_>")), skipped)
        elif row := next(of_nlms_form):
            rows.append(_unescape(row, skipped))
        else:
            skipped["malformed"] += 1
    return rows


def _read_elements(xml: bytes, skipped: Counter[str]) -> list[Citation]:
    return [row for element in parse(xml) for row in _record(element, skipped)]


def _record(element: Any, skipped: Counter[str]) -> list[Citation]:
    """Return the citations of a child of the root element: at most one, or any number for ``DeleteCitation``."""
    if element.tag == "PubmedBookArticle":
        skipped["book"] += 1
    elif element.tag == "DeleteCitation":
        identities = [read_identity(node) for node in element.iterfind("PMID")]
        if malformed := sum(pmid is None for pmid, _ in identities):
            skipped["malformed"] += malformed
        return [Citation(pmid, version, deleted=True) for pmid, version in identities if pmid is not None]
    elif element.tag == "PubmedArticle":
        if row := read_article(element):
            return [_unescape(row, skipped)]
        skipped["malformed"] += 1
    return []


def _unescape(row: Citation, counts: Counter[str]) -> Citation:
    unescaped = unescape_citation(row)
    if unescaped is None:
        return row
    counts[UNESCAPED] += 1
    return unescaped


class _Watched(RecordStream):
    """The stream of a PubMed XML file."""

    error = DamagedFileError

    def __init__(self, path: Path, stream: BinaryIO):
        super().__init__(stream, str(path), MAX_RECORD_BYTES)


def _elements(stream: _Watched, skipped: Counter[str]) -> Iterator[Citation]:
    """Yield citations by the full parse, in which libxml2 reads every byte."""
    tags = ("PubmedArticle", "PubmedBookArticle", "DeleteCitation")
    for _, element in etree.iterparse(stream, tag=tags, **SAFE):
        if element.getparent().getparent() is not None:
            continue  # a record inside another record belongs to the outer one's text
        yield from _record(element, skipped)
        stream.record_ended()
        # Free the elements already read; otherwise the whole tree of the file stays in memory.
        element.clear()
        while element.getprevious() is not None:
            del element.getparent()[0]
