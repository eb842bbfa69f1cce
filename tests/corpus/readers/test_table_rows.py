import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kailin_ray.corpus.readers import table_rows
from kailin_ray.corpus.readers.pubmed_xml import DamagedFileError
from kailin_ray.corpus.readers.table_rows import MissingColumnError, read_table
from kailin_ray.io import compressed

ROWS = [{"id": 1, "in": {"text": ["a", "b"]}}, {"id": 2, "in": {"text": None}}, {"id": 3, "in": None}]


def put(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(found: list[Any], **keys: Any) -> str:
    return "\n".join(json.dumps(row, **keys) for row in found)


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json", ".json.gz"])
def test_json_as_lines_and_as_an_array(tmp_path: Path, ending: str) -> None:
    for text in (
        lines(ROWS),
        lines(ROWS) + "\n\n",
        lines(ROWS, indent=1),
        json.dumps(ROWS),
        json.dumps(ROWS, indent=4),
    ):
        for mark in ("", "\ufeff", " \n"):
            path = put(tmp_path / f"t{ending}", mark + text)
            assert list(read_table(path, ["id", "in.text"])) == ROWS


def test_json_by_pmid_has_the_pmid_as_a_column(tmp_path: Path) -> None:
    path = put(tmp_path / "t.json", json.dumps({"11": {"Q": "x"}, "12": {"Q": "y"}, "13": []}))
    assert list(read_table(path, ["_key", "Q"])) == [{"_key": "11", "Q": "x"}, {"_key": "12", "Q": "y"}, []]


@pytest.mark.parametrize("text", ["", " \n", "[]", "[ ]"])
def test_no_rows_are_no_fault(tmp_path: Path, text: str) -> None:
    assert list(read_table(put(tmp_path / "t.json", text), ["id"])) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=4), max_size=12), st.booleans(), st.integers(64, 90)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_cut_rows_anywhere(
    monkeypatch: pytest.MonkeyPatch, found: list[dict[str, Any]], ascii_only: bool, chunk: int
) -> None:
    monkeypatch.setattr(table_rows, "_CHUNK", chunk)
    by_pmid = {str(number): row for number, row in enumerate(found)}
    texts: list[tuple[str, list[Any]]] = [
        (json.dumps(found, ensure_ascii=ascii_only), found),
        (lines(found, ensure_ascii=ascii_only), found),
        (json.dumps(by_pmid, indent=2), [{"_key": key} | row for key, row in by_pmid.items()]),
    ]
    for text, expected in texts[: 3 if found else 2]:
        assert list(table_rows._json_rows(io.StringIO(text))) == expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[{"id": 1}, {"id": 2}', "',' expected, found 'the end'"),
        ('{"id": 1}\n{"id": 2, "x', "value 2: Unterminated string"),
        ('[{"id": 1} {"id": 2}]', "after value 1: ',' expected, found '{'"),
        ('{"id": 1}\n{"id": tru' + " " * 100 + "}", "value 2: Expecting value"),
        ('{"1": {"id": 1}, "2" {}}', "':' expected"),
        ("[" * 100_000, "recursion"),
        ('{"id": ' + "1" * 5_000 + "}", "digits"),
        ("<html>", "value 1: Expecting value"),
        (b"\x1f", "value 1: Expecting value"),
        ('[{"id": 1}, {"id": 2}]\n[{"id": 3}]\n', "after value 2: the end expected, found '\\['"),
        ('{"1": {"id": 1}}{"2": {"id": 2}}', "after value 2: the end expected, found '{'"),
        ('[{"id": 1}] {"id": 2}', "after value 1: the end expected, found '{'"),
        (b'{"id": "\xff"}', "utf-8"),
    ],
)
def test_damaged_json_is_refused_by_name(tmp_path: Path, text: str | bytes, fault: str) -> None:
    path = put(tmp_path / "t.json", text)
    with pytest.raises(DamagedFileError, match=f"t.json: .*{fault}"):
        list(read_table(path, ["id"]))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("id,x\n1,a\n2,b,c\n", "line 3: 3 cells, but the header has 2"),
        ('id,x\n1,"a\n"\n2\n', "line 4: 1 cells, but the header has 2"),
        ('id,x\n1,"a', "after row 0: unexpected end of data"),
    ],
)
def test_a_csv_row_without_a_cell_for_each_column_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(DamagedFileError, match=f"t.csv: {fault}"):
        list(read_table(put(tmp_path / "t.csv", text), ["id"]))


def test_a_row_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_rows, "MAX_RECORD_BYTES", 1 << 19)
    for name, text in [
        ("t.jsonl", '{"id": "' + "x" * (1 << 21)),
        ("t.csv", "id\n" + "x" * (1 << 21)),
        ("t.csv", 'id\n"' + "x\n" * (1 << 21)),
    ]:
        with pytest.raises(DamagedFileError, match="more than 524,288|field larger"):
            list(read_table(put(tmp_path / name, text), ["id"]))


@pytest.mark.parametrize("ending", [".csv.gz", ".jsonl.gz", ".json.gz"])
@pytest.mark.parametrize("size", [0, 1, 2, 9, 20])
def test_the_beginning_of_a_gzip_file_is_not_a_table_without_rows(tmp_path: Path, ending: str, size: int) -> None:
    path = tmp_path / f"t{ending}"
    path.write_bytes(gzip.compress(b"id\n1\n")[:size])
    with pytest.raises(DamagedFileError, match=f"t{ending}: "):
        list(read_table(path, ["id"]))


def test_truncated_gzip_and_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "GZIP_FREE", 1 << 20)
    packed = gzip.compress(lines(ROWS * 2_000).encode())
    with pytest.raises(DamagedFileError, match="ended before"):
        list(read_table(put(tmp_path / "t.jsonl", packed[:-20]), ["id"]))
    with pytest.raises(DamagedFileError, match="gzip bomb"):
        list(read_table(put(tmp_path / "t.jsonl.gz", b"{}" + b" " * (2 << 20)), []))


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_gives_texts_as_they_were(tmp_path: Path, cells: list[tuple[str, str]]) -> None:
    # A lone surrogate is no UTF-8; a carriage return or NUL needs quotes, which the writer gives.
    cells = [(a.replace("\0", ""), b.replace("\0", "")) for a, b in cells]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "text"), *cells])
    found = list(read_table(tmp_path / "t.csv", ["id", "text"]))
    assert found == [{"id": a, "text": b} for a, b in cells]


def test_a_required_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "t.csv", "id,text,id,other,other\n1,a,2,b,c\n")
    columns = [pa.array(column) for column in ([1], ["a"], [2], ["b"], ["c"])]
    pq.write_table(pa.table(columns, names=["id", "text", "id", "other", "other"]), tmp_path / "t.parquet")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DamagedFileError, match=rf"{path.name}: 2 columns have the name 'id'; rename all but one"):
            list(read_table(path, ["id", "text"]))
        assert [row["text"] for row in read_table(path, ["text"])] == ["a"]


def test_blanks_in_the_names_of_columns_are_shown(tmp_path: Path) -> None:
    with pytest.raises(MissingColumnError, match="no column 'text'; there are: id, ' text'$"):
        list(read_table(put(tmp_path / "t.csv", "id, text\n1, a\n"), ["id", "text"]))


def test_parquet_gives_the_wanted_columns(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([row | {"other": 1} for row in ROWS]), tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet", ["id", "in.text"])) == ROWS
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-30])
    with pytest.raises(DamagedFileError, match=r"bad.parquet: "):
        list(read_table(tmp_path / "bad.parquet", ["id"]))


def test_a_column_may_come_late_but_not_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for num_rows, size in [(table_rows.ROWS_TO_JUDGE - 1, 0), (table_rows.ROWS_TO_JUDGE, 0), (10, 1 << 18)]:
        monkeypatch.setattr(table_rows, "BYTES_TO_JUDGE", 1 << 20)
        found = [{"id": 1, "x": "x" * size}] * num_rows + [{"id": 2, "late": 1}]
        path = put(tmp_path / "t.jsonl.gz", lines(found))
        if num_rows < table_rows.ROWS_TO_JUDGE and not size:
            assert list(read_table(path, ["id", "late"])) == found
        else:
            with pytest.raises(MissingColumnError, match="no column 'late'"):
                list(read_table(path, ["id", "late"]))


def as_json(path: Path) -> Path:
    return put(path.with_suffix(".jsonl"), lines(ROWS))


def as_csv(path: Path) -> Path:
    return put(path.with_suffix(".csv.gz"), "id,in.text\n1,a\n")


def as_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("made", [as_json, as_csv, as_parquet])
def test_a_missing_column_is_named_with_what_is_there(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    path = made(tmp_path / "t")
    assert len(list(read_table(path, ["id", "in.text"]))) in (1, 3)
    for missing in ("pmid", "in.title", "id.text"):
        with pytest.raises(MissingColumnError, match=rf"no column '{missing}'; there are: id, .*in.text"):
            list(read_table(path, ["id", missing]))
