"""The size of a model, computed from its ``config.json``: parameters, bytes of weights, bytes of KV cache.

The parameters are counted on torch's meta device. The count is exact for every architecture that transformers knows,
and no weights are loaded.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kailin_ray.engines.interface import EngineSpec

_NOT_QUANTIZED = ("embed", "lm_head", "norm", "visual", "vision")
_WITHOUT_CACHE = {"conv", "mlp", "moe", "dense", "sparse"}
_BITS = {
    "fp8": 8,
    "fbgemm_fp8": 8,
    "modelopt": 8,
    "mxfp4": 4,
    "modelopt_fp4": 4,
    "awq": 4,
    "gptq": 4,
    "bitsandbytes": 4,
}
_SCALES = {4: 0.5, 8: 0.03}
"""Bits per weight that scales add: for 4-bit weights in groups of 32 (16 bits per group), for 8-bit weights in
blocks."""


@dataclass(frozen=True)
class ModelSize:
    """The memory needs of a model, before it is divided among GPUs."""

    num_parameters: int
    num_active: int
    """Parameters that one token uses. In a mixture of experts, only those of the token's experts count."""
    weight_bytes: int
    max_length: int
    """Tokens, from the model's own configuration with its RoPE scaling."""
    num_kv_heads: int
    """KV heads of the layer that has the fewest. The cache can be divided among this many GPUs."""
    full_bytes: int
    """KV cache bytes per token in the layers with full attention."""
    window_bytes: int
    """KV cache bytes per token in the layers that attend to the last ``window`` tokens."""
    window: int
    state_bytes: int
    """Bytes that the layers with linear attention keep for a text of any length."""

    def kv_bytes(self, num_tokens: int) -> int:
        """Return the size of the cache of a text of ``num_tokens`` tokens, in bytes."""
        return self.full_bytes * num_tokens + self.window_bytes * min(num_tokens, self.window) + self.state_bytes


def model_size(engine: EngineSpec) -> ModelSize:
    """Return the size of an engine's model. Raises ``OSError`` or ``ValueError`` for an unreadable configuration."""
    args = engine.args
    return _model_size(
        engine.path,
        engine.revision,
        str(args.get("dtype", "auto")),
        args.get("quantization"),
        str(args.get("kv_cache_dtype", "auto")),
        bool(args.get("trust_remote_code", False)),
        json.dumps(args.get("hf_overrides") or {}),
    )


@lru_cache
def _model_size(
    path: str, revision: str | None, dtype: str, quantization: str | None, kv_dtype: str, trust: bool, overrides: str
) -> ModelSize:
    # Imported here because most commands that use a plan do not need torch.
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust, **json.loads(overrides))
    text = config.get_text_config()
    shapes = _shapes(config, trust)
    width = 4 if dtype in ("float32", "float") else 2  # vLLM's "auto" converts float32 to 16 bits
    bits = _weight_bits(getattr(config, "quantization_config", None), quantization)
    quantized = sum(n for name, n, dims in shapes if bits and dims > 1 and not any(x in name for x in _NOT_QUANTIZED))
    total = sum(n for _, n, _ in shapes)
    experts = sum(n for name, n, dims in shapes if ".experts." in name)
    share = _expert_share(text)
    cached = _cache_fields(text, 1 if kv_dtype.startswith("fp8") else width)
    return ModelSize(
        num_parameters=total,
        num_active=int(total - experts * (1 - share)),
        weight_bytes=int((total - quantized) * width + quantized * bits / 8),
        max_length=_max_length(text),
        window=int(getattr(text, "sliding_window", None) or 0),
        **cached,
    )


def _max_length(text: Any) -> int:
    """Return the most tokens of a text, extended by RoPE scaling as vLLM extends it (``vllm/config/model.py``)."""
    rope = getattr(text, "rope_parameters", None) or {}
    layers = list(rope.values()) if rope and all(isinstance(value, dict) for value in rope.values()) else [rope]
    factors = [
        float(layer.get("factor") or 1.0)
        for layer in layers
        if layer.get("rope_type", "default") not in _SCALED_ALREADY and "gemma3" not in text.model_type
    ]
    return int(text.max_position_embeddings * (factors[-1] if factors else 1.0))


_SCALED_ALREADY = ("su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")
"""Kinds of RoPE scaling whose models have the extended length as ``max_position_embeddings``."""


def _shapes(config: Any, trust: bool) -> list[tuple[str, int, int]]:
    """Return name, number of elements and number of dimensions of every parameter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        except ValueError:  # a model that also reads images
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust)
    return [(name, parameter.numel(), parameter.dim()) for name, parameter in model.named_parameters()]


def _weight_bits(quantization: Any, argument: str | None) -> float:
    """Return the bits of a quantized weight with its scales; 0 if nothing is quantized."""
    settings = quantization if isinstance(quantization, dict) else (quantization.to_dict() if quantization else {})
    method = str(settings.get("quant_method") or argument or "")
    groups = settings.get("config_groups") or {}
    group_bits = next((group["weights"]["num_bits"] for group in groups.values() if group.get("weights")), None)
    loaded_bits = 8 if settings.get("load_in_8bit") else None
    bits = settings.get("bits") or group_bits or loaded_bits or _find_bits(method)
    return bits + _SCALES.get(bits, 0.0)


def _find_bits(method: str) -> int:
    """Return the bits of the quantization with whose name ``method`` starts (``awq_marlin``); 0 for none.

    If several names match, the longest counts.
    """
    names = [name for name in _BITS if method.startswith(name)]
    return _BITS[max(names, key=len)] if names else 0


def _expert_share(text: Any) -> float:
    """Return the share of a mixture's experts that one token uses; 1 for a model without experts."""
    num_experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    num_experts = num_experts or getattr(text, "n_routed_experts", None)
    num_chosen = getattr(text, "num_experts_per_tok", None) or getattr(text, "top_k_experts", None)
    return num_chosen / num_experts if num_experts and num_chosen else 1.0


def _cache_fields(text: Any, width: int) -> dict[str, int]:
    """Return the fields of ``ModelSize`` about the cache; ``width``: bytes of a cached value."""
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        only_kind = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
        kinds = [only_kind] * text.num_hidden_layers
    # Layers may have different numbers of heads; then transformers raises for values of the whole model.
    layers = getattr(text, "per_layer_config", None) or [text] * len(kinds)
    bytes_of = {"full": 0, "window": 0, "state": 0}
    num_heads = []
    for kind, layer in zip(kinds, layers, strict=True):
        if kind in _WITHOUT_CACHE:
            continue
        if kind == "linear_attention":
            heads = getattr(layer, "linear_num_value_heads", 0)
            size = heads * getattr(layer, "linear_key_head_dim", 0) * getattr(layer, "linear_value_head_dim", 0)
            bytes_of["state"] += 4 * size  # kept in float32
        else:
            heads, values = _values_per_token(layer)
            num_heads.append(heads)
            # For an unknown kind, full attention is assumed: it needs the most memory.
            bytes_of["window" if kind == "sliding_attention" else "full"] += values * width
    return {
        "num_kv_heads": min(num_heads, default=1),
        "full_bytes": bytes_of["full"],
        "window_bytes": bytes_of["window"],
        "state_bytes": bytes_of["state"],
    }


def _values_per_token(layer: Any) -> tuple[int, int]:
    """Return the number of heads by which a layer's cache can be divided, and its number of values per token."""
    if latent := getattr(layer, "kv_lora_rank", None):
        return 1, latent + layer.qk_rope_head_dim
    heads = int(getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads)
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return heads, 2 * heads * width
