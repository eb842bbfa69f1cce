"""Read the elements of records from their bytes. libxml2 parses each; a repeated element is parsed once per file."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from lxml import etree

from kailin_ray.corpus.readers.fields import PARTS, Part

SAFE: dict[str, bool] = {
    "resolve_entities": False,
    "no_network": True,
    "load_dtd": False,
    "huge_tree": False,
    "remove_comments": True,
    "remove_pis": True,
}
"""Options with which libxml2 reads untrusted files."""
_PARSER = etree.XMLParser(**SAFE)
_MAX_KNOWN_BYTES = 32 << 20
"""Bytes of XML that are cached with their values, which takes about 150 MB of memory."""


class OddError(Exception):
    """XML that only the full parse of a file can read or refuse."""


def parse(xml: bytes) -> Any:
    """Return the root element. Raises lxml's ``XMLSyntaxError``."""
    return etree.fromstring(xml, _PARSER)


class Known:
    """The values of the elements of one file, cached by their bytes."""

    def __init__(self) -> None:
        self._said: dict[bytes, Any] = {}
        self._bytes = 0

    def read(self, parts: dict[str, tuple[bytes, ...]]) -> list[list[Any]]:
        """Return the values of the elements of some records: a list for each of ``PARTS``, with an entry per record.

        ``parts`` has the matches of ``record_pattern.RECORD`` in each record, by tag; a match is empty if the record
        does not have the element. Raises ``OddError``, or lxml's ``XMLSyntaxError``, if a match is not well-formed or
        not a complete element.
        """
        if self._bytes > _MAX_KNOWN_BYTES:
            self._said, self._bytes = {}, 0
        columns = [_Column(tag, part, parts.get(tag, ())) for tag, part in PARTS.items()]
        missed = [column.elements_to_parse(self._said) for column in columns]
        # All elements are parsed as one document. Each begins with a start tag and has the matching end tag only at its
        # end, so no element could close a tag that another left open. If the document is well-formed, each is complete.
        root = parse(b"".join((b"<_>", *chain.from_iterable(missed), b"</_>")))
        if len(root) != sum(map(len, missed)):
            raise OddError
        self._bytes += sum(sum(map(len, xml)) for part, xml in zip(PARTS.values(), missed, strict=True) if part.repeats)
        nodes = iter(root)
        return [column.values(self._said, xml, nodes) for column, xml in zip(columns, missed, strict=True)]


class _Column:
    """The elements of one of ``PARTS`` in some records."""

    def __init__(self, tag: str, part: Part, records: tuple[bytes, ...]):
        self._part = part
        self._lists: list[list[bytes]] | None = None
        """The elements in each record, if a record may have several, or if they are entries of a list."""
        self._elements: Sequence[bytes] = records
        if part.many or part.entries:
            end, rest = f"</{part.entries or tag}>".encode(), f"</{tag}>".encode() if part.entries else b""
            self._lists = [_split_elements(record, end, rest) if record else [] for record in records]
            self._elements = list(chain.from_iterable(self._lists))

    def elements_to_parse(self, said: dict[bytes, Any]) -> list[bytes]:
        """Return the elements that are not in the cache ``said``, and so have to be parsed."""
        missed = set(self._elements).difference(said) if self._part.repeats else self._elements
        if self._part.entries:
            start, end = f"<{self._part.entries}>".encode(), f"</{self._part.entries}".encode()
            if not all(element.lstrip().startswith(start) and element.count(end) == 1 for element in missed):
                raise OddError
        return [element for element in missed if element]

    def values(self, said: dict[bytes, Any], missed: list[bytes], nodes: Iterator[Any]) -> list[Any]:
        """Return the value of each record. The parsed ``missed`` elements come first in ``nodes`` and are consumed."""
        read = map(self._part.read, islice(nodes, len(missed)))
        if self._part.repeats:
            said.update(zip(missed, read, strict=True))
            values: Iterator[Any] = map(said.get, self._elements)
        else:
            values = (next(read) if element else None for element in self._elements)
        return (
            list(values)
            if self._lists is None
            else [list(islice(values, len(elements))) if elements else [] for elements in self._lists]
        )


def _split_elements(record: bytes, end: bytes, rest: bytes) -> list[bytes]:
    """Split a record after each end tag. Raises ``OddError`` if the last end tag is not followed by ``rest``."""
    *elements, remainder = record.split(end)
    if remainder.strip() != rest:
        raise OddError
    return [element + end for element in elements]
