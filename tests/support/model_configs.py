"""Directories with a model's config.json, with the values that its publisher states, and a small tokenizer."""

from pathlib import Path
from typing import Any

from transformers import (
    DeepseekV3Config,
    Gemma4TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3_5TextConfig,
    Qwen3MoeConfig,
)

from tests.conftest import MODEL

_LLAMA: dict[str, Any] = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 8192}
_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
_INT4 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 32}}},
}
_QWEN: dict[str, Any] = {"vocab_size": 248320, "head_dim": 256, "tie_word_embeddings": False} | {
    "num_key_value_heads": 4, "max_position_embeddings": 262144, "linear_num_key_heads": 16,
}  # fmt: skip

CONFIGS: dict[str, PretrainedConfig] = {
    "llama-3-8b": LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=14336, **_LLAMA
    ),
    "llama-3-70b": LlamaConfig(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, intermediate_size=28672, **_LLAMA
    ),
    "llama-3-8b-fp8": LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=14336,
        quantization_config=_FP8, **_LLAMA,
    ),
    "mistral-7b": MistralConfig(sliding_window=4096, max_position_embeddings=32768, num_key_value_heads=8),
    "qwen3-30b-a3b": Qwen3MoeConfig(
        hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768, intermediate_size=6144, vocab_size=151936,
        max_position_embeddings=262144, tie_word_embeddings=False,
    ),
    "qwen3.8-27b-fp8": Qwen3_5TextConfig(
        hidden_size=5120, num_hidden_layers=64, num_attention_heads=24, intermediate_size=17408,
        linear_num_value_heads=48, quantization_config=_FP8, **_QWEN,
    ),
    "qwen3.5-9b": Qwen3_5TextConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=16, intermediate_size=12288,
        linear_num_value_heads=32, **_QWEN,
    ),
    "gemma-4-31b": Gemma4TextConfig(
        hidden_size=5376, num_hidden_layers=60, num_attention_heads=32, intermediate_size=21504, vocab_size=262144,
        num_key_value_heads=16, head_dim=256, sliding_window=1024, hidden_size_per_layer_input=0,
        attention_k_eq_v=True, num_global_key_value_heads=4, global_head_dim=512,
        max_position_embeddings=262144,
    ),
    "deepseek-v3": DeepseekV3Config(),
}  # fmt: skip


def config_only(folder: Path, name: str) -> str:
    """The directory of a model without weights; its tokenizer is the small model's."""
    path = folder / name
    config = CONFIGS[name]
    config.dtype = "bfloat16"
    config.save_pretrained(path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if not (path / file).exists():
            (path / file).symlink_to(MODEL / file)
    return str(path)
