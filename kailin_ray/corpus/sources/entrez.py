"""NCBI's E-utilities, through pymed: search for PMIDs, and fetch the PubMed XML of PMIDs.

pymed's client searches, but its request method is replaced. pymed allows four requests per second, spins while it
waits, takes no key, never retries, and puts all parameters into the address, which would expose a key. pymed's articles
have no MeSH headings, and its parser expands entities. So the response of EFetch is stored unchanged and read by
``corpus/readers/pubmed_xml.py`` like any other file.
"""

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

from pymed import PubMed

from kailin_ray.corpus.readers.pubmed_xml import DamagedFileError, read_citations
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_file
from kailin_ray.io.http import PassingError, Web, WebError
from kailin_ray.schema import Json

PER_SECOND, PER_SECOND_WITH_KEY = 2.7, 9.0
"""Requests per second. NCBI allows 3 and 10, but requests that are sent evenly may arrive closer together."""
MOST_RESULTS = 9_999
"""Maximum number of results that ESearch returns for a query, whatever number is requested."""
MAX_ANSWER_BYTES = 256 << 20
"""Maximum size of a response. The usual response, 200 articles, takes about 4 MB."""
MAX_REMARKS = 5
"""Kinds of remarks that are shown of each list, and phrases of each kind."""

_REMARKS = {
    "phrasesnotfound": "phrases not found and dropped",
    "fieldsnotfound": "fields not found",
    "phrasesignored": "phrases ignored",
    "quotedphrasesnotfound": "quoted phrases not found",
    "outputmessages": "messages",
}
"""The fields of ``errorlist`` and ``warninglist`` in the answer of ESearch."""
_XML_ERROR = re.compile(r"\s*+<[^{}]{0,1000}<ERROR>([^<]*)</ERROR>")
_PASSING = re.compile(r"backend failed|timed out|address table is empty|open connection|try again", re.IGNORECASE)
_PERMANENT = re.compile(r"cannot be larger", re.IGNORECASE)


class Eutils(PubMed):
    """pymed's client with its own request method: it posts, paces, retries and checks requests."""

    def __init__(self, base_url: str, email: str | None):
        super().__init__(tool="kailin_ray", email=email or "")
        if not email:
            del self.parameters["email"]
        key = os.environ.get("NCBI_API_KEY", "")
        self._key = {"api_key": key} if key else {}
        self._base_url = base_url.rstrip("/")
        self._web = Web(per_second=PER_SECOND_WITH_KEY if key else PER_SECOND, secret=key)
        self.remarks: list[str] = []
        """What NCBI says about the last search: phrases that it did not find, left out or changed."""

    def search(self, query: str, max_results: int | None) -> tuple[list[int], int]:
        """Return the PMIDs of the first results, most recent first, and the total number of results.

        What NCBI says about the query is in ``remarks`` afterwards. Raises ``ConfigError`` if there are no results, or
        more than NCBI returns and ``max_results`` is None. Raises ``WebError`` if NCBI fails.
        """
        self.remarks = []
        num_results = self.getTotalResultsCount(query)
        remarks = "".join(f"; {remark}" for remark in self.remarks)
        if not num_results:
            raise ConfigError(f"source.query: {query!r}: PubMed finds nothing{remarks}")
        if max_results is None and num_results > MOST_RESULTS:
            raise ConfigError(
                f"source.query: {query!r}: PubMed finds {num_results:,} articles, but NCBI returns only the first "
                f"{MOST_RESULTS:,}; narrow it, for example with AND 2020[dp], or set source.max_results{remarks}"
            )
        pmids = self._getArticleIds(query=query, max_results=min(num_results, max_results or num_results))
        return [int(pmid) for pmid in dict.fromkeys(pmids)], num_results

    def fetch(self, pmids: Sequence[int], to: Path) -> set[int]:
        """Write NCBI's response for some PMIDs to ``to``, gzipped; return the PMIDs in it. Raises ``WebError``."""
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
                    message = self._web.quote(str(error).removeprefix(f"{partial}: "))
                    raise PassingError(f"{url}: not the requested XML: {message}") from error

        return self._web.persistently(ask)

    def _get(self, url: str, parameters: Json, output: str = "json") -> Any:
        """Replace pymed's request method for searches. ``retmax``, by which pymed counts, is the number of PMIDs."""
        address = f"{self._base_url}{url}"

        def ask() -> Any:
            with self._web.open_response("POST", address, data=parameters | self._key | {"retmode": output}) as answer:
                return self._read_result(address, b"".join(self._web.pieces(answer, MAX_ANSWER_BYTES)))

        return {"esearchresult": self._web.persistently(ask)}

    def _read_result(self, address: str, answer: bytes) -> "SearchResult":
        """Return the result in an answer of ESearch, and note its remarks. Raises ``PassingError`` or ``WebError``."""
        text = answer.decode("utf-8", "replace")
        if error := _XML_ERROR.match(text):  # NCBI may answer in XML whatever retmode asks for
            raise self._error(address, error[1])
        try:
            response = json.loads(text, strict=False)  # NCBI's messages contain line breaks
            if "error" in response:  # such as: API rate limit exceeded
                raise PassingError(f"{address}: {self._web.quote(str(response['error']))}")
            result = response["esearchresult"]
            if "ERROR" in result:
                raise self._error(address, str(result["ERROR"]))
            count, pmids = int(result["count"]), [str(int(pmid)) for pmid in result["idlist"]]
            self.remarks = list(dict.fromkeys([*self.remarks, *map(self._web.quote, _read_remarks(result))]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise PassingError(f"{address}: not a search result: {self._web.quote(text)[:60]!r}") from error
        if count and not pmids:
            raise PassingError(f"{address}: {count:,} results, but no PMIDs were returned")
        return {"count": count, "idlist": pmids, "retmax": len(pmids)}

    def _error(self, address: str, message: str) -> WebError:
        """Return the error for a message of ESearch: passing if it says that a server behind it failed."""
        passing = _PASSING.search(message) and not _PERMANENT.search(message)
        return (PassingError if passing else WebError)(f"{address}: {self._web.quote(message)}")


def read_pmids(path: Path) -> set[int]:
    """Return the PMIDs of the articles in a PubMed XML file. Raises ``DamagedFileError``."""
    return {row.pmid for row in read_citations(path, Counter()) if not row.deleted}


class SearchResult(TypedDict):
    """A search result in the form that pymed reads."""

    count: int
    idlist: list[str]
    retmax: int


def _read_remarks(result: Json) -> Iterator[str]:
    """Yield what the error list and the warning list of a search say: a text for each of their fields."""
    for name in ("errorlist", "warninglist"):
        fields = result.get(name)
        for field, values in list(fields.items())[:MAX_REMARKS] if isinstance(fields, dict) else ():
            phrases = [str(value) for value in (values if isinstance(values, list) else [values]) if value]
            if phrases:
                shown = ", ".join(phrases[:MAX_REMARKS]) + (", ..." if len(phrases) > MAX_REMARKS else "")
                yield f"{_REMARKS.get(field, field)}: {shown}"
