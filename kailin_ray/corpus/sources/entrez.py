"""NCBI's E-utilities, through pymed: a query to PMIDs, and PMIDs to the PubMed XML that NCBI gives.

pymed's client searches. How it asks is replaced: pymed lets four requests through in a second, spins while it waits,
takes no key, never asks again, and puts all into the address, where a key would come to light. Its articles have no
MeSH headings, and are read by a parser that expands entities; so what EFetch answers is kept as it is, and read by
``corpus/readers/pubmed_xml.py`` as any other file.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from pymed import PubMed

from kailin_ray.corpus.readers.pubmed_xml import DamagedFileError, read_citations
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file
from kailin_ray.io.http import PassingError, Web, WebError
from kailin_ray.schema import Json

PER_SECOND, PER_SECOND_WITH_KEY = 2.7, 9.0
"""Requests. NCBI allows 3 and 10; those that begin evenly may arrive closer together."""
MOST_RESULTS = 9_999
"""That ESearch gives of a query, whatever it is asked for."""
MAX_ANSWER_BYTES = 256 << 20
"""Of 200 articles, which take about 4 MB."""


class Eutils(PubMed):
    """pymed's client, with another way to ask: posted, paced, asked again, checked."""

    def __init__(self, base_url: str, email: str | None):
        super().__init__(tool="kailin_ray", email=email or "")
        if not email:
            del self.parameters["email"]
        key = os.environ.get("NCBI_API_KEY", "")
        self._key = {"api_key": key} if key else {}
        self._base_url = base_url.rstrip("/")
        self._web = Web(per_second=PER_SECOND_WITH_KEY if key else PER_SECOND)

    def search(self, query: str, max_results: int | None) -> tuple[list[int], int]:
        """PMIDs of the first results, the most recent first, and how many results there are.

        Raises ``ConfigError`` where there is none, or more are asked for than NCBI gives; ``WebError``.
        """
        found = self.getTotalResultsCount(query)
        if not found:
            raise ConfigError(f"source.query: {query!r}: PubMed finds nothing")
        if max_results is None and found > MOST_RESULTS:
            raise ConfigError(
                f"source.query: {query!r}: PubMed finds {found:,} articles, and NCBI gives the first {MOST_RESULTS:,}; "
                "narrow it, such as by AND 2020[dp], or take fewer by source.max_results"
            )
        pmids = self._getArticleIds(query=query, max_results=min(found, max_results or found))
        return [int(pmid) for pmid in dict.fromkeys(pmids)], found

    def fetch(self, pmids: Sequence[int], to: Path) -> set[int]:
        """Write NCBI's answer for some PMIDs to ``to``, gzipped; return those that are in it. Raises ``WebError``."""
        url = f"{self._base_url}/entrez/eutils/efetch.fcgi"
        form = self.parameters | self._key | {"id": ",".join(map(str, pmids)), "retmode": "xml"}

        def ask() -> set[int]:
            with atomic_file(to) as partial:
                with (
                    self._web.open_response("POST", url, data=form) as answer,
                    partial.open("wb") as sink,
                    gzip.GzipFile("", "wb", fileobj=sink, mtime=0) as packed,
                ):
                    for piece in self._web.pieces(answer, MAX_ANSWER_BYTES):
                        packed.write(piece)
                try:
                    return read_pmids(partial)
                except DamagedFileError as error:
                    fault = str(error).removeprefix(f"{partial}: ")
                    raise PassingError(f"{url}: not the XML that was asked for: {fault}") from error

        return self._web.persistently(ask)

    def _get(self, url: str, parameters: Json, output: str = "json") -> Any:
        """What pymed asks through: here a search's answer, with how many came as ``retmax``, by which pymed counts."""
        address = f"{self._base_url}{url}"

        def ask() -> Any:
            with self._web.open_response("POST", address, data=parameters | self._key | {"retmode": output}) as answer:
                return _search_result(address, b"".join(self._web.pieces(answer, MAX_ANSWER_BYTES)))

        return {"esearchresult": self._web.persistently(ask)}


def read_pmids(path: Path) -> set[int]:
    """PMIDs of the articles in a file of PubMed XML. Raises ``DamagedFileError``."""
    return {row.pmid for row in read_citations(path, Counter()) if not row.deleted}


class SearchResult(TypedDict):
    """A search's answer, as pymed reads it."""

    count: int
    idlist: list[str]
    retmax: int


def _search_result(address: str, answer: bytes) -> SearchResult:
    try:
        said = json.loads(answer, strict=False)  # NCBI's messages hold line breaks
        if "error" in said:  # such as: API rate limit exceeded
            raise PassingError(f"{address}: {str(said['error'])[:200]}")
        result = said["esearchresult"]
        if "ERROR" in result:
            raise WebError(f"{address}: {' '.join(str(result['ERROR']).split())[:200]}")
        count, pmids = int(result["count"]), [str(int(pmid)) for pmid in result["idlist"]]
    except (ValueError, KeyError, TypeError) as error:
        raise PassingError(f"{address}: not a search's answer: {answer[:60]!r}") from error
    if count and not pmids:
        raise PassingError(f"{address}: {count:,} results, and none of them is given")
    return {"count": count, "idlist": pmids, "retmax": len(pmids)}
