from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from kailin_ray.corpus.ingest import parse
from kailin_ray.corpus.ingest.parse import DEALT, tables
from kailin_ray.corpus.readers.citation import Citation
from kailin_ray.corpus.readers.pubmed_xml import read_citations
from tests.support.rows import as_rows


@pytest.fixture(scope="module")
def citations(small_shard: Path) -> list[Citation]:
    """Genuine ones, and a deletion among them."""
    read = list(read_citations(small_shard, Counter()))
    return [*read[:7], Citation(7, 2, deleted=True), *read[7:]]


def test_tables_are_what_pyarrow_makes_of_dicts(citations: list[Citation]) -> None:
    (table,) = tables(citations, "a.xml")
    assert table.equals(pa.Table.from_pylist(as_rows(citations, "a.xml"), DEALT))
    table.validate(full=True)
    deletion = table.slice(7, 1).to_pylist()[0]
    given = {name for name, value in deletion.items() if value is not None}
    assert given == {"pmid", "version", "deleted", "source_file", "place", "cited"}


@pytest.mark.parametrize(("rows", "characters"), [(3, 64 << 20), (2_000, 5_000), (1, 0)])
def test_rows_are_the_same_however_they_are_cut(
    citations: list[Citation], monkeypatch: pytest.MonkeyPatch, rows: int, characters: int
) -> None:
    (whole,) = tables(citations, "a.xml")
    monkeypatch.setattr(parse, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(parse, "CHARACTERS_AT_ONCE", characters)
    cut = list(tables(citations, "a.xml"))
    assert len(cut) > 10
    assert max(map(len, cut)) <= rows
    assert pa.concat_tables(cut).equals(whole)
