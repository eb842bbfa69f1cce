"""Read files that hold MeSH into descriptors.

A descriptor, as every reader yields it::

    Descriptor("D003924", "Diabetes Mellitus, Type 2", ("C18.452.394.750.149", "C19.246.300"), ("NIDDM", ...))

There are four kinds of file, with or without gzip, and they are recognised by content, never by name: NLM's descriptor
XML (``desc2025.xml``), NLM's tree list (``mtrees2025.bin``; it has only names, so the name is the UI), OBO with tree
numbers, and a tab-separated table.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import obonet
from lxml import etree

from kailin_ray.io.compressed import RecordStream, open_unpacked, read_lines

MAX_RECORD_BYTES = 16 << 20
"""Maximum size of a descriptor's XML, and of a line of a table or tree list."""
MAX_OBO_CHARACTERS = 256 << 20
"""Maximum size of an OBO file, which is read at once."""


@dataclass(frozen=True, order=True)
class Descriptor:
    """One descriptor of MeSH; tree numbers and entry terms are sorted and unique."""

    ui: str
    name: str
    tree_numbers: tuple[str, ...] = ()
    entry_terms: tuple[str, ...] = ()
    """Other names for it, without ``name``."""


def descriptor(ui: str, name: str, tree_numbers: Iterable[str] = (), entry_terms: Iterable[str] = ()) -> Descriptor:
    """Return a descriptor with sorted lists, and without white space around its strings."""
    trees = tuple(sorted({tree.strip() for tree in tree_numbers} - {""}))
    terms = tuple(sorted({term.strip() for term in entry_terms} - {"", name.strip()}))
    return Descriptor(ui.strip(), name.strip(), trees, terms)


def read_descriptors(path: Path) -> Iterator[Descriptor]:
    """Stream the descriptors of a file of any of the four kinds.

    Raises ``ValueError`` that says what is wrong and, if known, in which line; ``OSError`` if the file cannot be
    opened.
    """
    try:
        with open_unpacked(path) as stream:
            head = stream.read(1 << 16)
        if not head.strip():
            raise ValueError("the file is empty")
        kind = _kind(head)
        if kind is None:
            raise ValueError(
                "not MeSH: neither descriptor XML, nor a tree list (name;tree number), nor OBO, nor a table with tabs"
            )
        with open_unpacked(path) as stream:
            yield from _READERS[kind](stream)
    except (etree.XMLSyntaxError, gzip.BadGzipFile, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"damaged: {' '.join(str(error).split()) or type(error).__name__}") from error


_TREE_LINE = re.compile(rb"[^\t\n]+;[A-Z]\d+(\.\d+)*\s*(\n|$)")


def _kind(head: bytes) -> str | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<"):
        return "xml"
    if start.startswith(b"format-version:") or b"\n[Term]" in b"\n" + start:
        return "obo"
    if _TREE_LINE.match(start):
        return "mtrees"
    return "table" if b"\t" in start.partition(b"\n")[0] else None


# Nothing outside the file is read, no entity is expanded, and libxml2's limits stop an XML bomb.
_SAFE: dict[str, bool] = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False}


def _read_xml(stream: BinaryIO) -> Iterator[Descriptor]:
    watched = RecordStream(stream, "XML", MAX_RECORD_BYTES)
    _, root = next(etree.iterparse(watched, events=("start",), **_SAFE))
    if root.tag != "DescriptorRecordSet":
        raise ValueError(f"not MeSH: its root element is <{root.tag}>, not <DescriptorRecordSet>")
    stream.seek(0)
    watched.record_ended()
    for _, element in etree.iterparse(watched, tag="DescriptorRecord", **_SAFE):
        if next(element.iter(etree.Entity), None) is not None:
            raise ValueError(f"line {element.sourceline}: a descriptor with an entity that the file defines")
        ui, name = element.findtext("DescriptorUI", ""), element.findtext("DescriptorName/String", "")
        if not ui.strip() or not name.strip():
            raise ValueError(f"line {element.sourceline}: a descriptor without UI or name")
        trees = (node.text or "" for node in element.iterfind("TreeNumberList/TreeNumber"))
        terms = (node.text or "" for node in element.iterfind("ConceptList/Concept/TermList/Term/String"))
        yield descriptor(ui, name, trees, terms)
        watched.record_ended()
        element.clear()
        while element.getprevious() is not None:  # frees the memory of earlier elements
            del element.getparent()[0]


def _read_mtrees(stream: BinaryIO) -> Iterator[Descriptor]:
    trees: dict[str, list[str]] = {}
    for number, line in enumerate(read_lines(io.TextIOWrapper(stream, "utf-8-sig"), MAX_RECORD_BYTES), start=1):
        if line.strip():
            name, semicolon, tree = line.strip().rpartition(";")
            if not semicolon or not name:
                raise ValueError(f"line {number}: expected name;tree number, got {line.strip()[:60]!r}")
            trees.setdefault(name, []).append(tree)
    for name, tree_numbers in trees.items():
        yield descriptor(name, name, tree_numbers)


_SYNONYM = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TREE_PROPERTY = re.compile(r'\S{0,200}?tree_?number\S{0,20}?[\s:]\s*"?([^"\s]+)', re.IGNORECASE)
_SUPPLEMENTARY = re.compile(r"C\d{6,}")


def _read_obo(stream: BinaryIO) -> Iterator[Descriptor]:
    # Tree numbers are in a property_value or an xref called tree_number or treeNumber. They cannot be derived from
    # is_a, which links descriptors but does not say which of their places are linked.
    text = io.TextIOWrapper(stream, "utf-8-sig").read(MAX_OBO_CHARACTERS + 1)
    if len(text) > MAX_OBO_CHARACTERS:
        raise ValueError(f"OBO of more than {MAX_OBO_CHARACTERS:,} characters")
    duplicates = [ui for ui, number in Counter(_term_ids(text)).items() if number > 1]
    if duplicates:  # obonet would silently keep the last one
        raise ValueError(f"UI given twice: {', '.join(sorted(duplicates)[:5])}")
    try:
        graph = obonet.read_obo(io.StringIO(text))
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"damaged: {' '.join(str(error).split())[:200]}") from error
    any_tree = False
    for identifier, term in graph.nodes(data=True):
        ui = str(identifier).rpartition(":")[2]
        if not term or _SUPPLEMENTARY.fullmatch(ui):  # only referred to by other terms, or a supplementary concept
            continue
        matches = [_TREE_PROPERTY.match(value) for value in (*term.get("property_value", ()), *term.get("xref", ()))]
        trees = [match[1] for match in matches if match]
        any_tree |= bool(trees)
        terms = [_SYNONYM.match(value) for value in term.get("synonym", ())]
        yield descriptor(ui, term.get("name", ui), trees, (_unescape(match[1]) for match in terms if match))
    if not any_tree:
        raise ValueError("no tree numbers: OBO must carry them as property_value: tree_number or as xref")


def _term_ids(text: str) -> Iterator[str]:
    in_term = False
    for line in text.splitlines():
        if line.startswith("["):
            in_term = line.startswith("[Term]")
        elif in_term and line.startswith("id:"):
            yield line.removeprefix("id:").strip()
            in_term = False


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _read_table(stream: BinaryIO) -> Iterator[Descriptor]:
    # The columns are named by a header. Without one, they are UI, name, entry terms, tree numbers.
    columns = ["descriptor_ui", "name", "entry_terms", "tree_numbers"]
    text = read_lines(io.TextIOWrapper(stream, "utf-8-sig", newline=""), MAX_RECORD_BYTES)
    lines = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, fields in enumerate(lines, start=1):
        if number == 1 and "descriptor_ui" in fields:
            columns = fields
            continue
        if not any(fields):
            continue
        row = dict(zip(columns, fields, strict=False))
        if not {"descriptor_ui", "name", "tree_numbers"} <= row.keys() or not row["descriptor_ui"]:
            raise ValueError(f"line {number}: expected the columns {', '.join(columns)}, got {fields[:4]!r}")
        trees, terms = row["tree_numbers"].split("|"), row.get("entry_terms", "").split("|")
        yield descriptor(row["descriptor_ui"], row["name"], trees, terms)


_READERS = {"xml": _read_xml, "mtrees": _read_mtrees, "obo": _read_obo, "table": _read_table}
