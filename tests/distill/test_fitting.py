"""Every record can be written, or becomes a failed row, whatever a stage puts into it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.dataset.counts import count_records
from kailin_ray.distill.fitting import fit
from kailin_ray.distill.sink import RecordSink
from kailin_ray.schema import CARRIED, FAILED, OK, RECORDS, STEPS

OWN = [field for field in RECORDS if field.name not in (*CARRIED.names, "status", "stage", "reason", "detail")]
"""The columns that stages fill."""
CALL = {
    "agent": "answer", "prompt_tokens": 9, "cached_tokens": 4, "completion_tokens": 3, "finish_reason": "stop",
    "contexts_cut": 0, "queue_seconds": 0.0, "first_token_seconds": 0.0, "seconds": 0.1, "prompt_hash": "0f",
    "output": None,
}  # fmt: skip
PASSAGE = {"pmid": 1, "title": "T", "text": "x", "score": 0.5, "is_source": False}
TEXTS = st.text(st.characters(exclude_categories=()))  # lone surrogates too


def values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Values as a stage may make them for a column: of its type, but of any size, or with text of any kind."""
    if pa.types.is_list(kind):
        return st.lists(values(kind.value_type), max_size=3)
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values(field.type) for field in kind})
    if pa.types.is_integer(kind):
        return st.integers()
    if pa.types.is_boolean(kind):
        return st.booleans()
    return st.floats() if pa.types.is_floating(kind) else TEXTS


RECORD = st.fixed_dictionaries(
    {field.name: st.none() | values(field.type) for field in OWN} | {"detail": st.none() | TEXTS}
)


def test_the_columns_of_the_record_are_those_that_are_tried() -> None:
    kinds = {str(leaf.type) for field in OWN for leaf in leaves(field)}
    assert kinds <= {"string", "bool", "int8", "int16", "int32", "int64", "float", "double"}


def leaves(field: Any) -> list[Any]:
    if pa.types.is_list(field.type):
        return leaves(field.type.value_field)
    return [leaf for child in field.type for leaf in leaves(child)] if pa.types.is_struct(field.type) else [field]


@given(st.lists(RECORD, min_size=1, max_size=4))
def test_any_record_can_be_written_or_becomes_a_failed_row(made: list[dict[str, Any]]) -> None:
    records = [record | {"pmid": pmid, "status": OK} for pmid, record in enumerate(made, start=1)]
    table, fitted = fit(records)
    assert table.schema == RECORDS
    assert table["pmid"].to_pylist() == [record["pmid"] for record in records]
    pq.write_table(table, pa.BufferOutputStream())
    for before, after in zip(records, fitted, strict=True):
        if after is before:
            pa.Table.from_pylist([before], RECORDS)  # it fits
        else:
            assert (after["status"], after["reason"]) == (FAILED, "invalid_record")
            assert after["stage"] in STEPS
            assert after["detail"].partition(":")[0] in RECORDS.names


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"usage": [CALL | {"contexts_cut": 128}]}, "usage: "),
        ({"answer": "It had \ud800 an effect."}, "answer: "),
        ({"status": "rejected", "reason": "answer_malformed", "detail": "\udfff"}, "detail: "),
        ({"preferred": 2**70}, "preferred: "),
        ({"candidates": [{"agent": "general", "contexts": [{"pmid": "no number"}]}]}, "candidates: "),
        ({"year": 40_000}, "year: "),
    ],
)
def test_one_record_that_does_not_fit_costs_one_row(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    records: list[dict[str, Any]] = [{"pmid": pmid, "title": "T", "status": OK, "usage": [CALL]} for pmid in (1, 2, 3)]
    records[1] |= changed
    RecordSink(tmp_path / "records").write([fit(records)[0]], None)
    (path,) = (tmp_path / "records").iterdir()
    first, failed, last = pq.read_table(path, schema=RECORDS).to_pylist()
    assert [first["status"], last["status"]] == [OK, OK]
    assert (failed["status"], failed["reason"], failed["stage"]) == ("failed", "invalid_record", "answer")
    assert failed["detail"].startswith(named)
    assert failed["usage"][0]["contexts_cut"] in (0, 127)
    assert count_records(tmp_path)["reason"] == {"invalid_record": 1}


def test_what_fits_of_a_failed_record_is_kept() -> None:
    _, (failed,) = fit([{"pmid": 1, "answer": "a \ud800 b", "shown": [PASSAGE], "usage": [CALL]}])
    assert (failed["answer"], failed["shown"], failed["usage"]) == ("a \\ud800 b", [PASSAGE], [CALL])
