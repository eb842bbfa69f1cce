import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kailin_ray.corpus.readers.pubmed_xml import read_citations
from kailin_ray.corpus.sources import entrez
from kailin_ray.corpus.sources.entrez import Eutils
from kailin_ray.errors import ConfigError
from kailin_ray.io import http
from kailin_ray.io.http import WebError
from tests.support.ncbi import EFETCH, ESEARCH, HEAD, ncbi
from tests.support.web_server import Site


@pytest.fixture
def site(small_shard: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    monkeypatch.setattr(entrez, "PER_SECOND", 10_000.0)
    monkeypatch.setattr(entrez, "PER_SECOND_WITH_KEY", 10_000.0)
    monkeypatch.delenv("NCBI_API_KEY", raising=False)
    with ncbi(small_shard) as site:
        yield site


def test_a_search_gives_the_first_pmids_and_the_count(site: Site) -> None:
    client = Eutils(site.address, "me@example.org")
    pmids, found = client.search("metformin AND 2020[dp]", 300)
    assert (len(pmids), found) == (300, 500)
    assert pmids == sorted(pmids, reverse=True)
    assert client.search("x", None) == client.search("x", 9_999)
    assert len(client.search("x", None)[0]) == 500
    assert client.search("x", 1) == (pmids[:1], 500)
    asked = site.asked[0].form
    assert asked["term"] == ["metformin AND 2020[dp]"]
    assert (asked["tool"], asked["email"]) == (["kailin_ray"], ["me@example.org"])
    assert "email" not in Eutils(site.address, None).parameters


def test_what_is_fetched_is_the_xml_that_ncbi_gives(site: Site, small_shard: Path, tmp_path: Path) -> None:
    written = {row.pmid: row for row in read_citations(small_shard, Counter())}
    wanted = sorted(written)[:150]
    client = Eutils(site.address, None)
    assert client.fetch([*wanted, 1, 2], tmp_path / "a.xml.gz") == set(wanted)
    rows = list(read_citations(tmp_path / "a.xml.gz", Counter()))
    assert {row.pmid: row for row in rows} == {pmid: written[pmid] for pmid in wanted}
    assert any(row.mesh for row in rows)  # which pymed's articles have not
    assert gzip.decompress((tmp_path / "a.xml.gz").read_bytes()).startswith(HEAD)
    assert client.fetch([1, 2], tmp_path / "b.xml.gz") == set()


def test_the_key_goes_to_ncbi_and_nowhere_else(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NCBI_API_KEY", "S3CR3T")
    client = Eutils(site.address, None)
    pmids, _ = client.search("x", 5)
    client.fetch(pmids, tmp_path / "a.xml.gz")
    assert {tuple(one.form["api_key"]) for one in site.asked} == {("S3CR3T",)}
    said = []
    for status, path in ((400, ESEARCH), (500, ESEARCH), (400, EFETCH)):
        site.faults[path] = [(status, {})] * 10
        with pytest.raises(WebError) as caught:
            client.search("x", 5) if path == ESEARCH else client.fetch(pmids, tmp_path / "b.xml.gz")
        said.append(str(caught.value))
    assert "S3CR3T" not in "".join([*said, *capfd.readouterr(), *(one.path for one in site.asked)])
    assert all("S3CR3T" not in gzip.decompress(path.read_bytes()).decode() for path in tmp_path.iterdir())


def test_three_requests_a_second_ten_with_a_key(small_shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (entrez.PER_SECOND, entrez.PER_SECOND_WITH_KEY) == (2.7, 9.0)
    with ncbi(small_shard) as site:
        for key, least in (("", 3 / 3), ("S3CR3T", 3 / 10)):
            monkeypatch.setenv("NCBI_API_KEY", key)
            client = Eutils(site.address, None)
            begun = time.monotonic()
            client.search("x", 5)
            client.search("x", 5)
            assert time.monotonic() - begun >= least  # of four requests; slow machines are slower


def test_more_results_than_ncbi_gives_are_refused(small_shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrez, "PER_SECOND", 10_000.0)
    with ncbi(small_shard, num_results=12_345) as site:
        client = Eutils(site.address, None)
        with pytest.raises(
            ConfigError, match=r"finds 12,345 articles, but NCBI returns only the first 9,999; narrow it"
        ):
            client.search("cancer", None)
        assert len(client.search("cancer", 500)[0]) == 500
    with ncbi(small_shard, num_results=0) as site, pytest.raises(ConfigError, match="'xyzzy': PubMed finds nothing"):
        Eutils(site.address, None).search("xyzzy", None)


def test_busy_and_broken_answers_are_asked_again(site: Site, tmp_path: Path) -> None:
    whole = dict(site.answers)
    broken = [b'{"error":"API rate limit exceeded","count":"4"}', b"<html>try later</html>", b'{"esearchresult": {}}']
    site.answers[ESEARCH] = lambda form: broken.pop() if broken else whole[ESEARCH](form)
    site.faults[ESEARCH] = [(429, {"Retry-After": "0"}), 20]
    client = Eutils(site.address, None)
    pmids, _ = client.search("x", 30)
    # Busy, dropped (one of the broken ones), two broken; then the count, and the PMIDs.
    assert len(site.requests(ESEARCH)) == 4 + 2
    cut = [whole[EFETCH]({"db": ["pubmed"], "retmode": ["xml"], "id": [str(pmids[0])]})[:-30], b"<eFetchResult/>", b""]
    site.answers[EFETCH] = lambda form: cut.pop() if cut else whole[EFETCH](form)
    site.faults[EFETCH] = [(429, {})]
    assert client.fetch(pmids, tmp_path / "a.xml.gz") == set(pmids)
    assert len(site.requests(EFETCH)) == 1 + 3 + 1


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (
            b'{"esearchresult": {"ERROR": "Search Backend failed:\n \'retstart\' cannot be larger"}}',
            "backend failed: 're",
        ),
        (b"<html>", "not a search result"),
        (json.dumps({"esearchresult": {"count": "7", "idlist": ["x"]}}).encode(), "not a search result"),
        (json.dumps({"esearchresult": {"count": "7", "idlist": []}}).encode(), "7 results, but no PMIDs were returned"),
    ],
)
def test_a_search_that_stays_broken_is_an_error_and_no_endless_loop(site: Site, answer: bytes, fault: str) -> None:
    site.answers[ESEARCH] = lambda _: answer
    with pytest.raises(WebError, match=f"(?i)esearch.fcgi: .*{fault}"):
        Eutils(site.address, None).search("x", 5)
    assert len(site.asked) <= http.ATTEMPTS


SEARCHES = {
    "phrases not found and dropped: metfromin": {"errorlist": {"phrasesnotfound": ["metfromin"], "fieldsnotfound": []}},
    "fields not found: xyz": {"errorlist": {"phrasesnotfound": [], "fieldsnotfound": ["xyz"]}},
    'quoted phrases not found: "metfromin therapy"': {
        "warninglist": {"phrasesignored": [], "quotedphrasesnotfound": ['"metfromin therapy"'], "outputmessages": []}
    },
    "phrases ignored: of, the, a, an, in, ...": {"warninglist": {"phrasesignored": [*"of the a an in on".split()]}},
    "messages: Wildcard search for 'a*' \\x1b[31m used": {
        "warninglist": {"outputmessages": "Wildcard search for 'a*'\n\x1b[31m used"}
    },
    "newkind: {'a': 1}": {"warninglist": {"newkind": [{"a": 1}], "other": None}},
}


@pytest.mark.parametrize("remark", SEARCHES)
def test_what_ncbi_says_beside_a_result_is_kept(site: Site, remark: str) -> None:
    whole = site.answers[ESEARCH]

    def search(form: dict[str, list[str]]) -> bytes:
        answer = json.loads(whole(form))
        return json.dumps({"esearchresult": answer["esearchresult"] | SEARCHES[remark]}).encode()

    site.answers[ESEARCH] = search
    client = Eutils(site.address, None)
    assert len(client.search("x", 5)[0]) == 5
    assert client.remarks == [remark]  # once, though each of two answers has it
    with pytest.raises(ConfigError) as caught:
        site.answers[ESEARCH] = lambda form: json.dumps(
            {"esearchresult": {"count": "0", "retmax": "0", "idlist": []} | SEARCHES[remark]}
        ).encode()
        client.search("x", 5)
    assert str(caught.value) == f"source.query: 'x': PubMed finds nothing; {remark}"


FAILED = [
    '{"header": {"type": "esearch"}, "esearchresult": {"ERROR": "Search Backend failed: Database is not supported"}}',
    '{"esearchresult": {"ERROR": "Unable to open connection to #PMQuerySrv?dbaf=pubmed"}}',
    '<?xml version="1.0"?>\n<!DOCTYPE eSearchResult PUBLIC "x" "y">\n<eSearchResult>\n'
    "<ERROR>Search Backend failed: read request has been timed out</ERROR></eSearchResult>",
]


@pytest.mark.parametrize("answer", FAILED)
def test_a_backend_that_failed_is_asked_again_so_many_times(site: Site, answer: str) -> None:
    whole = site.answers[ESEARCH]
    left = [answer.encode()] * 3
    site.answers[ESEARCH] = lambda form: left.pop() if left else whole(form)
    assert len(Eutils(site.address, None).search("x", 5)[0]) == 5
    assert len(site.asked) == 3 + 2
    site.answers[ESEARCH] = lambda _: answer.encode()
    site.asked.clear()
    with pytest.raises(WebError, match="esearch.fcgi: (Search Backend failed|Unable to open)"):
        Eutils(site.address, None).search("x", 5)
    assert len(site.asked) == http.ATTEMPTS


@pytest.mark.parametrize(
    "answer",
    [
        '{"esearchresult": {"ERROR": "Search Backend failed: \'retstart\' cannot be larger than 9998"}}',
        '{"esearchresult": {"ERROR": "Invalid db name specified: x"}}',
        "<eSearchResult><ERROR>Empty term and query_key - nothing todo</ERROR></eSearchResult>",
    ],
)
def test_an_error_that_stays_is_not_asked_again(site: Site, answer: str) -> None:
    site.answers[ESEARCH] = lambda _: answer.encode()
    with pytest.raises(WebError, match="cannot be larger|Invalid db|nothing todo"):
        Eutils(site.address, None).search("x", 5)
    assert len(site.asked) == 1


KEY = "0123456789abcdef0123456789abcdef0123"
BODIES = [
    ('{"error":"API key invalid","api-key":"%s","type":"api-key","status":"unknown"}', "400 Bad Request: API key inva"),
    ("<eFetchResult>\n<ERROR>no key \x1b[2J %s</ERROR></eFetchResult>", r"400 Bad Request: no key \x1b[2J (secret)"),
    ("%s" * 3, "400 Bad Request: (secret)(secret)(secret)"),
    (" " * 4_070 + "%s", "400 Bad Request"),
    ("x" * 4_000 + "%s", "400 Bad Request: " + "x" * 100),
    ('{"error": "%s"}', "400 Bad Request: (secret)"),
    ("\udcff%s", "400 Bad Request: \ufffd"),
    ("", "400 Bad Request"),
]


@pytest.mark.parametrize(("body", "shown"), BODIES)
@pytest.mark.parametrize("path", [ESEARCH, EFETCH])
def test_what_a_refusal_says_is_shown_without_the_key(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: str, shown: str
) -> None:
    monkeypatch.setenv("NCBI_API_KEY", KEY)
    client = Eutils(site.address, None)
    data = body.replace("%s", KEY).encode("utf-8", "surrogateescape")
    site.faults[path] = [(400, {"Content-Type": "application/json"}, data)]
    with pytest.raises(WebError) as caught:
        client.search("x", 5) if path == ESEARCH else client.fetch([1], tmp_path / "a.xml.gz")
    message = str(caught.value)
    assert f"{path}: {shown}" in message
    assert KEY[:6] not in message and message.isprintable() and len(message) < 400
    assert len(site.asked) == 1


def test_no_error_of_any_kind_holds_the_key(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCBI_API_KEY", KEY)
    client = Eutils(site.address, None)
    for text in (
        f'{{"error": "{KEY}"}}', f'{{"esearchresult": {{"ERROR": "{KEY}"}}}}', KEY, f"{{{KEY}", f"<{KEY}/>",
        f"<a><ERROR>{KEY}</ERROR></a>",
    ):  # fmt: skip
        site.answers = dict.fromkeys((ESEARCH, EFETCH), lambda _, text=text: text.encode())
        for ask in (lambda: client.search("x", 5), lambda: client.fetch([1], tmp_path / "a.xml.gz")):
            with pytest.raises(WebError) as caught:
                ask()
            assert KEY[:6] not in str(caught.value)


ENTITIES = (
    '<?xml version="1.0"?><!DOCTYPE PubmedArticleSet [<!ENTITY a "ha"><!ENTITY b "{}"><!ENTITY c "{}">'
    '<!ENTITY f SYSTEM "file:///etc/passwd">]><PubmedArticleSet><PubmedArticle><MedlineCitation><PMID>7</PMID>'
    "<Article><ArticleTitle>T&c;&f;</ArticleTitle></Article></MedlineCitation></PubmedArticle></PubmedArticleSet>"
)


def test_entities_of_an_answer_are_not_expanded_and_bombs_refused(site: Site, tmp_path: Path) -> None:
    site.answers[EFETCH] = lambda _: ENTITIES.format("&a;", "&b;").encode()
    assert Eutils(site.address, None).fetch([7], tmp_path / "a.xml.gz") == {7}
    (row,) = read_citations(tmp_path / "a.xml.gz", Counter())
    assert row.title == "T"
    site.answers[EFETCH] = lambda _: ENTITIES.format("&a;" * 10_000, "&b;" * 10_000).encode()
    with pytest.raises(WebError, match="amplification"):
        Eutils(site.address, None).fetch([7], tmp_path / "b.xml.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.xml.gz"]


def test_an_answer_without_end_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrez, "MAX_ANSWER_BYTES", 1_000)
    site.answers[EFETCH] = lambda _: b"x" * 2_000
    with pytest.raises(WebError, match="more than 1,000 bytes"):
        Eutils(site.address, None).fetch([7, 8], tmp_path / "a.xml.gz")
    assert list(tmp_path.iterdir()) == []
