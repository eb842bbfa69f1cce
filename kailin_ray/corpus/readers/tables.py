"""Tables of abstracts to citations (``corpus/readers/citation.py``), in a stream.

Which column holds what is said by name, a field inside another by dots::

    {"pmid": "pubid", "title": "question", "abstract": "context.contexts", "labels": "context.labels"}

What a cell may be: ``pmid`` is a number, or its digits. ``abstract``: a text; a list of texts, one a section, which
``labels`` may name; or a list of ``{"label", "text"}``. ``year``: a number, or a date that begins with it or holds it.
``mesh``: descriptors by name or UI, such as ``*Neoplasms``, ``Neoplasms/*therapy/genetics``, ``D009369``, or as
documents hold them. Lists are lists, or one text with ``;`` or ``|`` between. A row is version 1 of its citation.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kailin_ray.corpus.readers.citation import Citation, Date, Heading, Section, join_sections, read_date
from kailin_ray.corpus.readers.table_rows import read_table
from kailin_ray.corpus.readers.xml_text import clean
from kailin_ray.schema import Row

FIELDS = (
    "pmid", "title", "abstract", "labels", "year", "journal", "language", "mesh", "keywords", "publication_types",
    "doi", "pmcid",
)  # fmt: skip
Columns = dict[str, str]
"""The column of each field that there is; ``pmid`` among them."""

_ISO = re.compile(r"(\d{4})-(\d\d?)(?:-(\d\d?))?(?!\d)", re.ASCII)
_UI = re.compile(r"D\d{6,9}", re.ASCII)


def read_rows(path: Path, columns: Columns, skipped: Counter[str]) -> Iterator[Citation]:
    """Stream the citations of a table. Rows without a usable PMID are counted in ``skipped`` as malformed.

    Raises what ``table_rows.read_table`` does.
    """
    for row in read_table(path, list(columns.values())):
        made = row_citation(row, columns) if isinstance(row, dict) else None
        if made is None:
            skipped["malformed"] += 1
        else:
            yield made


def row_citation(row: Row, columns: Columns) -> Citation | None:
    """The citation that a row holds, None where its PMID is none."""
    cells = {field: _cell(row, name) for field, name in columns.items()}
    pmid = _pmid(cells["pmid"])
    if pmid is None:
        return None
    sections = _sections(cells.get("abstract"), cells.get("labels"))
    languages, types = _list(cells.get("language")), _list(cells.get("publication_types"))
    year, date = _date(_text(cells.get("year")))
    return Citation(
        pmid=pmid,
        version=1,
        deleted=False,
        title=_text(cells.get("title")),
        abstract=join_sections(sections),
        sections=sections,
        other_abstracts=[],
        year=year,
        date=date,
        journal=_text(cells.get("journal")),
        language=languages[0] if languages else "",
        languages=languages,
        mesh=[heading for item in _items(cells.get("mesh")) if (heading := _heading(item)).ui],
        supplementary=[],
        keywords=list(dict.fromkeys(_list(cells.get("keywords")))),
        publication_types=types,
        retracted="Retracted Publication" in types,
        notices=[],
        doi=_text(cells.get("doi")) or None,
        pmcid=_text(cells.get("pmcid")) or None,
    )


def _cell(row: Any, name: str) -> Any:
    """What a column holds: one of that very name, or a field inside another; None where there is none."""
    if name in row:
        return row[name]
    for part in name.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _pmid(cell: Any) -> int | None:
    if isinstance(cell, float) and cell.is_integer():  # as pandas writes numbers of a column with gaps
        cell = int(cell)
    digits = str(cell).strip().removesuffix(".0") if isinstance(cell, int | str) and not isinstance(cell, bool) else ""
    right = digits.isascii() and digits.isdigit() and len(digits) < 20 and 0 < int(digits) < 2**63
    return int(digits) if right else None


def _text(cell: Any) -> str:
    """A cell as one clean text; of a list its items, one after another."""
    if cell is None or isinstance(cell, dict):
        return ""
    if isinstance(cell, list | tuple):
        return " ".join(text for item in cell if (text := _text(item)))
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    # Half a surrogate pair is legal in JSON, but no text.
    return clean(str(cell).encode("utf-8", "replace").decode())


def _items(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        return re.split(r"[;|]", cell)
    return list(cell) if isinstance(cell, list | tuple) else []


def _list(cell: Any) -> list[str]:
    return [text for item in _items(cell) if (text := _text(item))]


def _sections(cell: Any, labels: Any) -> list[Section]:
    parts = cell if isinstance(cell, list | tuple) else [cell]
    named = isinstance(labels, list | tuple) and len(labels) == len(parts)
    sections: list[Section] = []
    for part, label in zip(parts, labels if named else [None] * len(parts), strict=True):
        own = part if isinstance(part, dict) else {"text": part, "label": label}
        if text := _text(own.get("text")):
            sections.append(Section(_text(own.get("label")) or None, _text(own.get("category")) or None, text))
    return sections


def _heading(item: Any) -> Heading:
    """A MeSH heading; its ``ui`` is the name where there is no other, as in PubMed's own."""
    if isinstance(item, dict):
        ui, name = _text(item.get("ui")), _text(item.get("name"))
        qualifiers, major = _list(item.get("qualifiers")), item.get("major") is True
    else:
        said = _text(item)
        name, *qualifiers = [clean(part) for part in said.replace("*", "").split("/")]
        ui, major = name if _UI.fullmatch(name) else "", "*" in said
    return Heading(ui or name, name or ui, major, tuple(one for one in qualifiers if one))


def _date(said: str) -> Date:
    if found := _ISO.match(said):
        return read_date({"Year": found[1], "Month": found[2], "Day": found[3] or ""})
    return read_date({"MedlineDate": said})
