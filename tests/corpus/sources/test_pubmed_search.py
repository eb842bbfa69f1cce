import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kailin_ray.config import Pmids, PubmedQuery
from kailin_ray.corpus.readers.pubmed_xml import read_citations
from kailin_ray.corpus.sources import entrez, pubmed_search
from kailin_ray.corpus.sources.pubmed_search import pmid_files, query_files, read_list
from kailin_ray.errors import ConfigError
from kailin_ray.io import http
from kailin_ray.io.http import WebError
from tests.support.ncbi import EFETCH, ESEARCH, ncbi
from tests.support.web_server import Site


@pytest.fixture
def site(small_shard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    monkeypatch.setattr(entrez, "PER_SECOND", 10_000.0)
    monkeypatch.setattr(entrez, "PER_SECOND_WITH_KEY", 10_000.0)
    with ncbi(small_shard) as site:
        yield site


def query(site: Site, max_results: int | None = None) -> PubmedQuery:
    return PubmedQuery(
        kind="pubmed_query", query="metformin", max_results=max_results, email=None, base_url=site.address
    )


def pmids(site: Site, path: Path, column: str | None = None) -> Pmids:
    return Pmids(kind="pmids", path=path, column=column, email=None, base_url=site.address)


def rows(files: list[Path]) -> list[dict]:  # type: ignore[type-arg]
    return [row for file in files for row in read_citations(file, Counter())]


def test_a_query_becomes_files_of_batches(site: Site, small_shard: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    files = query_files(query(site, 450), tmp_path / "f", said)
    assert [len(rows([file])) for file in files] == [200, 200, 50]
    written = sorted(read_citations(small_shard, Counter()), key=lambda row: -row.pmid)[:450]
    assert sorted(rows(files), key=lambda row: -row.pmid) == written
    assert "PubMed finds 500 articles, 450 are taken" in said.getvalue()
    assert files == sorted(files)
    num_asked = len(site.asked)
    assert query_files(query(site, 450), tmp_path / "f", io.StringIO()) == files
    assert len(site.asked) == num_asked  # nothing, the second time
    more = query_files(query(site), tmp_path / "f", io.StringIO())  # another question has other files
    assert not {file.name for file in more} & {file.name for file in files}
    assert len(rows(more)) == 500


def test_phrases_that_pubmed_dropped_are_shown_each_time(site: Site, tmp_path: Path) -> None:
    whole = site.answers[ESEARCH]

    def search(form: dict[str, list[str]]) -> bytes:
        answer = json.loads(whole(form))
        answer["esearchresult"] |= {
            "errorlist": {"phrasesnotfound": ["metfromin"]},
            "warninglist": {"quotedphrasesnotfound": ['"metfromin therapy"']},
        }
        return json.dumps(answer).encode()

    site.answers[ESEARCH] = search
    for _ in range(2):  # also where nothing is asked again
        said = io.StringIO()
        query_files(query(site, 5), tmp_path / "f", said)
        assert "source.query: NCBI says: phrases not found and dropped: metfromin\n" in said.getvalue()
        assert 'source.query: NCBI says: quoted phrases not found: "metfromin therapy"\n' in said.getvalue()
    assert len(site.requests(ESEARCH)) == 2


def test_what_was_fetched_is_not_fetched_again_after_a_failure(site: Site, tmp_path: Path) -> None:
    site.faults[EFETCH] = [None, 100, *[(503, {})] * 20]
    with pytest.raises(WebError, match="efetch.fcgi: 503"):
        query_files(query(site), tmp_path / "f", io.StringIO())
    assert len(list((tmp_path / "f").glob("*.xml.gz"))) == 1
    assert not list((tmp_path / "f").glob(".*partial"))
    site.faults.clear()
    num_asked = len(site.asked)
    files = query_files(query(site), tmp_path / "f", io.StringIO())
    assert [one.path for one in site.asked[num_asked:]] == [EFETCH, EFETCH]  # it does not search again either
    assert len({row.pmid for row in rows(files)}) == len(rows(files)) == 500
    files[0].unlink()
    assert query_files(query(site), tmp_path / "f", io.StringIO()) == files
    assert len(site.requests(ESEARCH)) == 2


def test_pmids_that_ncbi_does_not_give_are_counted_and_named(site: Site, small_shard: Path, tmp_path: Path) -> None:
    known = [row.pmid for row in read_citations(small_shard, Counter())][:230]
    (tmp_path / "pmids.txt").write_text("\n".join(map(str, [*known, 3, 1, 2, 4, 5, 6, known[0]])) + "\n\n")
    for _ in range(2):  # it is said again where nothing is fetched again
        said = io.StringIO()
        files = pmid_files(pmids(site, tmp_path / "pmids.txt"), tmp_path / "f", said)
        assert "NCBI returned no article for 6 of 236 PMIDs: 3, 1, 2, 4, 5, ..." in said.getvalue()
        assert [row.pmid for row in rows(files)] == known
    assert len(site.asked) == len(files) == 2
    # Of a batch that is there from before as well.
    note = next((tmp_path / "f").glob("*.json"))
    note.write_text(json.dumps(json.loads(note.read_text()) | {"not_given": None}))
    said = io.StringIO()
    pmid_files(pmids(site, tmp_path / "pmids.txt"), tmp_path / "f", said)
    assert "6 of 236" in said.getvalue()
    assert len(site.asked) == 2


def test_no_batch_is_larger_than_ncbi_advises(site: Site, tmp_path: Path) -> None:
    query_files(query(site), tmp_path / "f", io.StringIO())
    assert pubmed_search.BATCH == 200
    assert max(len(one.form["id"][0].split(",")) for one in site.requests(EFETCH)) == 200


@pytest.mark.parametrize(
    ("text", "column", "found"),
    [
        ("\ufeff12\r\n13\r\n\r\n 12 \n", None, [12, 13]),
        ('name,pmid\n"a,b",12\nc,\nd,13\n', "pmid", [12, 13]),
    ],
)
def test_lists_of_pmids(tmp_path: Path, text: str, column: str | None, found: list[int]) -> None:
    (tmp_path / "list").write_text(text, encoding="utf-8", newline="")
    assert read_list(tmp_path / "list", column) == found


@pytest.mark.parametrize(
    ("text", "column", "fault"),
    [
        ("12\nPMC13\n", None, "source.path: .*list, line 2: 'PMC13' is not a PMID"),
        ("12\n0\n", None, "line 2: '0'"),
        ("id\n12\nx\n", "id", "line 3: 'x'"),
        ("id,title\n12,x\n", "pmid", "source.column: .* no column 'pmid'; there are: id, title"),
        ("\n", None, "no PMID in it"),
        (b"\xff\xfe1", None, "source.path: .*list: .*utf-8"),
        ("12\n" + "1" * (1 << 20), None, "source.path: .*list: line 2: more than 1,048,576 characters"),
        ("id\n" + "," * (1 << 20), "id", "source.path: .*list: line 2: more than 1,048,576 characters"),
        (None, None, "source.path: .*list: No such file"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str | bytes | None, column: str | None, fault: str) -> None:
    if text is not None:
        (tmp_path / "list").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=fault):
        read_list(tmp_path / "list", column)
