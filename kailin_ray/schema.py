"""The columns of everything on disk, and the fixed vocabulary of statuses and reasons."""

from typing import Any

import pyarrow as pa

Json = dict[str, Any]
"""A JSON object from outside, or a configuration as plain values."""
Row = dict[str, Any]
"""A row of a table, as ``to_pylist`` gives it."""

MESH_HEADING = pa.struct(
    [("ui", pa.string()), ("name", pa.string()), ("major", pa.bool_()), ("qualifiers", pa.list_(pa.string()))]
)

SECTION = pa.struct([("label", pa.string()), ("category", pa.string()), ("text", pa.string())])
"""Of a structured abstract: the author's ``label``, NLM's ``category`` (BACKGROUND, OBJECTIVE, METHODS, ...)."""

CARRIED = pa.schema(
    [
        ("pmid", pa.int64()),
        ("title", pa.string()),
        ("abstract", pa.string()),
        ("sections", pa.list_(SECTION)),
        ("year", pa.int16()),
        ("journal", pa.string()),
        ("language", pa.string()),
        ("mesh", pa.list_(MESH_HEADING)),
        ("publication_types", pa.list_(pa.string())),
        ("retracted", pa.bool_()),
        ("source_file", pa.string()),
    ]
)
"""What a record keeps of its document."""

DOCUMENTS = pa.schema(
    [
        ("version", pa.int16()),
        ("place", pa.int32()),
        ("vernacular_title", pa.string()),
        (
            "other_abstracts",
            pa.list_(pa.struct([("type", pa.string()), ("language", pa.string()), ("text", pa.string())])),
        ),
        ("date", pa.string()),
        ("languages", pa.list_(pa.string())),
        ("supplementary", pa.list_(pa.struct([("ui", pa.string()), ("name", pa.string()), ("type", pa.string())]))),
        ("keywords", pa.list_(pa.string())),
        ("notices", pa.list_(pa.struct([("type", pa.string()), ("pmid", pa.int64()), ("source", pa.string())]))),
        ("doi", pa.string()),
        ("pmcid", pa.string()),
        *CARRIED,
    ]
)
"""One row is one abstract, in its latest version.

``place``: the row's number in ``source_file``, from 0. ``year`` is null where PubMed gives none; ``date`` is as much of
``YYYY-MM-DD`` as is known, of a span its beginning.
``language`` is the first of ``languages``. ``title`` is English, without NLM's brackets; ``vernacular_title`` is the
original. ``other_abstracts``: of other types or languages, apart from ``abstract``. ``supplementary``: MeSH's
supplementary concepts. ``notices``: errata, retractions, comments, by NLM's ``RefType``."""

CANDIDATE = pa.struct(
    [
        ("agent", pa.string()),
        ("question", pa.string()),
        ("contexts", pa.list_(pa.struct([("pmid", pa.int64()), ("score", pa.float32()), ("text", pa.string())]))),
        ("mesh_score", pa.float64()),
        ("judge_probability", pa.float64()),
    ]
)
"""One agent's question. ``text`` of a context is what the other agents are shown of it; ``judge_probability`` is that
of being preferred (pairwise, over both orders) or of suiting the abstract (pointwise)."""

USAGE = pa.struct(
    [
        ("agent", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("contexts_cut", pa.int8()),
        ("queue_seconds", pa.float32()),
        ("first_token_seconds", pa.float32()),
        ("seconds", pa.float32()),
        ("prompt_hash", pa.string()),
        ("output", pa.string()),
    ]
)
"""One call of an agent. ``contexts_cut``: contexts left out so that its prompt would fit; the seconds count from the
call's arrival at the engine: until it was scheduled, until its first token, until its end. ``prompt_hash``: of its
token ids; ``output``: what the model wrote, null in ok rows, whose fields hold it."""

DECISION = pa.struct([("word", pa.string()), ("yes", pa.float32()), ("no", pa.float32()), ("maybe", pa.float32())])

RECORDS = pa.schema(
    [
        *CARRIED,
        ("candidates", pa.list_(CANDIDATE)),
        ("preferred", pa.int8()),
        ("preferred_by", pa.string()),
        ("margin", pa.float64()),
        ("judge_orders", pa.list_(pa.float64())),
        ("contexts_text", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("decision", DECISION),
        ("status", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("usage", pa.list_(USAGE)),
    ]
)
"""One row per input abstract, nothing dropped, with what agents and dataset use of its document.

Between stages ``status`` is null: the row is on its way.

``preferred`` indexes ``candidates``; it and ``margin`` are null where the evaluation abstained; ``preferred_by`` is
rule, judge, or only (nothing to compare). ``judge_orders``, of a pairwise judge: the probability of the first candidate
where it was shown first, and where second. ``contexts_text`` is what the answer agent was shown, word for word.
``stage``: of ``STEPS``, null in ok rows. ``detail`` of an ok row says why a question agent gave no candidate."""

ASKING, EVALUATION, ANSWER = STEPS = ("question", "evaluation", "answer")
"""Where on its way a row that is not ok ended: ``stage``. Contexts are found while its questions are asked."""

OK, REJECTED, FAILED = STATUSES = ("ok", "rejected", "failed")

REASONS = {
    "no_abstract": "the document has no abstract",
    "no_mesh": "the document has no MeSH heading that the hierarchy places in its tree",
    "abstract_too_long": "system text, abstract and task leave no room in the model's context",
    "no_valid_question": "no question agent gave a usable question; detail says why for each",
    "no_contexts": "retrieval found no passage for a question, and no other candidate is left",
    "no_preference": "the evaluation agent abstained: a score is missing, or the margin is too small",
    "answer_empty": "the answer agent returned nothing",
    "answer_too_short": "the answer has fewer than four words, such as a bare yes",
    "answer_truncated": "the answer ran into its token limit",
    "answer_copies_question": "the answer only repeats the question",
    "answer_malformed": "the answer asks back, or carries markup",
    "engine_died": "each time this abstract was in an engine, the engine died; the last time it was alone there",
    "agent_error": "a call of an agent raised an error for this row; detail holds it",
}
"""Why a row is not ok. The only place where reasons are defined."""

REMOVED = {
    "no_abstract": "the document has no abstract",
    "retracted": "the article was retracted",
    "publication_type": "a type of publication that is left out, such as a comment or an erratum",
    "language": "the article is in none of the languages that are wanted",
    "year": "published before or after the years that are wanted, or in an unknown year",
    "no_mesh": "the document has no MeSH heading",
    "too_short": "the abstract has fewer words than are wanted",
    "not_in_subtree": "none of its MeSH headings is in the part of the hierarchy that is wanted",
    "benchmark_pmid": "a benchmark was made of this abstract: by its PMID",
    "benchmark_overlap": "title or abstract has 13 words in a row of a benchmark's text",
    "benchmark_question": "title or abstract has a near-copy of a benchmark's question",
    "duplicate": "its abstract has the same words as that of another document, which detail names",
    "near_duplicate": "its abstract has nearly the same words as that of another document, which detail names",
    "not_sampled": "left out by chance: more documents than were wanted",
}
"""Why a document is not in a corpus that was cleaned: the first that holds, in this order."""

LEAKS = ("benchmark_pmid", "benchmark_overlap", "benchmark_question")
"""Of ``REMOVED`` those that say that a text is a benchmark's."""
