"""Read tables of abstracts as a stream of citations (``corpus/readers/citation.py``).

The columns of the fields are given by name; dots name a field inside another::

    {"pmid": "pubid", "title": "question", "abstract": "context.contexts", "labels": "context.labels"}

``pmid`` is a number, or a text of its digits. ``abstract`` is a text; or a list of texts, one per section, which
``labels`` may name; or a list of ``{"label", "text"}``. ``year`` is a number, or a date that begins with or contains
the year. ``mesh`` lists descriptors by name or UI, such as ``*Neoplasms``, ``Neoplasms/*therapy/genetics``,
``D009369``, or in the form of documents. A list is a list, or one text with ``;`` or ``|`` between the items. Each row
is version 1 of its citation.
"""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
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
"""The column of each field that the table has; ``pmid`` is required."""

_ISO = re.compile(r"(\d{4})-(\d\d?)(?:-(\d\d?))?(?!\d)", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}(\.0*)?|\d\.\d{1,18}[eE]\+?\d{1,2}", re.ASCII)
_UI = re.compile(r"D\d{6,9}", re.ASCII)


def read_rows(path: Path, columns: Columns, skipped: Counter[str]) -> Iterator[Citation]:
    """Stream the citations of a table. Rows without a valid PMID are counted in ``skipped`` as malformed.

    Raises the same errors as ``table_rows.read_table``.
    """
    for row in read_table(path, list(columns.values())):
        citation = row_citation(row, columns) if isinstance(row, dict) else None
        if citation is None:
            skipped["malformed"] += 1
        else:
            yield citation


def row_citation(row: Row, columns: Columns) -> Citation | None:
    """Return the citation of a row; None if its PMID is not valid."""
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
    """Return the cell of a column with exactly this name, or of a field inside another; None if there is none."""
    if name in row:
        return None if is_missing(row[name]) else row[name]
    for key in name.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return None if is_missing(row) else row


def is_missing(cell: Any) -> bool:
    """Return whether a cell has no value: None, NaN, or pandas' NaT, which differ from themselves."""
    return cell is None or (not isinstance(cell, str | bytes | list | tuple | dict) and bool(cell != cell))


def _pmid(cell: Any) -> int | None:
    """Return a whole number in any form that programs write: 7, "7", b"7", 7.0, Decimal("7.00"), "1.2345678E7"."""
    if isinstance(cell, bytes):  # Parquet of programs that do not mark texts as UTF-8
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, bool) or not isinstance(cell, int | float | str | Decimal):
        return None
    text = str(cell).strip()
    number = Decimal(text) if _NUMBER.fullmatch(text) else Decimal(0)
    return int(number) if number == number.to_integral_value() and 0 < number < 2**63 else None


def _text(cell: Any) -> str:
    """Return a cell as one clean text; the items of a list are joined by spaces."""
    if is_missing(cell) or isinstance(cell, dict):
        return ""
    if isinstance(cell, list | tuple):
        return " ".join(text for item in cell if (text := _text(item)))
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    # Half a surrogate pair is legal in JSON, but is not valid text.
    return clean(str(cell).encode("utf-8", "replace").decode())


def _items(cell: Any) -> list[Any]:
    if isinstance(cell, str):
        return re.split(r"[;|]", cell)
    return list(cell) if isinstance(cell, list | tuple) else []


def _list(cell: Any) -> list[str]:
    return [text for item in _items(cell) if (text := _text(item))]


def _sections(cell: Any, labels: Any) -> list[Section]:
    items = cell if isinstance(cell, list | tuple) else [cell]
    has_labels = isinstance(labels, list | tuple) and len(labels) == len(items)
    sections: list[Section] = []
    for item, label in zip(items, labels if has_labels else [None] * len(items), strict=True):
        section = item if isinstance(item, dict) else {"text": item, "label": label}
        if text := _text(section.get("text")):
            sections.append(Section(_text(section.get("label")) or None, _text(section.get("category")) or None, text))
    return sections


def _heading(item: Any) -> Heading:
    """Return a MeSH heading. Without a UI, its ``ui`` is the name, as for PubMed's headings."""
    if isinstance(item, dict):
        ui, name = _text(item.get("ui")), _text(item.get("name"))
        qualifiers, major = _list(item.get("qualifiers")), item.get("major") is True
    else:
        heading = _text(item)
        name, *qualifiers = [clean(piece) for piece in heading.replace("*", "").split("/")]
        ui, major = name if _UI.fullmatch(name) else "", "*" in heading
    return Heading(ui or name, name or ui, major, tuple(qualifier for qualifier in qualifiers if qualifier))


def _date(date: str) -> Date:
    if iso := _ISO.match(date):
        return read_date({"Year": iso[1], "Month": iso[2], "Day": iso[3] or ""})
    return read_date({"MedlineDate": date})
