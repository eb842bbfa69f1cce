"""Read the questions and PMIDs of benchmarks from the files that they are published in.

These are JSON, JSON lines, CSV or Parquet files, and each may be gzipped. Benchmarks are recognised by their keys and
columns: PubMedQA (``QUESTION`` by PMID, or ``question`` and ``pubid``; its ground truth has only PMIDs), BioASQ
(``body``, and PMIDs in the URLs of its ``documents``), MedQA, MedMCQA and MMLU, whose CSV files have no header. An
unknown file is refused, because reading it as empty would let all its questions through.
"""

import csv
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kailin_ray.corpus.readers.parquet_rows import parquet_rows
from kailin_ray.errors import ConfigError
from kailin_ray.io.compressed import open_unpacked

QUESTION_KEYS = ("question", "body", "stem", "sent1", "query", "prompt", "input")
"""Case does not matter. The first of these keys that an item has is its question."""
PMID_KEYS = ("pmid", "pmids", "pubid", "pubmed_id")
LIST_KEYS = ("questions", "data", "examples", "items", "rows")
"""Keys under which a JSON object may hold its list of items."""
MAX_FILE_BYTES = 256 << 20
"""Maximum size of a benchmark file, unpacked, and of the rows of a Parquet file; it is read at once."""
MAX_VALUES = 1 << 24
"""Maximum number of values in a file of text; an empty one takes a hundred bytes of memory."""
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
ALLOWED = (
    f"allowed: {', '.join(SUFFIXES)}, each also .gz, with a question ({', '.join(QUESTION_KEYS)}) or PMIDs "
    f"({', '.join(PMID_KEYS)}, pubmed URLs, the keys of a JSON object), or CSV like MMLU: question, options, letter"
)

_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    RecursionError,
    csv.Error,
    zlib.error,
    pa.ArrowException,
)
_SPACE = " \t\r"
"""JSON's white space; Python's has more."""
_PMID = re.compile(r"[1-9]\d{0,7}")
_URL = re.compile(r"https?://\S*pubmed\S*?/(\d{1,8})/?", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """One item of a benchmark. ``question`` is empty if the file has only PMIDs."""

    id: str
    question: str
    texts: tuple[str, ...]
    """All texts of the item: the question, its options, answers, explanations, contexts."""
    pmids: tuple[int, ...]


def read_items(path: Path) -> list[Item]:
    """Return the items of a benchmark file. Raises ``ConfigError`` that names the file and says what is allowed."""
    rows = read_rows(path)
    with _readable(path):
        items = [_item(str(number), key, value) for number, (key, value) in enumerate(rows, 1)]
    lacking = [item for item in items if not item.question and not item.pmids]
    if lacking or not items:
        keys = sorted({key for _, value in rows if isinstance(value, dict) for key in value})[:12]
        raise ConfigError(
            f"{path}: {len(lacking)} of its {len(items)} items have neither question nor PMID, "
            f"such as item {lacking[0].id if lacking else 'none'}; keys found: {', '.join(keys) or 'none'}; {ALLOWED}"
        )
    return items


def read_rows(path: Path) -> list[tuple[str, Any]]:
    """Return the rows of a file, each with its key in the file or "". Raises ``ConfigError`` like ``read_items``."""
    with _readable(path):
        return list(_rows(path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        message = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{path}: cannot be read as a benchmark: {message}; {ALLOWED}") from error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"its name ends in {suffix or 'no suffix'}")
    with open_unpacked(path) as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES:,} bytes")
    if suffix == ".parquet":
        return (("", row) for row in parquet_rows(io.BytesIO(data), most=MAX_FILE_BYTES))
    num_values = sum(map(data.count, (b"{", b"[", b",", b"\n")))
    if num_values > MAX_VALUES:
        raise ValueError(f"about {num_values:,} values; allowed: {MAX_VALUES:,}")
    text = data.decode("utf-8-sig")
    if suffix == ".csv":
        return (("", row) for row in _csv(text))
    if suffix == ".json":
        try:
            return _list_items(json.loads(text))
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # MedMCQA's .json files are JSON lines
                raise
    # splitlines would also split at separators inside a text, such as U+2028.
    return (("", _line(number, line)) for number, line in enumerate(text.split("\n"), 1) if line.strip(_SPACE))


def _line(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}: {error}") from error


def _list_items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        return (("", item) for item in value)
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__}, not a list or an object")
    if any(key.lower() in QUESTION_KEYS for key in value):
        return iter([("", value)])
    for key in LIST_KEYS:
        if isinstance(value.get(key), list):
            return (("", item) for item in value[key])
    if _holds_several(value):
        return (pair for group in value.values() for pair in _list_items(group))
    numbers = sorted(int(key) for key in value if _PMID.fullmatch(key) or key == "0")
    # Keys 1, 2, 3, ... are item numbers. Read as PMIDs, they would remove the first PMIDs from the corpus.
    are_pmids = (
        bool(numbers) and len(numbers) == len(value) and numbers != list(range(numbers[0], numbers[0] + len(numbers)))
    )
    return ((key, {"pmid": key, "item": item} if are_pmids else item) for key, item in value.items())


def _holds_several(value: dict[str, Any]) -> bool:
    """Return whether an object holds several benchmarks: each value holds items, and none is an item itself."""
    return bool(value) and all(map(_is_group, value.values()))


def _is_group(value: Any) -> bool:
    return isinstance(value, dict | list) and not _is_item(value) and any(map(_is_item, _values(value)))


def _is_item(value: Any) -> bool:
    return isinstance(value, dict) and any(key.lower() in (*QUESTION_KEYS, *PMID_KEYS) for key in value)


def _values(group: Any) -> Any:
    return group.values() if isinstance(group, dict) else group


def _csv(text: str) -> Iterator[dict[str, str]]:
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if set(header) & {*QUESTION_KEYS, *PMID_KEYS}:
        for number, row in enumerate(rows[1:], start=1):
            if len(row) != len(header):
                raise ValueError(f"item {number}: {len(row)} cells, but the header has {len(header)}")
        return (dict(zip(header, row, strict=True)) for row in rows[1:])
    if not all(len(row) == len(header) >= 4 and re.fullmatch("[A-Z]", row[-1].strip()) for row in rows):
        raise ValueError("its first line names no column of questions or PMIDs, and it is not a CSV file like MMLU's")
    return ({"question": row[0], **{str(i): cell for i, cell in enumerate(row[1:])}} for row in rows)


def _item(number: str, key: str, value: Any) -> Item:
    strings = list(_strings(value))
    candidates = {name: text for name, text in reversed(strings) if name in QUESTION_KEYS and text.strip()}
    question = next((candidates[name] for name in QUESTION_KEYS if name in candidates), "")
    pmids = {int(text) for name, text in strings if name in PMID_KEYS and _PMID.fullmatch(text)}
    pmids |= {int(url[1]) for _, text in strings if (url := _URL.fullmatch(text))}
    values = dict(reversed(strings))
    name = key or values.get("id") or values.get("pmid") or values.get("pubid") or number
    texts = tuple(text for _, text in strings if " " in text.strip())
    return Item(name, question, texts, tuple(sorted(pmids)))


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield all strings and whole numbers inside a JSON value, in order, each with the nearest key above it."""
    pending = [("", value)]
    while pending:
        key, value = pending.pop()
        if isinstance(value, dict):
            pending.extend((str(name).lower(), inner) for name, inner in reversed(value.items()))
        elif isinstance(value, list | tuple):
            pending.extend((key, inner) for inner in reversed(value))
        elif isinstance(value, str):
            yield key, value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield key, str(value)
