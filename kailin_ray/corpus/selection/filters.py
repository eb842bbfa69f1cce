"""Filter the documents of a corpus by their own properties, with a reason for each document that is left out."""

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
    """Return the reason to remove each of n documents (``schema.DOCUMENTS``), or null for a document that stays.

    The reason is the first of ``schema.REMOVED`` that applies. A document without an abstract never stays.
    ``min_words``: minimum number of words of the abstract, split at white space. ``languages``: NLM's codes, such as
    ``eng``. One language of the article must be among them; no codes means any language. The language is that of the
    article, because PubMed's abstracts are nearly always in English. ``exclude_types``: NLM's names of publication
    types. ``year_from`` and ``year_to`` are inclusive; an unknown year is outside any limit.
    """
    abstracts = pc.fill_null(documents["abstract"], "")
    applies: dict[str, pa.ChunkedArray | pa.Array] = {
        "no_abstract": pc.equal(pc.utf8_trim_whitespace(abstracts), ""),
        "too_short": pc.less(pc.count_substring_regex(abstracts, r"\S+"), min_words),
    }
    if drop_retracted:
        applies["retracted"] = pc.fill_null(documents["retracted"], False)
    if exclude_types:
        applies["publication_type"] = _has_any(documents["publication_types"], exclude_types)
    if languages:
        first = pc.is_in(documents["language"], pa.array(list(languages), pa.string()))
        applies["language"] = pc.invert(pc.or_(first, _has_any(documents["languages"], languages)))
    if year_from is not None or year_to is not None:
        within = pc.and_(
            pc.greater_equal(documents["year"], -(1 << 15) if year_from is None else year_from),
            pc.less_equal(documents["year"], (1 << 15) - 1 if year_to is None else year_to),
        )
        applies["year"] = pc.invert(pc.fill_null(within, False))
    if require_mesh:
        applies["no_mesh"] = pc.equal(pc.fill_null(pc.list_value_length(documents["mesh"]), 0), 0)
    reasons = pa.chunked_array([pa.nulls(len(documents), pa.string())])
    for reason in reversed([reason for reason in REMOVED if reason in applies]):
        reasons = pc.if_else(applies[reason], reason, reasons)
    return reasons.combine_chunks()


def _has_any(lists: pa.ChunkedArray, targets: Collection[str]) -> pa.Array:
    """Return which of n lists of strings, which may be null, have one of the ``targets``."""
    whole = lists.combine_chunks()
    is_target = pc.is_in(pc.list_flatten(whole), pa.array(list(targets), pa.string()))
    has = np.zeros(len(whole), bool)
    has[pc.list_parent_indices(whole).filter(is_target).to_numpy()] = True
    return pa.array(has)
