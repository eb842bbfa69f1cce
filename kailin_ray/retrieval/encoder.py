"""Sentence encoders: they turn passages and questions into vectors whose inner product is their similarity.

They use sentence-transformers instead of vLLM's pooling runner. It is as fast on CPUs, needs no second engine in the
retriever next to the LLM's, and reads the pooling from the model directory. docs/decisions.md has the figures.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.config import Encoder, QueryModel
from kailin_ray.errors import ConfigError

Vectors = npt.NDArray[np.float32]

# In these models, positions start after the padding token's id, so no text token uses the first rows of the table.
_OFFSET = frozenset(("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"))


def check_length(key: str, length: int, path: str, model: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` if a model has fewer positions than ``length``; ``model`` is its ``config.json``."""
    positions = model.get("max_position_embeddings") or 0
    if model.get("model_type") in _OFFSET:
        positions -= model.get("pad_token_id", 0) + 1
    if 0 < positions < length:  # models with relative positions have no such number, or -1
        raise ConfigError(f"{key}: {length} tokens, but {path} has {positions} positions; give {positions} or fewer")


class PassageEncoder:
    """Encodes titles and abstracts, in half precision on a GPU and in single precision on a CPU."""

    def __init__(self, config: Encoder, on_gpu: bool):
        """Load the model: safetensors only, no code from the model. Raises ``ConfigError`` if a length is too large."""
        self._config = config
        self._model = _load(config, config, "max_length", on_gpu)

    def encode(self, titles: Sequence[str], texts: Sequence[str]) -> Vectors:
        """Encode (n,) titles and (n,) abstracts as (n, dimension)."""
        pairs = list(zip(titles, texts, strict=True))
        passages = pairs if self._config.pair else [f"{title} {text}" for title, text in pairs]
        return _encode(self._model, passages, self._config.prefix, self._config)


class QueryEncoder:
    """Encodes questions, with the model ``config.query`` if there is one, else like ``PassageEncoder``."""

    def __init__(self, config: Encoder, on_gpu: bool):
        self._config = config
        self._model = _load(config, config.query or config, "query_max_length", on_gpu)

    def encode(self, questions: Sequence[str]) -> Vectors:
        """Encode (n,) questions as (n, dimension)."""
        return _encode(self._model, questions, self._config.query_prefix, self._config)


def _load(config: Encoder, model: Encoder | QueryModel, length: str, on_gpu: bool) -> Any:
    """Load the model with its pooling; ``length`` names the setting for the most tokens it reads of a text."""
    # Imported here because the import takes ten seconds and the driver needs only the names of the classes.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    device = "cuda" if on_gpu else "cpu"
    weights = {"use_safetensors": True, "dtype": "float16" if on_gpu else "float32"}
    if config.pooling is None:
        encoder = SentenceTransformer(
            model.path, revision=model.revision, device=device, trust_remote_code=False, model_kwargs=weights
        )
    else:
        source = {"revision": model.revision, "trust_remote_code": False}
        transformer = Transformer(
            model.path, model_kwargs=weights | source, processor_kwargs=source, config_kwargs=source
        )
        pooling = Pooling(transformer.get_embedding_dimension(), config.pooling)
        encoder = SentenceTransformer(modules=[transformer, pooling], device=device)
    if encoder.config is not None:
        check_length(f"encoder.{length}", getattr(config, length), model.path, encoder.config.to_dict())
    encoder.max_seq_length = getattr(config, length)
    # [SEP] in an abstract is text, not the token. The token between title and abstract is not parsed from text.
    encoder.tokenizer.split_special_tokens = True
    return encoder


def _encode(model: Any, inputs: Sequence[str | tuple[str, str]], prefix: str, config: Encoder) -> Vectors:
    """Encode as (n, dimension); ``prefix`` precedes a pair's title. The library sorts by length, to pad little."""
    embeddings = model.encode(
        list(inputs) or [""],  # for an empty list, the library returns no dimension
        prompt=prefix,  # even if empty, so that no prompt of the model directory is used
        batch_size=config.batch_size,
        show_progress_bar=False,
    )
    vectors: Vectors = embeddings.astype(np.float32)[: len(inputs)]
    if config.normalize:  # after the cast: in half precision, lengths would be off by a thousandth
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


class EncodeDocuments:
    """Ray Data actor: turns rows of ``schema.DOCUMENTS`` into passages with their embeddings."""

    def __init__(self, config: Encoder, on_gpu: bool):
        self._encoder, self._path = PassageEncoder(config, on_gpu), config.path

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return pmid, title, text, mesh (UIs), embedding (half precision) and seconds (a row's share) of n rows.

        The ``seconds`` of a block add up to the time it took, so rows divided by that sum are abstracts/s per encoder.
        """
        started = time.perf_counter()
        vectors = self._encoder.encode(batch["title"].to_pylist(), batch["abstract"].to_pylist())
        if not np.isfinite(vectors.astype(np.float16)).all():
            pmid = batch["pmid"][int(np.argmin(np.isfinite(vectors.astype(np.float16)).all(axis=1)))]
            raise ValueError(f"PMID {pmid}: its vector from {self._path} is not finite in half precision")
        share = (time.perf_counter() - started) / max(batch.num_rows, 1)
        headings = batch["mesh"].combine_chunks()
        return pa.table(
            {
                "pmid": batch["pmid"],
                "title": batch["title"],
                "text": batch["abstract"],
                "mesh": pa.ListArray.from_arrays(headings.offsets, headings.values.field("ui")),
                "embedding": half_precision(vectors),
                "seconds": np.full(batch.num_rows, share, dtype=np.float32),
            }
        )


def half_precision(vectors: Vectors) -> pa.FixedSizeListArray:
    """Return (n, d) as a column of lists of d float16, as the index stores them: they take half the space."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
