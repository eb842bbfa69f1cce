"""Each file that is too large is read in a process of its own, whose memory is limited by the kernel."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kailin_ray.corpus.readers import parquet_rows as module
from kailin_ray.corpus.readers.parquet_pages import read_pages
from kailin_ray.corpus.readers.parquet_rows import TooLargeError, parquet_rows, row_sizes

READ = """
import resource, sys
from collections import Counter
from pathlib import Path
import pyarrow as pa
from kailin_ray.errors import ConfigError
from kailin_ray.corpus.overlap.benchmark_files import read_items
from kailin_ray.corpus.readers.tables import read_rows
path, before = Path(sys.argv[1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    if sys.argv[2] == "table":
        print(sum(1 for _ in read_rows(path, {"pmid": "pmid", "abstract": "text"}, Counter())))
    else:
        print(len(read_items(path)))
except ValueError as error:
    print(type(error).__name__, error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def read(path: Path, reader: str) -> tuple[str, int]:
    """What a fresh process reads, and the MiB of memory that it took for it."""
    done = subprocess.run([sys.executable, "-c", READ, path, reader], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said, mib = done.stdout.splitlines()
    return said, int(mib)


def shared(path: Path) -> None:
    """60 rows that share one text of 100 MB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), ["x" * 100_000_000])
    table = pa.table({"pmid": list(range(1, 61)), "text": texts})
    pq.write_table(table, path, compression="zstd", store_schema=False)


def shared_in_lists(path: Path) -> None:
    """One row, a list of 10,000 times the same text of 1 MB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), ["x" * 1_000_000])
    table = pa.table({"pmid": [1], "text": pa.ListArray.from_arrays([0, 10_000], texts)})
    pq.write_table(table, path, compression="zstd", store_schema=False)


def many_items(path: Path) -> None:
    """One row, a list of 100 million nulls."""
    table = pa.table({"pmid": [1], "text": pa.ListArray.from_arrays([0, 100_000_000], pa.nulls(100_000_000))})
    pq.write_table(table.cast(pa.schema([("pmid", pa.int64()), ("text", pa.list_(pa.int8()))])), path)


def plain(path: Path) -> None:
    """One page of 300 MB, of long texts that are not in a dictionary."""
    schema = pa.schema([("pmid", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(pa.table({"pmid": [1, 2, 3], "text": ["x" * 100_000_000] * 3}))


def wide(path: Path) -> None:
    """60 rows that share one value of 30 MB whose size is fixed: such columns are not read as dictionaries."""
    values = pa.array([b"x" * 30_000_000] * 60, pa.binary(30_000_000))
    pq.write_table(pa.table({"pmid": list(range(1, 61)), "text": values}), path)


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (shared, r"row 1: 100,000,\d+ bytes \(100,000,\d+ in column 'text'\); allowed: 16,777,216"),
        (shared_in_lists, r"row 1: 10,000,\d+,\d+ bytes .* in column 'text'\); allowed: 16,777,216"),
        (many_items, r"row group 1: lists of .* in column 'text.list.element'\); allowed: 1,073,741,824"),
        (plain, r"row group 1: pages of .* in column 'text'\); allowed: 268,435,456"),
        (wide, r"row 1: 30,000,\d+ bytes .* in column 'text'\); allowed: 16,777,216"),
    ],
)
def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path: Path, make: Any, fault: str) -> None:
    path = tmp_path / "bomb.parquet"
    # Its own process, because a child's peak of memory begins with its parent's.
    script = f"from {__name__} import *; {make.__name__}(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert path.stat().st_size < 2 << 20
    for reader in ("table", "benchmark"):
        said, mib = read(path, reader)
        assert re.match(rf"(DamagedFileError|ConfigError) .*bomb.parquet: .*{fault}", said), said
        assert mib < 900


def test_a_benchmark_of_more_rows_than_fit_is_refused(tmp_path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), ["x" * 10_000_000])
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"question": texts}), path, compression="zstd", store_schema=False)
    said, mib = read(path, "benchmark")
    assert "b.parquet: cannot be read as a benchmark: the rows take more than 268,435,456 bytes" in said
    assert mib < 900
    (tmp_path / "b.json").write_bytes(b"[" + b"{}," * (1 << 23) + b"{}]")
    said, mib = read(tmp_path / "b.json", "benchmark")
    assert re.search(r"b.json: cannot be read as a benchmark: about 16,777,21\d values; allowed: 16,777,216", said)
    assert mib < 200
    with gzip.open(tmp_path / "b.csv.gz", "wb") as sink:
        sink.writelines([np.random.default_rng(1).bytes(3 << 20), *[b" " * (1 << 20)] * 257])
    said, mib = read(tmp_path / "b.csv.gz", "benchmark")
    assert "b.csv.gz: cannot be read as a benchmark: more than 268,435,456 bytes" in said
    assert mib < 900


KINDS = st.recursive(
    st.sampled_from([
        pa.string(), pa.large_string(), pa.binary(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(3),
        pa.dictionary(pa.int32(), pa.string()), pa.decimal128(9, 2), pa.date32(), pa.timestamp("us"),
    ]),
    lambda inner: st.one_of(
        inner.map(pa.list_), inner.map(pa.large_list),
        inner.map(lambda kind: pa.struct([("a", kind), ("b.c", pa.string())])),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
    ),
    max_leaves=3,
)  # fmt: skip


def value(draw: Any, kind: pa.DataType) -> Any:
    """A value of an Arrow type, or None."""
    if pa.types.is_null(kind) or draw(st.integers(0, 5)) == 0:
        return None
    if pa.types.is_dictionary(kind):
        return value(draw, kind.value_type)
    if pa.types.is_map(kind):
        return [(name, value(draw, kind.item_type)) for name in draw(st.sets(st.text(max_size=3), max_size=3))]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [value(draw, kind.value_type) for _ in range(draw(st.integers(0, 3)))]
    if pa.types.is_struct(kind):
        return {field.name: value(draw, field.type) for field in kind}
    if pa.types.is_fixed_size_binary(kind):
        return draw(st.binary(min_size=3, max_size=3))
    plain: list[tuple[Any, Any]] = [
        (pa.types.is_binary, st.binary(max_size=9)),
        (pa.types.is_integer, st.integers(-(2**63), 2**63 - 1)),
        (pa.types.is_floating, st.floats(allow_nan=False)),
        (pa.types.is_boolean, st.booleans()),
        (pa.types.is_decimal, st.decimals(-9_999, 9_999, places=2)),
        (pa.types.is_date, st.dates()),
        (pa.types.is_timestamp, st.datetimes()),
    ]
    return draw(next((values for test, values in plain if test(kind)), st.text(max_size=9)))


@st.composite
def tables(draw: Any) -> pa.Table:
    num_rows = draw(st.sampled_from([0, 1, 5, 70, 150]))
    columns = {}
    for name in draw(st.lists(st.sampled_from(["a", "a.b", "c", "é"]), min_size=1, max_size=3, unique=True)):
        kind = draw(KINDS | st.just(pa.null()))  # Arrow reads lists of nulls as invalid arrays: they are refused
        few = [value(draw, kind) for _ in range(min(num_rows, 5))]
        columns[name] = pa.array([few[at % 5] for at in range(num_rows)], kind)
    return pa.table(columns)


@st.composite
def options(draw: Any) -> dict[str, Any]:
    return {
        "compression": draw(st.sampled_from(["none", "snappy", "gzip", "zstd", "lz4", "brotli"])),
        "use_dictionary": draw(st.booleans()),
        "data_page_version": draw(st.sampled_from(["1.0", "2.0"])),
        "data_page_size": draw(st.sampled_from([200, 1 << 20])),
        "dictionary_pagesize_limit": draw(st.sampled_from([1, 1 << 20])),
        "row_group_size": draw(st.sampled_from([7, 1 << 20])),
        "write_batch_size": draw(st.sampled_from([5, 1_024])),
        "write_page_index": draw(st.booleans()),
        "store_schema": draw(st.booleans()),
        "write_statistics": draw(st.booleans()),
    }


@given(tables(), options())
@settings(
    suppress_health_check=list(HealthCheck), deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60"))
)
def test_rows_are_those_that_were_written(tmp_path: Path, table: pa.Table, options: dict[str, Any]) -> None:
    path = tmp_path / "t.parquet"
    try:
        pq.write_table(table, path, **options)
    except pa.ArrowException:
        return  # Arrow cannot write structs that are null with a dictionary in them
    metadata = pq.read_metadata(path)
    assert list(parquet_rows(path)) == table.to_pylist()
    with path.open("rb") as stream:
        for group in range(metadata.num_row_groups):
            for at in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(at)
                pages = list(read_pages(stream, chunk))
                assert sum(page.num_values for page in pages) == chunk.num_values
                assert sum(page.num_bytes for page in pages) <= chunk.total_uncompressed_size
                assert any(page.is_dictionary for page in pages) == (chunk.has_dictionary_page and bool(pages))


def test_rows_that_arrow_does_not_read_are_missed(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([[None]], pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "t.parquet", data_page_size=1, write_batch_size=1)
    # If this fails, pyarrow has been mended: it read nothing of such a page, and did not say so.
    assert len(pq.read_table(tmp_path / "t.parquet")) == 0
    with pytest.raises(ValueError, match="row group 1: 0 rows, its footer says 1"):
        list(parquet_rows(tmp_path / "t.parquet"))


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_every_encoding_of_texts_is_read(tmp_path: Path, encoding: str) -> None:
    rows = [{"id": number, "text": f"a text of the row {number}", "in": {"x": str(number)}} for number in range(300)]
    path = tmp_path / "t.parquet"
    encodings = {"id": "PLAIN", "text": encoding, "in.x": encoding}
    pq.write_table(pa.Table.from_pylist(rows), path, use_dictionary=False, column_encoding=encodings)
    assert list(parquet_rows(path)) == rows
    lists = pa.table({"text": [["one", "two"]] * 9})
    pq.write_table(lists, path, use_dictionary=False, column_encoding={"text.list.element": encoding})
    if encoding == "DELTA_BYTE_ARRAY":
        with pytest.raises(ValueError, match="column 'text.list.element': lists in DELTA_BYTE_ARRAY are not read"):
            list(parquet_rows(path))
    else:
        assert list(parquet_rows(path)) == lists.to_pylist()


def test_sizes_count_each_copy_of_a_text(tmp_path: Path) -> None:
    texts = pa.array(["x" * 1_000, None, "y"]).dictionary_encode()
    assert row_sizes(texts).tolist() == [1_008, 8, 9] or row_sizes(texts)[0] == 1_008
    lists = pa.array([["x" * 1_000] * 3, None, [], ["y"]])
    assert row_sizes(lists)[0] >= 3_000 and max(row_sizes(lists)[1:]) < 100
    assert row_sizes(lists.slice(3))[0] < 100
    structs = pa.array([{"a": "x" * 1_000, "b": ["x" * 500]}, {"a": "y", "b": None}])
    assert row_sizes(structs)[0] >= 1_500 and row_sizes(structs.slice(1))[0] < 100
    maps = pa.array([[("k" * 100, "v" * 100)], None], pa.map_(pa.string(), pa.string()))
    assert row_sizes(maps)[0] >= 200 and row_sizes(maps)[1] < 100
    fixed = pa.array([["x" * 100, "y"], ["z", "z"]], pa.list_(pa.string(), 2))
    assert row_sizes(fixed)[0] >= 101 and row_sizes(fixed.slice(1))[0] < 100


def test_batches_shrink_where_rows_are_large_and_hold_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OPEN_BYTES", 300_000)
    monkeypatch.setattr(module, "MAX_ROW_BYTES", 61_000)
    path = tmp_path / "t.parquet"
    rows = [{"id": number, "text": str(number) * (20_000 if number % 9 else 1)} for number in range(150)]
    delta = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    for options in ({"dictionary_pagesize_limit": 1_000}, {"use_dictionary": False}, delta):
        pq.write_table(pa.Table.from_pylist(rows), path, data_page_size=1, write_batch_size=1, **options)
        assert list(parquet_rows(path)) == rows
    with pytest.raises(TooLargeError, match="row 102: 61,0.. bytes .* in column 'text'"):
        rows[101]["text"] = "x" * 61_000
        pq.write_table(pa.Table.from_pylist(rows), path, data_page_size=1, write_batch_size=1, use_dictionary=False)
        list(parquet_rows(path))
