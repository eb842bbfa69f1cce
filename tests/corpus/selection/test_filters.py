from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.corpus.selection.filters import filter_reasons
from kailin_ray.schema import DOCUMENTS, REMOVED

MESH = [{"ui": "D1", "name": "Heart", "major": True, "qualifiers": []}]
GOOD: dict[str, Any] = {
    "abstract": "Four words are here",
    "language": "eng",
    "languages": ["eng"],
    "retracted": False,
    "publication_types": ["Journal Article"],
    "year": 2000,
    "mesh": MESH,
}
ALL: dict[str, Any] = {
    "min_words": 4,
    "languages": ["eng", "fre"],
    "require_mesh": True,
    "exclude_types": ["Letter", "Comment"],
    "year_from": 1990,
    "year_to": 2010,
}


def table(*changes: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([GOOD | change for change in changes], DOCUMENTS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"abstract": None}, "no_abstract"),
        ({"abstract": " \n"}, "no_abstract"),
        ({"abstract": "only three words"}, "too_short"),
        ({"abstract": "p < 0.05 then"}, None),
        ({"retracted": True}, "retracted"),
        ({"retracted": None}, None),
        ({"publication_types": ["Journal Article", "Comment"]}, "publication_type"),
        ({"publication_types": []}, None),
        ({"publication_types": None}, None),
        ({"language": "ger", "languages": ["ger"]}, "language"),
        ({"language": "ger", "languages": ["ger", "eng"]}, None),
        ({"language": "fre", "languages": None}, None),
        ({"language": None, "languages": None}, "language"),
        ({"year": 1989}, "year"),
        ({"year": 1990}, None),
        ({"year": 2010}, None),
        ({"year": 2011}, "year"),
        ({"year": None}, "year"),
        ({"mesh": []}, "no_mesh"),
        ({"mesh": None}, "no_mesh"),
        ({"mesh": None, "year": 1, "retracted": True}, "retracted"),
    ],
)
def test_the_first_reason_that_holds(change: dict[str, Any], reason: str | None) -> None:
    assert filter_reasons(table({}, change, {}), **ALL).to_pylist() == [None, reason, None]


def test_by_itself_only_what_cannot_be_used_goes() -> None:
    bare = {"language": None, "languages": None, "mesh": None, "year": None, "publication_types": ["Letter"]}
    documents = table({"abstract": "", "retracted": True}, bare, bare | {"retracted": True})
    assert filter_reasons(documents).to_pylist() == ["no_abstract", None, "retracted"]
    assert filter_reasons(documents, drop_retracted=False).to_pylist() == ["no_abstract", None, None]


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [({}, [0, 1, 2, 3]), ({"year_from": 2000}, [1, 2]), ({"year_to": 2000}, [0, 1])],
)
def test_one_bound_of_years_is_enough(bounds: dict[str, Any], kept: list[int]) -> None:
    documents = table({"year": 1999}, {"year": 2000}, {"year": 2001}, {"year": None})
    reasons = filter_reasons(documents, **bounds).to_pylist()
    assert [i for i, reason in enumerate(reasons) if reason is None] == kept


def test_no_rows_have_no_reasons() -> None:
    assert filter_reasons(DOCUMENTS.empty_table(), **ALL).to_pylist() == []


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "abstract": st.sampled_from([None, "", "three words only", "these are four words"]),
                "languages": st.sampled_from([None, [], ["ger"], ["ger", "eng"]]),
                "language": st.sampled_from([None, "ger", "eng"]),
                "retracted": st.sampled_from([None, False, True]),
                "publication_types": st.sampled_from([None, [], ["Review"], ["Letter", "Review"]]),
                "year": st.sampled_from([None, 1989, 2000]),
                "mesh": st.sampled_from([None, [], MESH]),
            }
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_equal_to_asking_row_by_row(rows: list[dict[str, Any]], cut: int) -> None:
    def reason(row: dict[str, Any]) -> str | None:
        held = {
            "no_abstract": not row["abstract"],
            "retracted": row["retracted"] is True,
            "publication_type": bool({"Letter", "Comment"} & set(row["publication_types"] or [])),
            "language": not {"eng", "fre"} & {row["language"], *(row["languages"] or [])},
            "year": row["year"] is None or not 1990 <= row["year"] <= 2010,
            "no_mesh": not row["mesh"],
            "too_short": len((row["abstract"] or "").split()) < 4,
        }
        return next((name for name in REMOVED if held.get(name)), None)

    whole = pa.Table.from_pylist(rows, DOCUMENTS)
    documents = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert filter_reasons(documents, **ALL).to_pylist() == [reason(row) for row in rows]
