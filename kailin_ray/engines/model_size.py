"""How big a model is, from its ``config.json`` alone: parameters, bytes of weights, bytes of KV cache.

The parameters are counted on torch's meta device: exact for every architecture that transformers knows, and nothing
is loaded.
"""

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
"""Bits a weight that scales add: of 4-bit weights in groups of 32 (16 bits each), of 8-bit ones in blocks."""


@dataclass(frozen=True)
class ModelSize:
    """What a model takes; nothing here is shared out among GPUs yet."""

    num_parameters: int
    num_active: int
    """Parameters that one token meets: of a mixture, those of its experts only."""
    weight_bytes: int
    max_length: int
    """Tokens, by the model's own configuration."""
    num_kv_heads: int
    """Of the layer that has the fewest: among so many GPUs the cache can be shared out."""
    full_bytes: int
    """KV cache of a token in the layers that attend to everything."""
    window_bytes: int
    """KV cache of a token in the layers that attend to the last ``window`` tokens."""
    window: int
    state_bytes: int
    """What layers of linear attention keep of a text, however long."""

    def kv_bytes(self, num_tokens: int) -> int:
        """Cache of a text of so many tokens, in bytes."""
        return self.full_bytes * num_tokens + self.window_bytes * min(num_tokens, self.window) + self.state_bytes


def model_size(engine: EngineSpec) -> ModelSize:
    """The size of an engine's model. Raises ``OSError`` or ``ValueError`` if its configuration cannot be read."""
    args = engine.args
    return _model_size(
        engine.path,
        engine.revision,
        str(args.get("dtype", "auto")),
        args.get("quantization"),
        str(args.get("kv_cache_dtype", "auto")),
        bool(args.get("trust_remote_code", False)),
    )


@lru_cache
def _model_size(
    path: str, revision: str | None, dtype: str, quantization: str | None, kv_dtype: str, trust: bool
) -> ModelSize:
    # Here and not above: most commands that know a plan need no torch.
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
    text = config.get_text_config()
    shapes = _shapes(config, trust)
    width = 4 if dtype in ("float32", "float") else 2  # vLLM's "auto" makes 16 bits of float32
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
        max_length=int(text.max_position_embeddings),
        window=int(getattr(text, "sliding_window", None) or 0),
        **cached,
    )


def _shapes(config: Any, trust: bool) -> list[tuple[str, int, int]]:
    """Name, number of elements and number of dimensions of every parameter."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        except ValueError:  # a model that also sees
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust)
    return [(name, parameter.numel(), parameter.dim()) for name, parameter in model.named_parameters()]


def _weight_bits(given: Any, argument: str | None) -> float:
    """Bits of a quantized weight with its scales; 0 if nothing is quantized."""
    note = given if isinstance(given, dict) else (given.to_dict() if given else {})
    method = str(note.get("quant_method") or argument or "")
    groups = note.get("config_groups") or {}
    named = next((group["weights"]["num_bits"] for group in groups.values() if group.get("weights")), None)
    loaded = 8 if note.get("load_in_8bit") else None
    bits = note.get("bits") or named or loaded or _find_bits(method)
    return bits + _SCALES.get(bits, 0.0)


def _find_bits(method: str) -> int:
    """Of the quantization whose name ``method`` begins with (``awq_marlin``), the longest if several; 0 for none."""
    names = [name for name in _BITS if method.startswith(name)]
    return _BITS[max(names, key=len)] if names else 0


def _expert_share(text: Any) -> float:
    """Of a mixture's experts, the share that a token meets."""
    every = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    every = every or getattr(text, "n_routed_experts", None)
    chosen = getattr(text, "num_experts_per_tok", None) or getattr(text, "top_k_experts", None)
    return chosen / every if every and chosen else 1.0


def _cache_fields(text: Any, width: int) -> dict[str, int]:
    """The fields of ``ModelSize`` about the cache; ``width``: bytes of a cached value."""
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        everywhere = "sliding_attention" if getattr(text, "sliding_window", None) else "full_attention"
        kinds = [everywhere] * text.num_hidden_layers
    # Layers may differ in their heads; transformers then refuses to answer for all of them.
    layers = getattr(text, "per_layer_config", None) or [text] * len(kinds)
    bytes_of = {"full": 0, "window": 0, "state": 0}
    fewest = []
    for kind, layer in zip(kinds, layers, strict=True):
        if kind in _WITHOUT_CACHE:
            continue
        if kind == "linear_attention":
            heads = getattr(layer, "linear_num_value_heads", 0)
            size = heads * getattr(layer, "linear_key_head_dim", 0) * getattr(layer, "linear_value_head_dim", 0)
            bytes_of["state"] += 4 * size  # kept in float32
        else:
            heads, values = _values_per_token(layer)
            fewest.append(heads)
            # Of a kind that is not known here the most is assumed.
            bytes_of["window" if kind == "sliding_attention" else "full"] += values * width
    return {
        "num_kv_heads": min(fewest, default=1),
        "full_bytes": bytes_of["full"],
        "window_bytes": bytes_of["window"],
        "state_bytes": bytes_of["state"],
    }


def _values_per_token(layer: Any) -> tuple[int, int]:
    """Heads that the cache of a layer can be shared out by, and values that it holds of one token."""
    if latent := getattr(layer, "kv_lora_rank", None):
        return 1, latent + layer.qk_rope_head_dim
    heads = int(getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads)
    width = getattr(layer, "head_dim", None) or layer.hidden_size // layer.num_attention_heads
    return heads, 2 * heads * width
