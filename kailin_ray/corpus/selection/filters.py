"""Which documents of a corpus are left out by what they are, each with the reason."""

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.schema import REMOVED


def filter_reasons(
    documents: pa.Table,
    *,
    min_words: int = 0,
    languages: Collection[str] = (),
    require_mesh: bool = False,
    drop_retracted: bool = True,
    exclude_types: Collection[str] = (),
    year_from: int | None = None,
    year_to: int | None = None,
) -> pa.StringArray:
    """For each of n documents (``schema.DOCUMENTS``) the first reason of ``schema.REMOVED`` that holds, or null.

    A document without an abstract never stays. ``min_words``: of the abstract, by white space. ``languages``: NLM's
    codes such as ``eng``; one of the article's is enough, and none given means any. They are the article's: PubMed's
    abstracts are in English nearly always. ``exclude_types``: NLM's names of publication types. ``year_from`` and
    ``year_to`` count themselves in; an unknown year is outside of both.
    """
    abstracts = pc.fill_null(documents["abstract"], "")
    held: dict[str, pa.ChunkedArray | pa.Array] = {
        "no_abstract": pc.equal(pc.utf8_trim_whitespace(abstracts), ""),
        "too_short": pc.less(pc.count_substring_regex(abstracts, r"\S+"), min_words),
    }
    if drop_retracted:
        held["retracted"] = pc.fill_null(documents["retracted"], False)
    if exclude_types:
        held["publication_type"] = _has_any(documents["publication_types"], exclude_types)
    if languages:
        first = pc.is_in(documents["language"], pa.array(list(languages), pa.string()))
        held["language"] = pc.invert(pc.or_(first, _has_any(documents["languages"], languages)))
    if year_from is not None or year_to is not None:
        within = pc.and_(
            pc.greater_equal(documents["year"], -(1 << 15) if year_from is None else year_from),
            pc.less_equal(documents["year"], (1 << 15) - 1 if year_to is None else year_to),
        )
        held["year"] = pc.invert(pc.fill_null(within, False))
    if require_mesh:
        held["no_mesh"] = pc.equal(pc.fill_null(pc.list_value_length(documents["mesh"]), 0), 0)
    reasons = pa.chunked_array([pa.nulls(len(documents), pa.string())])
    for reason in reversed([reason for reason in REMOVED if reason in held]):
        reasons = pc.if_else(held[reason], reason, reasons)
    return reasons.combine_chunks()


def _has_any(lists: pa.ChunkedArray, wanted: Collection[str]) -> pa.Array:
    """Which of n lists of strings, null or not, hold one of those wanted."""
    whole = lists.combine_chunks()
    found = pc.is_in(pc.list_flatten(whole), pa.array(list(wanted), pa.string()))
    has = np.zeros(len(whole), bool)
    has[pc.list_parent_indices(whole).filter(found).to_numpy()] = True
    return pa.array(has)
