"""Configuration of encoders, the index and the retrieval agent."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.cluster import Cluster
from kailin_ray.config.fields import STRICT, Positive
from kailin_ray.io.storage import LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QueryModel:
    """The model of questions, where they have one of their own."""

    path: str
    """A local directory or a hub id."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Encoder:
    """The sentence encoder of passages (title and abstract) and questions."""

    path: str
    """A local directory or a hub id: the model of passages, and of questions where ``query`` is null."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    query: QueryModel | None
    """The model of questions, as MedCPT has one of its own; null for that of passages."""
    pooling: Literal["mean", "cls"] | None
    """How tokens' vectors become the text's: their mean, or the first's; null for what the model directory's own
    sentence-transformers modules say."""
    normalize: bool
    """Unit vectors, so that scores are cosines; else as they come, scored by inner product."""
    pair: bool
    """Title and abstract are two segments of one input; else one text, a blank between them."""
    prefix: str
    """Set before a passage; the prompts that a model directory names are not used."""
    query_prefix: str
    """Set before a question."""
    max_length: Positive
    """Tokens of a passage that are read, special tokens counted in."""
    query_max_length: Positive
    """Tokens of a question that are read."""
    batch_size: Positive
    """Texts that the model reads at once; they are sorted by length first."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Retrieval:
    """The retrieval agent."""

    top_k: Positive
    """Contexts of a question."""
    exclude_source: bool
    """Leave the source abstract out of its own contexts."""
    jaccard: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """How alike two passages are that count as one, by their sets of five words in a row; null to keep all."""
    lexical_weight: Annotated[float, Field(ge=0.0)]
    """Of BM25's ranking, to 1 of the dense one, where they are fused; 0 for dense search alone."""
    mesh_weight: Annotated[float, Field(ge=0.0)]
    """Of the ranking by MeSH similarity to the source, to 1 of the ranking so far; 0 leaves MeSH to the evaluation."""
    max_context_words: Positive | None
    """Words of a context that the answer agent is shown, from its start; null for all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IndexConfig:
    """``kailin-ray index``."""

    documents: LocalPath
    out: LocalPath
    limit: Positive | None
    structure: Literal["auto", "exact", "ivf_pq", "hnsw"]
    """What is searched; see ``retrieval/ann.py``."""
    target_recall: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Of the four passages that exact search finds, the share that is to be found."""
    lexical: bool
    """Index the words of the passages too, for ``retrieval.lexical_weight``."""
    encoder: Encoder
    cluster: Cluster
