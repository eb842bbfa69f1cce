"""Give a small Llama-like model the shape of a larger one, without changing what it writes.

    python benchmarks/support/upscale.py SMALL OUT --shape 8b

A benchmark needs a model of the real size, and texts that pass the checks, so that every agent is called. Random
weights write noise. Here, the small model's weights fill a corner of each larger matrix. What could reach its values
from elsewhere is zero, and the rest is random, so that the work is that of the larger model. RMSNorm, RoPE and the
scale of attention are compensated. The logits are those of the small model, except for rounding to bfloat16.
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of a Llama model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    """Dimensions of a head."""


SHAPES = {
    "1b": Shape(hidden=1536, intermediate=6144, layers=30, heads=24, kv_heads=8, head=64),  # like Llama-3.2-1B
    "8b": Shape(hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, head=128),  # Llama-3-8B
    "27b": Shape(hidden=5120, intermediate=27648, layers=54, heads=40, kv_heads=8, head=128),  # Qwen2.5-32B, fewer
}


def main() -> None:
    """Write the larger model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("small", type=Path, help="a model directory of the Llama architecture")
    parser.add_argument("out", type=Path, help="the larger model's directory")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    options = parser.parse_args()
    num_parameters = upscale(options.small, options.out, SHAPES[options.shape])
    print(f"{options.out}: {num_parameters / 1e9:.2f} B parameters")


def upscale(small: Path, out: Path, shape: Shape) -> int:
    """Write the model in ``small`` in a larger shape, in bfloat16, a file for each layer; return its parameters.

    At most two layers are in memory. Raises ``ValueError`` if the small model does not fit into the shape.
    """
    config = json.loads((small / "config.json").read_text())
    here = Shape(
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
    )
    smaller = [name for name, size in vars(here).items() if size > vars(shape)[name]]
    if smaller or here.heads // here.kv_heads > shape.heads // shape.kv_heads:
        raise ValueError(f"{small} does not fit into the shape: {', '.join(smaller) or 'heads for each KV head'}")
    out.mkdir(parents=True, exist_ok=True)
    for file in small.iterdir():
        if file.suffix != ".safetensors" and file.name not in ("config.json", "model.safetensors.index.json"):
            shutil.copy(file, out / file.name)
    torch.manual_seed(0)
    weight_map: dict[str, str] = {}
    num_parameters = 0
    for number, tensors in enumerate(_layers(_Small(small, here), shape, bool(config.get("tie_word_embeddings")))):
        name = f"model-{number:05d}.safetensors"
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, out / name, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        num_parameters += sum(tensor.numel() for tensor in tensors.values())
    index = {"metadata": {"total_size": 2 * num_parameters}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    (out / "config.json").write_text(json.dumps(_config(config, here, shape), indent=1))
    return num_parameters


class _Small:
    """The small model's tensors, read one at a time."""

    def __init__(self, folder: Path, shape: Shape):
        self.shape = shape
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[name].get_tensor(name).to(_DEVICE, torch.float32)
        return tensor


_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _random(*size: int) -> torch.Tensor:
    return torch.randn(*size, device=_DEVICE, dtype=torch.bfloat16) * 0.02


def _zeros(*size: int) -> torch.Tensor:
    return torch.zeros(*size, device=_DEVICE, dtype=torch.bfloat16)


def _layers(small: _Small, shape: Shape, is_tied: bool) -> Iterator[Tensors]:
    """Yield the tensors of the embeddings, then those of each layer."""
    embedding = small.read("model.embed_tokens.weight")
    head = embedding if is_tied else small.read("lm_head.weight")
    width = small.shape.hidden
    rows = _zeros(len(embedding), shape.hidden)  # what a token is; zero elsewhere, so that nothing is there to be read
    rows[:, :width] = embedding.bfloat16()
    logits = _random(len(head), shape.hidden)
    logits[:, :width] = head.bfloat16()
    norm = _norm(small, "model.norm.weight", shape)
    yield {"model.embed_tokens.weight": rows, "lm_head.weight": logits, "model.norm.weight": norm}
    for number in range(shape.layers):
        yield _layer(small, shape, f"model.layers.{number}.", is_copied=number < small.shape.layers)


def _norm(small: _Small, name: str, shape: Shape) -> torch.Tensor:
    """Return RMSNorm's weight. The mean square over more values, all zero, is smaller: the weight makes up for it."""
    weight = torch.ones(shape.hidden, device=_DEVICE, dtype=torch.float32)
    weight[: small.shape.hidden] = small.read(name) * math.sqrt(small.shape.hidden / shape.hidden)
    return weight.bfloat16()


def _layer(small: _Small, shape: Shape, prefix: str, is_copied: bool) -> Tensors:
    """Return a layer that does what the small model's does; a layer beyond the small model's adds zero."""
    here = small.shape
    queries, keys = _random(shape.heads * shape.head, shape.hidden), _random(shape.kv_heads * shape.head, shape.hidden)
    values, output = _random(shape.kv_heads * shape.head, shape.hidden), _zeros(shape.hidden, shape.heads * shape.head)
    gate, up = (_random(shape.intermediate, shape.hidden) for _ in range(2))
    down = _zeros(shape.hidden, shape.intermediate)
    norms = [torch.ones(shape.hidden, device=_DEVICE, dtype=torch.bfloat16)] * 2
    if is_copied:
        query_heads, kv_heads = _place_heads(here, shape)
        # RoPE pairs dimension i with i + head/2; both halves are copied to the beginnings of the larger halves.
        half = here.head // 2
        dims = torch.tensor([*range(half), *range(shape.head // 2, shape.head // 2 + half)], device=_DEVICE)
        query_rows = torch.cat([head * shape.head + dims for head in query_heads])
        kv_rows = torch.cat([head * shape.head + dims for head in kv_heads])
        for matrix, heads in ((queries, query_heads), (keys, kv_heads)):
            for head in heads:  # dimensions beyond the small head's must add nothing to a score
                matrix[head * shape.head : (head + 1) * shape.head] = 0
        attention, mlp, width = f"{prefix}self_attn.", f"{prefix}mlp.", here.hidden
        scale = math.sqrt(shape.head / here.head)  # scores are divided by the root of a head's dimensions
        queries[query_rows, :width] = (small.read(f"{attention}q_proj.weight") * scale).bfloat16()
        keys[kv_rows, :width] = small.read(f"{attention}k_proj.weight").bfloat16()
        values[kv_rows, :width] = small.read(f"{attention}v_proj.weight").bfloat16()
        output[:width, query_rows] = small.read(f"{attention}o_proj.weight").bfloat16()
        gate[: here.intermediate, :width] = small.read(f"{mlp}gate_proj.weight").bfloat16()
        up[: here.intermediate, :width] = small.read(f"{mlp}up_proj.weight").bfloat16()
        down[:width, : here.intermediate] = small.read(f"{mlp}down_proj.weight").bfloat16()
        names = (f"{prefix}input_layernorm.weight", f"{prefix}post_attention_layernorm.weight")
        norms = [_norm(small, name, shape) for name in names]
    return {
        f"{prefix}self_attn.q_proj.weight": queries,
        f"{prefix}self_attn.k_proj.weight": keys,
        f"{prefix}self_attn.v_proj.weight": values,
        f"{prefix}self_attn.o_proj.weight": output,
        f"{prefix}mlp.gate_proj.weight": gate,
        f"{prefix}mlp.up_proj.weight": up,
        f"{prefix}mlp.down_proj.weight": down,
        f"{prefix}input_layernorm.weight": norms[0],
        f"{prefix}post_attention_layernorm.weight": norms[1].clone(),
    }


def _place_heads(here: Shape, shape: Shape) -> tuple[list[int], list[int]]:
    """Return the places of the small model's query heads and KV heads. Each query head keeps its KV head."""
    small_group, group = here.heads // here.kv_heads, shape.heads // shape.kv_heads
    query_heads = [head // small_group * group + head % small_group for head in range(here.heads)]
    return query_heads, list(range(here.kv_heads))


def _config(config: dict[str, Any], here: Shape, shape: Shape) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    # The angle of dimension i is theta^(-2i / head): with a larger head, a larger theta gives the same angles.
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0) ** (shape.head / here.head)
    changed = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "rms_norm_eps": config["rms_norm_eps"] * here.hidden / shape.hidden,
        "tie_word_embeddings": False,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }
    return {name: value for name, value in config.items() if name != "rope_scaling"} | changed


if __name__ == "__main__":
    main()
