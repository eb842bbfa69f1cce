"""The sentence encoder: texts in, unit vectors out, so that the inner product is the cosine.

sentence-transformers rather than vLLM's pooling runner: the same speed on CPUs, no second engine beside the LLM's in
the retriever, and a model directory brings its own pooling and prompts. See docs/decisions.md for the figures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.config import Encoder


class TextEncoder:
    """A sentence-transformers model; on a GPU in half precision, on a CPU in single."""

    def __init__(self, config: Encoder, on_gpu: bool):
        """Load the model: safetensors only, no code of the model's own."""
        # Here and not above: the import takes ten seconds, and the driver only names the class.
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(
            config.path,
            revision=config.revision,
            device="cuda" if on_gpu else "cpu",
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": "float16" if on_gpu else "float32"},
        )
        self._model.max_seq_length = config.max_length
        # [SEP] in an abstract is text, not the token.
        self._model.tokenizer.split_special_tokens = True
        self._batch_size = config.batch_size

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(len(texts), dimension) unit vectors. The library sorts by length, so that little is padded."""
        vectors: npt.NDArray[Any] = self._model.encode(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors.astype(np.float32)


class EncodeDocuments:
    """Ray Data actor: ``schema.DOCUMENTS`` in, passages with their embeddings out."""

    def __init__(self, config: Encoder, on_gpu: bool):
        self._encoder = TextEncoder(config, on_gpu)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """(n rows) → pmid, title, text, mesh (UIs), embedding."""
        titles, texts = batch["title"].to_pylist(), batch["abstract"].to_pylist()
        vectors = self._encoder.encode([f"{title} {text}" for title, text in zip(titles, texts, strict=True)])
        return pa.table(
            {
                "pmid": batch["pmid"],
                "title": batch["title"],
                "text": batch["abstract"],
                "mesh": pa.array([[h["ui"] for h in row] for row in batch["mesh"].to_pylist()], pa.list_(pa.string())),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
            }
        )
