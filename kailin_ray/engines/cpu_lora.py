"""LoRA on CPUs, mended: vLLM's own operators give the base model's rows of a mixed batch the last adapter.

vLLM marks a token without an adapter by the index -1 (``vllm.lora.punica_wrapper.utils.convert_mapping``), at which its
GPU kernels stop and its CPU operators read the last element (vllm-project/vllm#48421, open). They also copy an
adapter's matrices once a token; here all tokens share one matrix product. The engine loads this module into its workers
as vLLM's ``worker_extension_cls``.
"""

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu


class Extension:
    """Adds nothing to a worker: that it is loaded is the point."""


def _chosen(values: torch.Tensor, adapters: torch.Tensor) -> torch.Tensor:
    """``values`` (tokens, adapters, rank), with 0 for all adapters but the token's own, -1 being none."""
    own = adapters[:, None] == torch.arange(values.shape[1], device=adapters.device)
    return values * own[..., None]


def shrink(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, adapters: torch.Tensor, scaling: float = 1.0
) -> None:
    """``inputs`` (tokens, in) times their A of ``weights`` (adapters, 1, rank, in), into ``output``."""
    count, rank = weights.shape[0], weights.shape[-2]
    every = inputs.to(output.dtype) @ weights.reshape(count * rank, -1).to(output.dtype).T
    output[:, :rank] = scaling * _chosen(every.view(-1, count, rank), adapters).sum(dim=1)


def expand(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, adapters: torch.Tensor, add_inputs: bool = True
) -> None:
    """``inputs`` (tokens, rank) times their B of ``weights`` (adapters, 1, out, rank), onto ``output``."""
    size = min(weights.shape[-2], output.shape[1])
    expand_slice(inputs, weights, output, adapters, 0, size, add_inputs)


def expand_slice(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    adapters: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """As ``expand``, onto ``slice_size`` columns of ``output`` from ``slice_offset``."""
    count, rank = weights.shape[0], weights.shape[-1]
    every = inputs.to(output.dtype)[:, None].expand(-1, count, rank)
    each = weights.reshape(count, -1, rank)[:, :slice_size].to(output.dtype)
    found = _chosen(every, adapters).flatten(1) @ each.transpose(1, 2).flatten(0, 1)
    columns = output[:, slice_offset : slice_offset + slice_size]
    columns.copy_(columns + found if add_inputs else found)


for module in (lora_ops, punica_cpu):  # the one calls its own, the other has imported them
    module.bgmv_shrink = shrink
    module.bgmv_expand = expand
    module.bgmv_expand_slice = expand_slice
