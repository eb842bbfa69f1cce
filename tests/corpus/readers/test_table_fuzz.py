"""Fuzz the table readers: a file is read whole and equal to what was written, or it is one line that names it.

``FUZZ_EXAMPLES`` sets the number of examples of each test; the default takes seconds.
"""

import csv
import gzip
import io
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kailin_ray.corpus.overlap.benchmark_files import read_items, read_rows
from kailin_ray.corpus.readers import tables
from kailin_ray.corpus.readers.pubmed_xml import DamagedFileError
from kailin_ray.corpus.readers.table_rows import read_table
from kailin_ray.errors import ConfigError

FUZZ = settings(
    suppress_health_check=list(HealthCheck), deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60"))
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
MISSING = st.sampled_from([None, math.nan, ""])
CELL = st.one_of(TEXT, MISSING, st.integers(-(2**53), 2**53), st.floats(), st.booleans(), st.lists(TEXT, max_size=3))
PLAIN_ROWS = st.lists(st.fixed_dictionaries({"pmid": st.integers(1, 10**8), "text": TEXT, "x": TEXT}), max_size=12)
ROWS = st.lists(
    st.fixed_dictionaries({"pmid": st.integers(1, 10**8), "text": CELL}, optional={"x": CELL}), min_size=1, max_size=12
)
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["cut", "drop", "double", "flip", "insert", "append"]),
        st.sampled_from([b'"', b"{", b"[", b"]", b"\xff", b"\0", b",", b"\n", b"1", b"\x15\x04", b"PAR1", b"[{}]"]),
    ),
    min_size=1,
    max_size=3,
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, NaN with NaN."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(type(one) is type(other) and one == other)


def as_jsonl(rows: list[Any]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def as_json(rows: list[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def as_keyed_json(rows: list[Any]) -> bytes:
    return json.dumps({str(number): row for number, row in enumerate(rows, start=1)}).encode()


def as_csv(rows: list[Any]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["pmid", "text", "x"], quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[Any]) -> bytes:
    sink = io.BytesIO()
    schema = pa.schema([("pmid", pa.int64()), ("text", pa.string()), ("x", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, row_group_size=5, compression="zstd")
    return sink.getvalue()


WRITERS = {
    ".jsonl": as_jsonl, ".json": as_json, ".keyed.json": as_keyed_json, ".csv": as_csv, ".parquet": as_parquet,
    ".jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)), ".csv.gz": lambda rows: gzip.compress(as_csv(rows)),
}  # fmt: skip


def written(folder: Path, ending: str, data: bytes) -> Path:
    path = folder / f"fuzz{ending}"
    path.write_bytes(data)
    return path


def damaged(data: bytes, damage: list[tuple[float, str, bytes]]) -> bytes:
    for share, what, piece in damage:
        at = int(share * len(data))
        match what:
            case "cut":
                data = data[:at]
            case "drop":
                data = data[:at] + data[at + 7 :]
            case "double":
                data = data[:at] + data[at // 2 : at] + data[at:]
            case "flip":
                data = data[:at] + bytes(byte ^ 32 for byte in data[at : at + 1]) + data[at + 1 :]
            case "insert":
                data = data[:at] + piece + data[at:]
            case "append":
                data += piece
    return data


@given(ROWS, st.sampled_from([".jsonl", ".json", ".jsonl.gz"]))
@FUZZ
def test_json_is_read_as_it_was_written(tmp_path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    path = written(tmp_path, ending, WRITERS[ending](rows))
    assert same(list(read_table(path, ["pmid", "text"])), rows)
    assert same([row for _, row in read_rows(path)], rows)


@given(PLAIN_ROWS, st.sampled_from(list(WRITERS)))
@FUZZ
def test_texts_are_read_as_they_were_written(tmp_path: Path, rows: list[dict[str, Any]], ending: str) -> None:
    if ending == ".keyed.json" and not rows:
        return  # an empty object may be a row, too: it is refused, as it has no column
    path = written(tmp_path, ending, WRITERS[ending](rows))
    found = list(read_table(path, ["pmid", "text", "x"]))
    if ".csv" in ending:
        found = [row | {"pmid": int(row["pmid"])} for row in found]
    assert [{key: row[key] for key in ("pmid", "text", "x")} for row in found] == rows


@given(PLAIN_ROWS, st.sampled_from(list(WRITERS)), DAMAGE)
@FUZZ
def test_a_damaged_file_is_read_to_its_end_or_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], ending: str, damage: list[tuple[float, str, bytes]]
) -> None:
    whole = WRITERS[ending](rows)
    path = written(tmp_path, ending, damaged(whole, damage))
    for read in (lambda: list(read_table(path, ["pmid"])), lambda: read_rows(path), lambda: read_items(path)):
        try:
            read()
        except (DamagedFileError, ConfigError) as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 1_500


@given(PLAIN_ROWS.filter(len), st.sampled_from(list(WRITERS)), st.floats(0, 1))
@FUZZ
def test_a_file_that_is_cut_never_has_fewer_rows(
    tmp_path: Path, rows: list[dict[str, Any]], ending: str, share: float
) -> None:
    whole = WRITERS[ending](rows)
    path = written(tmp_path, ending, whole[: int(share * (len(whole) - 1))])
    try:
        found = list(read_table(path, ["pmid"]))
    except DamagedFileError:
        return
    text = path.read_bytes()
    if ending == ".jsonl":  # it has no end mark: what is left of it is whole
        assert len(found) == sum(bool(line.strip()) for line in text.split(b"\n"))
    elif ending == ".csv":  # the same; a row is cut only within its last cell, which has no end mark if it is a number
        assert len(found) >= text.count(b"\r\n") - 1
    else:
        assert not text.strip()


TYPES = [
    pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.date32(), pa.date64(), pa.time64("ns"),
    pa.duration("ms"), pa.int64(), pa.uint64(), pa.float16(), pa.float64(), pa.binary(), pa.binary(8),
]  # fmt: skip


@given(st.sampled_from(TYPES), st.lists(st.none() | st.binary(min_size=8, max_size=8), min_size=1, max_size=5))
@FUZZ
def test_parquet_of_any_type_and_value(tmp_path: Path, kind: pa.DataType, values: list[bytes | None]) -> None:
    # The bytes themselves are the values, also those that Python's types cannot hold.
    width = 8 if pa.types.is_binary(kind) else kind.bit_width // 8
    data = b"".join((value or bytes(8))[:width] for value in values)
    mask = pa.array([value is not None for value in values])
    if pa.types.is_binary(kind):
        array = pa.array(values, kind)
    else:
        array = pa.Array.from_buffers(kind, len(values), [mask.buffers()[1], pa.py_buffer(data)])
    path = tmp_path / "fuzz.parquet"
    try:
        pq.write_table(pa.table({"pmid": list(range(1, len(values) + 1)), "text": array}), path)
    except pa.ArrowException:
        return  # not a value of Parquet
    skipped: Counter[str] = Counter()
    try:
        found = list(tables.read_rows(path, {"pmid": "pmid", "title": "text", "year": "text"}, skipped))
    except DamagedFileError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    assert [row.pmid for row in found] == list(range(1, len(values) + 1)) and not skipped
    assert [row.title for row, value in zip(found, values, strict=True) if value is None] == [""] * values.count(None)


@given(st.lists(MISSING, min_size=1, max_size=6), st.sampled_from([".jsonl", ".parquet", ".csv"]))
@FUZZ
def test_what_is_missing_is_the_same_in_every_kind_of_file(tmp_path: Path, cells: list[Any], ending: str) -> None:
    rows = [{"pmid": number, "text": cell, "x": "x"} for number, cell in enumerate(cells, start=1)]
    if ending == ".parquet":  # a column of texts has no NaN, one of numbers no empty text
        rows = [row | {"text": None if row["text"] == "" else row["text"]} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows, pa.schema([("pmid", pa.int64()), ("text", pa.float64())])),
                       tmp_path / "fuzz.parquet")  # fmt: skip
    elif ending == ".csv":
        written(
            tmp_path,
            ending,
            as_csv([row | {"text": "" if row["text"] != row["text"] else row["text"]} for row in rows]),
        )
    else:
        written(tmp_path, ending, as_jsonl(rows))
    columns = {"pmid": "pmid", "title": "text", "abstract": "text", "mesh": "text", "doi": "text", "year": "text"}
    found = list(tables.read_rows(tmp_path / f"fuzz{ending}", columns, Counter()))
    assert [(row.title, row.abstract, row.mesh, row.doi, row.year) for row in found] == [
        ("", "", [], None, None)
    ] * len(rows)
