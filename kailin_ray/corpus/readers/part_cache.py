"""Parts of records from their bytes: each is parsed by libxml2, what repeats once in a file."""

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
"""How libxml2 reads what nobody has vouched for."""
_PARSER = etree.XMLParser(**SAFE)
_MAX_KNOWN_BYTES = 32 << 20
"""Of XML that is remembered with what it says: about 150 MB of memory."""


class OddError(Exception):
    """Something that only the careful way can read, or refuse."""


def parse(xml: bytes) -> Any:
    """The root element. Raises lxml's ``XMLSyntaxError``."""
    return etree.fromstring(xml, _PARSER)


class Known:
    """What parts of one file say, by their bytes."""

    def __init__(self) -> None:
        self._said: dict[bytes, Any] = {}
        self._bytes = 0

    def read(self, parts: dict[str, tuple[bytes, ...]]) -> list[list[Any]]:
        """What parts of some records say: a list for each of ``PARTS``, in their order, with an entry for each record.

        ``parts``: by their tags, what ``record_pattern.RECORD`` found in each record, empty where there is nothing.
        Raises ``OddError``, or lxml's ``XMLSyntaxError``, if they are not well-formed, or not what they seem.
        """
        if self._bytes > _MAX_KNOWN_BYTES:
            self._said, self._bytes = {}, 0
        columns = [_Column(tag, part, parts.get(tag, ())) for tag, part in PARTS.items()]
        missed = [column.elements_to_parse(self._said) for column in columns]
        # One after the other. Each begins with a start tag and has that tag's end tag at its end and nowhere else, so
        # what it left open no other could close: if all is well-formed, each of them is an element by itself.
        root = parse(b"".join((b"<_>", *chain.from_iterable(missed), b"</_>")))
        if len(root) != sum(map(len, missed)):
            raise OddError
        self._bytes += sum(sum(map(len, one)) for part, one in zip(PARTS.values(), missed, strict=True) if part.repeats)
        nodes = iter(root)
        return [column.values(self._said, one, nodes) for column, one in zip(columns, missed, strict=True)]


class _Column:
    """One of ``PARTS`` in some records."""

    def __init__(self, tag: str, part: Part, records: tuple[bytes, ...]):
        self._part = part
        self._lists: list[list[bytes]] | None = None
        """Of a part that may come several times, or has entries: its elements in each record."""
        self._elements: Sequence[bytes] = records
        if part.many or part.entries:
            end, rest = f"</{part.entries or tag}>".encode(), f"</{tag}>".encode() if part.entries else b""
            self._lists = [_split_elements(record, end, rest) if record else [] for record in records]
            self._elements = list(chain.from_iterable(self._lists))

    def elements_to_parse(self, said: dict[bytes, Any]) -> list[bytes]:
        """The elements that have to be parsed."""
        missed = set(self._elements).difference(said) if self._part.repeats else self._elements
        if self._part.entries:
            start, end = f"<{self._part.entries}>".encode(), f"</{self._part.entries}".encode()
            if not all(one.lstrip().startswith(start) and one.count(end) == 1 for one in missed):
                raise OddError
        return [one for one in missed if one]

    def values(self, said: dict[bytes, Any], missed: list[bytes], nodes: Iterator[Any]) -> list[Any]:
        """What each record says. ``nodes``: begin with those of the missed elements, which are taken."""
        read = map(self._part.read, islice(nodes, len(missed)))
        if self._part.repeats:
            said.update(zip(missed, read, strict=True))
            values: Iterator[Any] = map(said.get, self._elements)
        else:
            values = (next(read) if one else None for one in self._elements)
        return (
            list(values)
            if self._lists is None
            else [list(islice(values, len(one))) if one else [] for one in self._lists]
        )


def _split_elements(record: bytes, end: bytes, rest: bytes) -> list[bytes]:
    """Elements by their end tag; behind them stands ``rest``."""
    *elements, found = record.split(end)
    if found.strip() != rest:
        raise OddError
    return [element + end for element in elements]
