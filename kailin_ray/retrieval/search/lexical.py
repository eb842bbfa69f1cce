"""Lexical search: BM25 over title and text, in a tantivy index on disk that opens memory-mapped.

Of a question with the terms t, in N passages of which n_t hold t, a passage of |d| terms that holds t f_t times scores

    Σ_t ln(1 + (N - n_t + 1/2) / (n_t + 1/2)) · f_t·(k1 + 1) / (f_t + k1·(1 - b + b·|d| / mean |d|))

with k1 = 1.2 and b = 0.75 (Robertson and Zaragoza 2009, doi:10.1561/1500000019). tantivy keeps |d| exactly up to 40
terms and rounded down beyond, and counts deleted passages in N, n_t and the mean until it merges them away.

Terms are runs of letters and digits, in lower case and stemmed. Why so, and what it costs: docs/retrieval.md.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import tantivy

WRITER_BYTES = 256 << 20
"""Memory of the index's writer; what is more goes to the disk as a segment."""
MAX_CHARS = 10_000
MAX_TERMS = 64
"""Of a question. What is more is not looked at: a question's cost is bounded, whoever wrote it."""
ROWS_AT_ONCE = 4_000

# Without positions: nobody asks for phrases. The texts themselves are kept with the passages.
_SCHEMA = (
    tantivy.SchemaBuilder()
    .add_integer_field("pmid", indexed=True, fast=True)
    .add_text_field("text", tokenizer_name="en_stem", index_option="freq")
    .build()
)
# The steps of `en_stem`, with stop words taken out: in a question alone, where they cost time and find nothing.
_ANALYZER = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    .filter(tantivy.Filter.remove_long(40))
    .filter(tantivy.Filter.lowercase())
    .filter(tantivy.Filter.stopword("english"))
    .filter(tantivy.Filter.stemmer("english"))
    .build()
)


def build_lexical(tables: Iterable[pa.Table], folder: Path, deleted: Iterable[int] = ()) -> None:
    """Make the index in ``folder``, or bring one that is there up to date.

    ``tables`` hold ``pmid``, ``title`` and ``text``, each PMID once; ``deleted`` are PMIDs to be taken out. In an index
    that was there already, a passage replaces the one of the same PMID. One commit at the end: if anything is raised
    before, or the process dies, the index stays as it was. Raises ``ValueError`` that names the folder if it holds
    something else, is damaged, cannot be written, or is being written by another process.
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
    """An opened index, as it was when it was opened. May be searched by several threads at once."""

    def __init__(self, folder: Path):
        """Open ``folder`` memory-mapped.

        Raises ``ValueError`` that names it if it is no lexical index, or one that is cut short or lacks a file. A
        changed byte inside of a file is not looked for: that would be to read all of it.
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
        """The ``k`` best passages as (PMID, BM25 score), best first; of equal scores the lower PMID first.

        Fewer, or none, where fewer hold a term of the question; none for a question without terms. A question is
        words and no query language. Raises ``ValueError`` that names the folder if the index turns out damaged.
        """
        terms, most = question_terms(question), min(k, self.num_passages)
        if not terms or most < 1:
            return []
        with _naming(self._folder):
            return self._rank(self._query(terms), most)

    def search_many(self, questions: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """``search`` for each question."""
        return [self.search(question, k) for question in questions]

    def _query(self, terms: Sequence[str]) -> tantivy.Query:
        of_term = (tantivy.Query.term_query(self._schema, "text", term, "freq") for term in terms)
        return tantivy.Query.boolean_query([(tantivy.Occur.Should, query) for query in of_term])

    def _rank(self, query: tantivy.Query, k: int) -> list[tuple[int, float]]:
        # Without the count of all matches, which would look at every passage that holds any of the terms.
        hits = self._searcher.search(query, k, count=False).hits
        pmids = self._searcher.fast_field_values("pmid", [address for _, address in hits])
        found = ((int(pmid or 0), float(score)) for pmid, (score, _) in zip(pmids, hits, strict=True))
        return sorted(found, key=lambda one: (-one[1], one[0]))


def question_terms(question: str) -> list[str]:
    """The terms that a question is searched by, each once: at most ``MAX_TERMS``, of its first ``MAX_CHARS``."""
    # A lone surrogate, which no UTF-8 text can hold, would be an error.
    text = question[:MAX_CHARS].encode("utf-8", "replace").decode()
    return list(dict.fromkeys(_ANALYZER.analyze(text)))[:MAX_TERMS]


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Make of what tantivy raises, of its Rust panics too, a ``ValueError`` of one line that names the folder."""
    try:
        yield
    except BaseException as error:
        # A panic derives from BaseException, and its class cannot be imported.
        if isinstance(error, ValueError | OSError) or type(error).__name__ == "PanicException":
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"{folder}: cannot be used as a lexical index: {reason}") from error
        raise
