import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.corpus.ingest.parse import DEALT, tables
from kailin_ray.corpus.readers.pubmed_xml import read_citations
from kailin_ray.corpus.readers.tables import FIELDS, read_rows, row_citation
from tests.support.rows import as_rows

PLAIN = {field: field for field in FIELDS}


def made(columns: dict[str, str] | None = None, **row: Any) -> dict[str, Any]:
    found = row_citation({"pmid": 7} | row, columns or PLAIN)
    assert found is not None
    (made_of_it,) = as_rows([found], "t.jsonl")
    return made_of_it


def test_a_row_has_every_key_of_a_citation() -> None:
    row = made()
    assert made() == made(**dict.fromkeys(FIELDS[1:]))  # null is as good as missing
    citation = row_citation({"pmid": 7}, PLAIN)
    assert citation
    (table,) = tables([citation], "t.jsonl")
    assert table.schema == DEALT
    assert row == table.to_pylist()[0]


FROM_PROGRAMS = [  # Spark, SQL databases, Impala, pandas
    ("1.2345678E7", 12_345_678), ("1.0E7", 10_000_000), (Decimal("12"), 12), (Decimal("12.00"), 12), (b"12", 12),
    (3_000_000_000.0, 3_000_000_000),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "pmid"),
    [(12, 12), ("12", 12), (" 0012 ", 12), (12.0, 12), ("12.0", 12), (2**63 - 1, 2**63 - 1), *FROM_PROGRAMS],
)
def test_what_is_a_pmid(cell: Any, pmid: int) -> None:
    assert made(pmid=cell)["pmid"] == pmid


NUMBERS = ["1.25E1", "1.5E99", float("inf"), Decimal("1.5"), Decimal("NaN"), b"\xff", b"PMC1"]


@pytest.mark.parametrize(
    "cell",
    [None, "", "PMC12", "1e3", 1.5, float("nan"), True, 0, -1, 2**63, "9" * 5_000, "１２", [12], {"id": 12}, *NUMBERS],
)
def test_what_is_none(cell: Any) -> None:
    assert row_citation({"pmid": cell}, PLAIN) is None


def test_abstracts_as_text_as_lists_and_with_labels() -> None:
    one = made(abstract=" One\n text ")
    assert (one["abstract"], one["sections"]) == ("One text", [{"label": None, "category": None, "text": "One text"}])
    listed = made(abstract=["First.", "", "Second."], labels=["AIMS", "NONE", "RESULTS"])
    assert listed["abstract"] == "AIMS: First.\nRESULTS: Second."
    assert [section["label"] for section in listed["sections"]] == ["AIMS", "RESULTS"]
    unlike = made(abstract=["First.", "Second."], labels=["AIMS"])  # which is whose cannot be told
    assert unlike["abstract"] == "First.\nSecond."
    objects = made(abstract=[{"label": "AIMS", "category": "OBJECTIVE", "text": "First."}, {"text": "Second."}])
    assert objects["abstract"] == "AIMS: First.\nSecond."
    assert objects["sections"][0]["category"] == "OBJECTIVE"
    assert made(abstract=None)["sections"] == made(abstract=[])["sections"] == []


@pytest.mark.parametrize(
    ("cell", "ui", "name", "major", "qualifiers"),
    [
        ("Neoplasms", "Neoplasms", "Neoplasms", False, []),
        ("*Neoplasms", "Neoplasms", "Neoplasms", True, []),
        ("Lung Neoplasms/genetics/*therapy", "Lung Neoplasms", "Lung Neoplasms", True, ["genetics", "therapy"]),
        ("D009369*", "D009369", "D009369", True, []),
        ({"ui": "D009369", "name": "Neoplasms", "major": True, "qualifiers": ["therapy"]},
         "D009369", "Neoplasms", True, ["therapy"]),
        ({"ui": "D009369"}, "D009369", "D009369", False, []),
        ({"name": "Neoplasms"}, "Neoplasms", "Neoplasms", False, []),
    ],
)  # fmt: skip
def test_mesh_by_name_and_by_ui(cell: Any, ui: str, name: str, major: bool, qualifiers: list[str]) -> None:
    assert made(mesh=[cell])["mesh"] == [{"ui": ui, "name": name, "major": major, "qualifiers": qualifiers}]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NaT, [], ""])
def test_what_is_missing_is_no_text(missing: Any) -> None:
    row = made(title=missing, abstract=missing, doi=missing, journal=missing, mesh=missing, year=missing)
    assert (row["title"], row["abstract"], row["doi"], row["journal"], row["mesh"]) == ("", "", None, "", [])
    assert row["year"] == made(year=None)["year"]
    assert made(keywords=["a", missing, "b"])["keywords"] == ["a", "b"]
    assert "nan" not in str(made(abstract=[{"label": missing, "text": "One."}, missing])["sections"]).lower()


def test_lists_in_one_text() -> None:
    row = made(
        mesh="Diabetes Mellitus, Type 2; Male|", keywords="a;b; a", publication_types="Review|Retracted Publication"
    )
    assert [one["name"] for one in row["mesh"]] == ["Diabetes Mellitus, Type 2", "Male"]
    assert (row["keywords"], row["retracted"]) == (["a", "b"], True)
    assert row["publication_types"] == ["Review", "Retracted Publication"]
    assert made(language=["eng", "ger"])["languages"] == ["eng", "ger"]
    assert made(language="ger")["language"] == "ger"


@pytest.mark.parametrize(
    ("cell", "year", "date"),
    [
        (2011, 2011, "2011"), ("2011", 2011, "2011"), (2011.0, 2011, "2011"), ("2011-3-09", 2011, "2011-03-09"),
        ("2011-03-09T10:00:00", 2011, "2011-03-09"), ("1998 Dec-1999 Jan", 1998, "1998-12"),
        ("12 May 1998", 1998, "1998-05"), ("1998-1999", 1998, "1998"),
        ("n.d.", None, None), (99, None, None), (20111, None, None), (None, None, None), ("2011-13", 2011, "2011"),
    ],
)  # fmt: skip
def test_years_and_dates(cell: Any, year: int | None, date: str | None) -> None:
    row = made(year=cell)
    assert (row["year"], row["date"]) == (year, date)


@given(st.dictionaries(st.sampled_from(FIELDS), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800") | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["ui", "name", "label", "text", "major", "qualifiers"]), inner, max_size=3),
    max_leaves=6,
)))  # fmt: skip
def test_whatever_a_row_holds_it_fits_the_columns(row: dict[str, Any]) -> None:
    found = row_citation({"pmid": 1} | row, PLAIN)
    if found is not None:
        (table,) = tables([found], "t")
        assert table.schema == DEALT


def test_pubmedqa_in_both_its_shapes(tmp_path: Path) -> None:
    question = "Do mitochondria play a role in remodelling lace plant leaves?"
    contexts, labels = ["Programmed cell death (PCD) is ...", "The following paper ..."], ["BACKGROUND", "RESULTS"]
    meshes = ["Alismataceae", "Apoptosis"]
    ours = {
        "21645374": {
            "QUESTION": question, "CONTEXTS": contexts, "LABELS": labels, "MESHES": meshes, "YEAR": "2011",
            "final_decision": "yes", "LONG_ANSWER": "Results depicted mitochondrial dynamics ...",
        }
    }  # fmt: skip
    hub = {
        "pubid": 21645374, "question": question, "long_answer": "Results ...", "final_decision": "yes",
        "context": {"contexts": contexts, "labels": labels, "meshes": meshes, "reasoning_free_pred": ["y"]},
    }  # fmt: skip
    (tmp_path / "ori_pqal.json").write_text(json.dumps(ours, indent=4))
    (tmp_path / "hub.jsonl").write_text(json.dumps(hub))
    pq.write_table(pa.Table.from_pylist([hub]), tmp_path / "hub.parquet")
    by_file = {"pmid": "_key", "title": "QUESTION", "abstract": "CONTEXTS", "labels": "LABELS", "mesh": "MESHES"}
    by_hub = {"pmid": "pubid", "title": "question"} | {
        field: f"context.{name}" for field, name in [("abstract", "contexts"), ("labels", "labels"), ("mesh", "meshes")]
    }
    (first,) = read_rows(tmp_path / "ori_pqal.json", by_file, Counter())
    assert (first.pmid, first.title) == (21645374, question)
    assert first.abstract == f"BACKGROUND: {contexts[0]}\nRESULTS: {contexts[1]}"
    assert [one.name for one in first.mesh or []] == meshes
    assert [*read_rows(tmp_path / "hub.jsonl", by_hub, Counter())] == [first]
    assert [*read_rows(tmp_path / "hub.parquet", by_hub, Counter())] == [first]


def test_rows_that_are_no_citation_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"pmid": 1}\n{"pmid": "x"}\n{"other": 1}\n[1]\n7\n{"pmid": 2}\n')
    skipped: Counter[str] = Counter()
    assert [row.pmid for row in read_rows(tmp_path / "t.jsonl", {"pmid": "pmid"}, skipped)] == [1, 2]
    assert skipped == {"malformed": 4}


def test_documents_can_be_read_as_a_table_again(tmp_path: Path, small_shard: Path) -> None:
    citations = list(read_citations(small_shard, Counter()))
    (table,) = tables(citations, "s")
    pq.write_table(table, tmp_path / "documents.parquet")
    columns = {field: field for field in FIELDS if field != "labels"} | {
        "abstract": "sections",
        "language": "languages",
    }
    again = as_rows(read_rows(tmp_path / "documents.parquet", columns | {"year": "date"}, Counter()), "s")
    lost = ("version", "vernacular_title", "other_abstracts", "supplementary", "notices", "retracted")
    assert [{k: v for k, v in one.items() if k not in lost} for one in again] == [
        {k: v for k, v in one.items() if k not in lost} for one in as_rows(citations, "s")
    ]
