"""The sentence encoders: passages and questions in, vectors out whose inner product says how near they are.

sentence-transformers rather than vLLM's pooling runner: the same speed on CPUs, no second engine beside the LLM's in
the retriever, and a model directory brings its own pooling. See docs/decisions.md for the figures.
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

# Their positions begin after the padding token's id, so that the table has rows that no token of a text stands at.
_OFFSET = frozenset(("camembert", "data2vec-text", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"))


def check_length(key: str, length: int, path: str, model: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` if a model whose ``config.json`` says ``model`` has fewer positions than ``length``."""
    positions = model.get("max_position_embeddings") or 0
    if model.get("model_type") in _OFFSET:
        positions -= model.get("pad_token_id", 0) + 1
    if 0 < positions < length:  # relative positions have no such number, or -1
        raise ConfigError(f"{key}: {length} tokens, but {path} has {positions} positions; give {positions} or fewer")


class PassageEncoder:
    """Encodes titles and abstracts; on a GPU in half precision, on a CPU in single."""

    def __init__(self, config: Encoder, on_gpu: bool):
        """Load the model: safetensors only, no code of the model's own. Raises ``ConfigError`` for a false length."""
        self._config = config
        self._model = _load(config, config, "max_length", on_gpu)

    def encode(self, titles: Sequence[str], texts: Sequence[str]) -> Vectors:
        """(n titles), (n abstracts) → (n, dimension)."""
        pairs = list(zip(titles, texts, strict=True))
        passages = pairs if self._config.pair else [f"{title} {text}" for title, text in pairs]
        return _encode(self._model, passages, self._config.prefix, self._config)


class QueryEncoder:
    """Encodes questions, with their own model where ``config`` has one; else like ``PassageEncoder``."""

    def __init__(self, config: Encoder, on_gpu: bool):
        self._config = config
        self._model = _load(config, config.query or config, "query_max_length", on_gpu)

    def encode(self, questions: Sequence[str]) -> Vectors:
        """(n questions) → (n, dimension)."""
        return _encode(self._model, questions, self._config.query_prefix, self._config)


def _load(config: Encoder, model: Encoder | QueryModel, length: str, on_gpu: bool) -> Any:
    """The model with pooling; ``length``: the setting that says how many tokens of a text it reads."""
    # Here and not above: the import takes ten seconds, and the driver only names the classes.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    device = "cuda" if on_gpu else "cpu"
    weights = {"use_safetensors": True, "dtype": "float16" if on_gpu else "float32"}
    if config.pooling is None:
        made = SentenceTransformer(
            model.path, revision=model.revision, device=device, trust_remote_code=False, model_kwargs=weights
        )
    else:
        which = {"revision": model.revision, "trust_remote_code": False}
        reader = Transformer(model.path, model_kwargs=weights | which, processor_kwargs=which, config_kwargs=which)
        pooling = Pooling(reader.get_embedding_dimension(), config.pooling)
        made = SentenceTransformer(modules=[reader, pooling], device=device)
    if made.config is not None:
        check_length(f"encoder.{length}", getattr(config, length), model.path, made.config.to_dict())
    made.max_seq_length = getattr(config, length)
    # [SEP] in an abstract is text, not the token; that between title and abstract is not parsed from a text.
    made.tokenizer.split_special_tokens = True
    return made


def _encode(model: Any, inputs: Sequence[str | tuple[str, str]], prefix: str, config: Encoder) -> Vectors:
    """(n, dimension). The library sorts by length, so that little is padded; a prefix goes before a pair's title."""
    made = model.encode(
        list(inputs) or [""],  # of nothing the library gives no dimension
        prompt=prefix,  # also if it is empty: then none of the model directory's own prompts
        batch_size=config.batch_size,
        show_progress_bar=False,
    )
    vectors: Vectors = made.astype(np.float32)[: len(inputs)]
    if config.normalize:  # after the cast: in half precision lengths would be off by a thousandth
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


class EncodeDocuments:
    """Ray Data actor: ``schema.DOCUMENTS`` in, passages with their embeddings out."""

    def __init__(self, config: Encoder, on_gpu: bool):
        self._encoder, self._path = PassageEncoder(config, on_gpu), config.path

    def __call__(self, batch: pa.Table) -> pa.Table:
        """(n rows) → pmid, title, text, mesh (UIs), embedding (half precision), seconds (a row's share).

        A block's ``seconds`` add up to the time it took, so rows by their sum are abstracts/s per encoder.
        """
        started = time.perf_counter()
        vectors = self._encoder.encode(batch["title"].to_pylist(), batch["abstract"].to_pylist())
        if not np.isfinite(vectors.astype(np.float16)).all():
            pmid = batch["pmid"][int(np.argmin(np.isfinite(vectors.astype(np.float16)).all(axis=1)))]
            raise ValueError(f"PMID {pmid}: its vector by {self._path} is not finite in half precision")
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
    """(n, d) as a column of lists of d float16: half the space, and what the index stores."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
