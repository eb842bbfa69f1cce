"""Lexical search: BM25 over title and text, in a tantivy index on disk that opens memory-mapped.

A question has the terms t. Of N passages, n_t contain t. A passage of |d| terms that contains t f_t times scores

    Σ_t ln(1 + (N - n_t + 1/2) / (n_t + 1/2)) · f_t·(k1 + 1) / (f_t + k1·(1 - b + b·|d| / mean |d|))

with k1 = 1.2 and b = 0.75 (Robertson and Zaragoza 2009, doi:10.1561/1500000019). tantivy stores |d| exactly up to 40
terms and rounds it down above. It counts deleted passages in N, n_t and the mean until it merges them away.

Terms are runs of letters and digits, in lower case and stemmed. docs/retrieval.md has the reasons and the cost.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import tantivy

WRITER_BYTES = 256 << 20
"""Memory of the index writer; when it is full, a segment is written to disk."""
MAX_CHARS = 10_000
MAX_TERMS = 64
"""Limits of a question. The rest is ignored, so a question's cost is bounded whoever wrote it."""
ROWS_AT_ONCE = 4_000

# No positions, as there are no phrase queries. The texts themselves are stored with the passages.
_SCHEMA = (
    tantivy.SchemaBuilder()
    .add_integer_field("pmid", indexed=True, fast=True)
    .add_text_field("text", tokenizer_name="en_stem", index_option="freq")
    .build()
)
# The steps of `en_stem`, and a filter for stop words. Only questions need it: stop words cost time and find nothing.
_ANALYZER = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    .filter(tantivy.Filter.remove_long(40))
    .filter(tantivy.Filter.lowercase())
    .filter(tantivy.Filter.stopword("english"))
    .filter(tantivy.Filter.stemmer("english"))
    .build()
)


def build_lexical(tables: Iterable[pa.Table], folder: Path, deleted: Iterable[int] = ()) -> None:
    """Create the index in ``folder``, or update an existing one.

    ``tables`` have ``pmid``, ``title`` and ``text``, each PMID once; ``deleted`` are PMIDs to remove. In an existing
    index, a passage replaces the one with the same PMID. There is one commit, at the end: if anything raises before, or
    the process dies, the index stays as it was. Raises ``ValueError`` that names the folder if it holds something else,
    is damaged, cannot be written, or is being written by another process.
    """
    with _naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        index = tantivy.Index(_SCHEMA, str(folder))
        old = index.searcher().num_docs > 0
        writer = index.writer(WRITER_BYTES, num_threads=1)
    try:
        for pmid in deleted:
            writer.delete_documents_by_term("pmid", pmid)
        for rows in _passages(tables):
            with _naming(folder):
                for pmid, text in rows:
                    if old:
                        writer.delete_documents_by_term("pmid", pmid)
                    writer.add_document(tantivy.Document(pmid=pmid, text=text))
    except BaseException:
        writer.rollback()
        raise
    with _naming(folder):
        writer.commit()
        writer.wait_merging_threads()


def _passages(tables: Iterable[pa.Table]) -> Iterator[list[tuple[int, str]]]:
    for table in tables:
        for batch in table.select(["pmid", "title", "text"]).to_batches(ROWS_AT_ONCE):
            texts = pc.binary_join_element_wise(
                batch["title"], batch["text"], " ", null_handling="replace", null_replacement=""
            )
            yield list(zip(batch["pmid"].to_pylist(), texts.to_pylist(), strict=True))


class LexicalIndex:
    """An opened index, as it was when it was opened. Several threads may search it at once."""

    def __init__(self, folder: Path):
        """Open ``folder`` memory-mapped.

        Raises ``ValueError`` that names the folder if it is not a lexical index, or if a file is truncated or missing.
        A changed byte inside a file is not detected, because that would require reading all of it.
        """
        self._folder = folder
        with _naming(folder):
            index = tantivy.Index.open(str(folder))
            index.config_reader("manual")  # no thread that watches the folder
            self._schema, self._searcher = index.schema, index.searcher()
            self.num_passages: int = self._searcher.num_docs
            self._rank(tantivy.Query.exists_query("pmid"), 1)
            self._rank(self._query(["a"]), 1)

    def search(self, question: str, k: int) -> list[tuple[int, float]]:
        """Return the ``k`` best passages as (PMID, BM25 score), best first; for equal scores, the lower PMID first.

        There are fewer if fewer contain a term of the question, and none if the question has no terms. A question is
        words, not a query language. Raises ``ValueError`` that names the folder if the index turns out to be damaged.
        """
        terms, limit = question_terms(question), min(k, self.num_passages)
        if not terms or limit < 1:
            return []
        with _naming(self._folder):
            return self._rank(self._query(terms), limit)

    def search_many(self, questions: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """Return the result of ``search`` for each question."""
        return [self.search(question, k) for question in questions]

    def _query(self, terms: Sequence[str]) -> tantivy.Query:
        term_queries = (tantivy.Query.term_query(self._schema, "text", term, "freq") for term in terms)
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in term_queries])

    def _rank(self, query: tantivy.Query, k: int) -> list[tuple[int, float]]:
        # Not counting all matches: that would visit every passage that contains any of the terms.
        hits = self._searcher.search(query, k, count=False).hits
        pmids = self._searcher.fast_field_values("pmid", [address for _, address in hits])
        ranked = ((int(pmid or 0), float(score)) for pmid, (score, _) in zip(pmids, hits, strict=True))
        return sorted(ranked, key=lambda pair: (-pair[1], pair[0]))


def question_terms(question: str) -> list[str]:
    """Return the terms to search for, each once: at most ``MAX_TERMS``, from the question's first ``MAX_CHARS``."""
    # A lone surrogate cannot be encoded as UTF-8 and would raise an error.
    text = question[:MAX_CHARS].encode("utf-8", "replace").decode()
    return list(dict.fromkeys(_ANALYZER.analyze(text)))[:MAX_TERMS]


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Turn what tantivy raises, including Rust panics, into a one-line ``ValueError`` that names the folder."""
    try:
        yield
    except BaseException as error:
        # A panic derives from BaseException, and its class cannot be imported.
        if isinstance(error, ValueError | OSError) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{folder}: cannot be used as a lexical index: {reason}") from error
        raise
