"""Put records into the columns of the record files. A value that does not fit costs its row and never its block."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kailin_ray.dataset.rows import Record
from kailin_ray.distill.distiller import DETAIL_CHARS
from kailin_ray.schema import ANSWER, FAILED, RECORDS


def fit(records: Sequence[Record]) -> tuple[pa.Table, list[Record]]:
    """Return records as a table, and as they are in it: a record that pyarrow refuses becomes a failed row."""
    try:
        return pa.Table.from_pylist(list(records), RECORDS), list(records)
    except Exception:  # pyarrow, and what it calls, refuse values with errors of many classes
        fitted = [_fail(record, problem) if (problem := find_misfit(record)) else record for record in records]
        return pa.Table.from_pylist(fitted, RECORDS), fitted


def find_misfit(record: Record) -> str | None:
    """Return the first column that refuses its value, and why; None if the record fits."""
    for field in RECORDS:
        try:
            pa.array([record.get(field.name)], field.type)
        except Exception as error:
            return f"{field.name}: {type(error).__name__}: {error}"
    return None


def _fail(record: Record, problem: str) -> Record:
    """Return the failed record of a row, with as much as fits of what its agents produced."""
    failed = {"status": FAILED, "stage": record.get("stage") or ANSWER, "reason": "invalid_record"}
    failed["detail"] = problem[:DETAIL_CHARS]
    return {field.name: _nearest((record | failed).get(field.name), field.type) for field in RECORDS}


def _nearest(value: Any, kind: pa.DataType) -> Any:
    """Return the nearest value that a column of this type takes; None if none is near.

    Characters that are not valid in UTF-8 are escaped, and integers that are too large become the largest.
    """
    if pa.types.is_list(kind):
        return [_nearest(item, kind.value_type) for item in value] if isinstance(value, list | tuple) else None
    if pa.types.is_struct(kind):
        return {f.name: _nearest(value.get(f.name), f.type) for f in kind} if isinstance(value, dict) else None
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode("utf-8")
    elif isinstance(value, int) and pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        value = min(max(value, int(limits.min)), int(limits.max))
    try:
        pa.scalar(value, kind)
    except Exception:
        return None
    return value
