"""NCBI's E-utilities as far as they are asked here, on this machine, with the records of a PubMed file."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxml import etree

from kailin_ray.io.compressed import open_unpacked
from tests.support.web_server import Site, served

ESEARCH, EFETCH = "/entrez/eutils/esearch.fcgi", "/entrez/eutils/efetch.fcgi"
# As EFetch writes it.
HEAD = (
    b'<?xml version="1.0" ?>\n<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle, 1st January 2025//EN" '
    b'"https://dtd.nlm.nih.gov/ncbi/pubmed/out/pubmed_250101.dtd">\n<PubmedArticleSet>'
)


@contextmanager
def ncbi(shard: Path, num_results: int | None = None) -> Iterator[Site]:
    """Every query finds all records, or claims to find ``num_results``; EFetch knows those of the shard."""
    with open_unpacked(shard) as stream:
        records = {
            int(article.findtext("MedlineCitation/PMID")): etree.tostring(article)
            for article in etree.parse(stream).getroot().iter("PubmedArticle")
        }
    newest = sorted(records, reverse=True)

    def search(form: dict[str, list[str]]) -> bytes:
        assert form["db"] == ["pubmed"] and form["retmode"] == ["json"] and form["term"]
        start, most = int(form.get("retstart", ["0"])[0]), min(int(form["retmax"][0]), 9_999)
        found = [str(pmid) for pmid in newest[start : start + most]]
        count = len(newest) if num_results is None else num_results
        result = {"count": str(count), "retmax": str(len(found)), "retstart": str(start), "idlist": found}
        return json.dumps({"header": {"type": "esearch", "version": "0.3"}, "esearchresult": result}).encode()

    def fetch(form: dict[str, list[str]]) -> bytes:
        assert form["db"] == ["pubmed"] and form["retmode"] == ["xml"]
        wanted = [int(pmid) for pmid in form["id"][0].split(",")]
        return HEAD + b"\n".join(records[pmid] for pmid in wanted if pmid in records) + b"</PubmedArticleSet>"

    with served() as site:
        site.answers = {ESEARCH: search, EFETCH: fetch}
        yield site
