"""The real encoder: what is in a text stays text."""

from typing import Any

import numpy as np

from kailin_ray.config import Encoder
from kailin_ray.retrieval.encoder import TextEncoder
from tests.conftest import ENCODER


def test_no_special_token_is_parsed_from_a_text() -> None:
    encoder = TextEncoder(Encoder(path=str(ENCODER), revision=None, max_length=64, batch_size=4), on_gpu=False)
    read: list[list[int]] = []

    def note(_: Any, given: Any) -> None:
        read.extend(given[0].tolist())

    words = next(module for name, module in encoder._model.named_modules() if name.endswith("word_embeddings"))
    words.register_forward_pre_hook(note)
    texts = ["insulin [SEP] glucose [MASK] [CLS] [PAD] [UNK]", "\0 \u202e \u200b", ""]
    vectors = encoder.encode(texts)
    tokenizer = encoder._model.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.pad_token_id}
    for ids in read:
        assert [i for i in ids if i in special] == [tokenizer.cls_token_id, tokenizer.sep_token_id]
        unpadded = [i for i in ids if i != tokenizer.pad_token_id]
        assert ids[: len(unpadded)] == unpadded  # no padding token inside
    assert len(read) == len(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
