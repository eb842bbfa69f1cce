"""The columns of all data on disk, and the fixed vocabulary of statuses and reasons."""

from typing import Any

import pyarrow as pa

Json = dict[str, Any]
"""A JSON object from outside, or a configuration as plain values."""
Row = dict[str, Any]
"""A row of a table, as ``to_pylist`` returns it."""

MESH_HEADING = pa.struct(
    [("ui", pa.string()), ("name", pa.string()), ("major", pa.bool_()), ("qualifiers", pa.list_(pa.string()))]
)

SECTION = pa.struct([("label", pa.string()), ("category", pa.string()), ("text", pa.string())])
"""A section of a structured abstract: the author's ``label`` and NLM's ``category`` (BACKGROUND, METHODS, ...)."""

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
"""The columns that a record keeps of its document."""

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

``place``: the row's number in ``source_file``, from 0. ``year`` is null if PubMed has none. ``date`` is as much of
``YYYY-MM-DD`` as is known; for a span, its beginning. ``language`` is the first of ``languages``. ``title`` is English,
without NLM's brackets; ``vernacular_title`` is the original. ``other_abstracts`` are abstracts of other types or
languages than ``abstract``. ``supplementary``: MeSH's supplementary concepts. ``notices``: errata, retractions and
comments, by NLM's ``RefType``."""

CANDIDATE = pa.struct(
    [
        ("agent", pa.string()),
        ("question", pa.string()),
        (
            "contexts",
            pa.list_(
                pa.struct(
                    [("pmid", pa.int64()), ("score", pa.float32()), ("title", pa.string()), ("text", pa.string())]
                )
            ),
        ),
        ("mesh_score", pa.float64()),
        ("judge_probability", pa.float64()),
    ]
)
"""One agent's question. ``text`` of a context is the text that the other agents are shown: title and abstract, cut to
``retrieval.max_context_words``. It begins with ``title``, which is null in records of earlier versions.
``judge_probability`` is the probability that the candidate is preferred (pairwise, over both orders) or suits the
abstract (pointwise)."""

PASSAGE = pa.struct(
    [
        ("pmid", pa.int64()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("score", pa.float32()),
        ("is_source", pa.bool_()),
    ]
)
"""A passage that the answer agent was shown; see ``agents/passages.py``. ``score`` is the retrieval's; the source
abstract has none where it was shown as such. ``is_source``: the passage is the abstract of the row itself."""

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
"""One call of an agent. ``contexts_cut``: contexts left out so that the prompt fits. The seconds count from the call's
arrival at the engine to its scheduling (``queue_seconds``), its first token and its end. ``prompt_hash`` hashes the
prompt's token ids. ``output`` is the text that the model wrote, without its reasoning; null in ok rows, whose other
fields hold it."""

REASONING = pa.struct([("agent", pa.string()), ("text", pa.string())])
"""What a model wrote before its answer to reason about it, in one call of an agent."""

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
        ("shown", pa.list_(PASSAGE)),
        ("answer", pa.string()),
        ("decision", DECISION),
        ("status", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("usage", pa.list_(USAGE)),
        ("reasoning", pa.list_(REASONING)),
        ("unseen_numbers", pa.list_(pa.string())),
    ]
)
"""One row per input abstract, none dropped, with the columns of its document that agents and dataset use.

Between stages ``status`` is null, as the row is not finished.

``preferred`` indexes ``candidates``. It and ``margin`` are null if the evaluation agent abstained. ``preferred_by`` is
rule, judge, or only (nothing to compare). ``judge_orders``, for a pairwise judge: the probability of the first
candidate when shown first, and when shown second. ``shown`` has every passage that the answer agent was shown, in order
and as it was shown. Records of earlier versions have ``contexts_text`` instead: the contexts as they were shown after
the source abstract. ``stage`` is one of ``STEPS``, null in ok rows. ``detail`` of an ok row says why a question agent
has no candidate. ``reasoning`` has an entry for each call whose model reasoned before it answered; no other agent is
shown it. ``unseen_numbers`` are the numbers of the answer, as it writes them, that stand in no passage of ``shown``;
null if there is no answer, or the record is of an earlier version."""

RECORDS_LAYOUT = "3dcbc626ab37a69e4930c0d696b8d3bb520fac376b13c727923466c5a94e3f48"
"""Identifies the layout of ``RECORDS``. A run with another layout is not resumed. It stays the same while record files
of earlier versions can be read as ``RECORDS``: if a column is added or widened."""

ASKING, EVALUATION, ANSWER = STEPS = ("question", "evaluation", "answer")
"""The values of ``stage``: where a row that is not ok ended. Contexts are retrieved in the question step."""

OK, REJECTED, FAILED = STATUSES = ("ok", "rejected", "failed")

REASONS = {
    "no_abstract": "the document has no abstract",
    "no_mesh": "no MeSH heading of the document has a place in the hierarchy",
    "abstract_too_long": "system text, task and abstract (or the only passage shown) do not fit the model's context",
    "no_valid_question": "no question agent wrote a usable question; detail says why for each",
    "no_contexts": "retrieval found no passage for a question, and no other candidate remains",
    "no_preference": "the evaluation agent abstained: a score is missing, or the margin is too small",
    "answer_empty": "the answer agent returned nothing, or nothing but reasoning",
    "answer_too_short": "the answer has fewer than four words, such as a bare yes",
    "answer_truncated": "the answer, with the reasoning before it, reached its token limit",
    "answer_copies_question": "the answer only repeats the question",
    "answer_copies_example": "the answer has words of a worked example that no passage accounts for",
    "answer_copies_context": "the answer repeats a passage of another abstract, or a title, word for word",
    "answer_contradicts_decision": "the answer states something else than the decision: Yes, and decision no",
    "answer_unseen_numbers": "more numbers of the answer than allowed stand in no passage that the agent was shown",
    "answer_malformed": "the answer asks a question back, refuses, or contains markup, reasoning, JSON or a preamble",
    "engine_died": "the engine died, or fell silent, each time it had this abstract; the last time it had no other",
    "agent_error": "an agent's call raised an error for this row; detail holds the error",
    "invalid_record": "a value of the row's record does not fit its column; detail names both",
}
"""Why a row is not ok. Reasons are defined only here."""

REMOVED = {
    "no_abstract": "the document has no abstract",
    "retracted": "the article was retracted",
    "publication_type": "the publication type is excluded, such as a comment or an erratum",
    "language": "the article is in none of the selected languages",
    "year": "published outside the selected years, or in an unknown year",
    "no_mesh": "the document has no MeSH heading",
    "too_short": "the abstract has fewer words than required",
    "not_in_subtree": "none of its MeSH headings is in the selected subtrees",
    "benchmark_pmid": "a benchmark was made from an abstract with this PMID",
    "benchmark_overlap": "title or abstract shares 13 consecutive words with a benchmark's text",
    "benchmark_question": "title or abstract contains a near-copy of a benchmark's question",
    "duplicate": "its abstract has the same words as another document's, which detail names",
    "near_duplicate": "its abstract has nearly the same words as another document's, which detail names",
    "not_sampled": "left out at random: more documents than requested",
}
"""Why ``select`` left a document out: the first reason that holds, in this order."""

LEFT_OUT = {
    "near_duplicate_question": "the question nearly repeats that of a row with a better score, which detail names",
    "surplus_decision": "more rows have this decision (yes or no) than the other; chosen by a hash of the PMID",
}
"""Why ``publish`` leaves an accepted row out, besides ``LEAKS``."""

LEAKS = ("benchmark_pmid", "benchmark_overlap", "benchmark_question")
"""The reasons of ``REMOVED`` for documents that share text with a benchmark."""
