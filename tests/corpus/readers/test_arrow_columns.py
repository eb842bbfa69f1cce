from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.corpus.readers.arrow_columns import column

WORDS = st.text(max_size=5)
HEADING = pa.struct([("ui", pa.string()), ("major", pa.bool_()), ("qualifiers", pa.list_(pa.string()))])
HEADINGS = st.tuples(WORDS, st.none() | st.booleans(), st.none() | st.lists(WORDS, max_size=3).map(tuple))


def as_dicts(value: Any, kind: pa.DataType) -> Any:
    """What pyarrow itself takes for a struct."""
    if value is None or not pa.types.is_nested(kind):
        return value
    if pa.types.is_list(kind):
        return [as_dicts(one, kind.value_type) for one in value]
    return {field.name: as_dicts(one, field.type) for field, one in zip(kind, value, strict=True)}


@given(st.data())
def test_a_column_is_what_pyarrow_makes_of_dicts(data: st.DataObject) -> None:
    shared = data.draw(st.lists(HEADINGS, min_size=1, max_size=4))
    headings = HEADINGS | st.sampled_from(shared)  # one object in several places
    values = data.draw(st.lists(st.none() | st.lists(headings, max_size=5), max_size=6))
    kind = pa.list_(HEADING)
    made = column(values, kind)
    assert made.equals(pa.array(as_dicts(values, pa.list_(kind)), kind))
    made.validate(full=True)


@pytest.mark.parametrize("kind", [pa.int16(), pa.string(), pa.list_(pa.string()), pa.list_(HEADING), HEADING])
def test_a_column_without_rows(kind: pa.DataType) -> None:
    assert column([], kind).equals(pa.array([], kind))


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="40000"):
        column([40_000], pa.int16())
