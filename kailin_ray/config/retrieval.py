"""Configuration of encoders, the index and the retrieval agent."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.cluster import Cluster
from kailin_ray.config.fields import STRICT, Positive
from kailin_ray.io.storage import LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QueryModel:
    """A separate encoder for questions."""

    path: str
    """A local directory or a hub id."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Encoder:
    """The sentence encoder of passages (title and abstract) and questions."""

    path: str
    """The encoder: a local directory or a hub id. It also encodes the questions if `query` is null."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    query: QueryModel | None
    """A separate encoder for questions, such as MedCPT's; null for the same one."""
    pooling: Literal["mean", "cls"] | None
    """How token vectors become one vector: their mean, or the first token's (cls). null takes what the model's
    sentence-transformers modules say."""
    normalize: bool
    """Scale vectors to length 1, so that scores are cosines; false scores by inner product."""
    pair: bool
    """Encode title and abstract as two segments of one input; false joins them with a blank."""
    prefix: str
    """Text put before a passage. Prompts that the model's directory names are not used."""
    query_prefix: str
    """Text put before a question."""
    max_length: Positive
    """Tokens of a passage to encode, special tokens included; the rest is cut off."""
    query_max_length: Positive
    """Tokens of a question to encode, special tokens included; the rest is cut off."""
    batch_size: Positive
    """Texts to encode at once. They are sorted by length first."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Retrieval:
    """The retrieval agent."""

    top_k: Annotated[int, Field(ge=1, le=127)]
    """Contexts to retrieve for a question, at most 127: a record counts in one byte those that a prompt leaves out."""
    exclude_source: bool
    """Leave the source abstract out of the contexts of its own questions. Must be false if `answer.shown` is
    [contexts]."""
    dedup_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """Skip a context that nearly repeats a better one: their sets of five consecutive words have at least this Jaccard
    similarity. null skips none."""
    lexical_weight: Annotated[float, Field(ge=0.0)]
    """Weight of BM25's ranking when it is fused with the dense one, whose weight is 1; 0 for dense search alone. Needs
    an index with lexical=true."""
    mesh_weight: Annotated[float, Field(ge=0.0)]
    """Weight of a re-ranking by MeSH similarity to the source, relative to 1 for the search's own ranking; 0 for
    none."""
    max_context_words: Positive | None
    """Show agents only this many words of a context, from its start; null for all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IndexConfig:
    """``kailin-ray index``."""

    documents: LocalPath
    """The folder of documents to index, made by `ingest` or `select`."""
    out: LocalPath
    """The index folder to create, or to update after the documents were updated."""
    limit: Positive | None
    """Index at most this many documents, the first by file and row."""
    structure: Literal["auto", "exact", "ivf_pq", "hnsw"]
    """The FAISS index: exact search, or an approximate one; auto is exact up to 100,000 passages, then ivf_pq."""
    target_recall: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Share of the four nearest passages that an approximate index should find. It is measured, and recorded."""
    lexical: bool
    """Also index the passages' words (BM25), for `retrieval.lexical_weight`."""
    encoder: Encoder
    cluster: Cluster
