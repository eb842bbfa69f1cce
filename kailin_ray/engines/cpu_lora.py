"""A fix for LoRA on CPUs: in a mixed batch, vLLM's own operators apply the last adapter to the base model's rows.

vLLM marks a token without an adapter with the index -1 (``vllm.lora.punica_wrapper.utils.convert_mapping``). Its GPU
kernels stop there, but its CPU operators read the last element (vllm-project/vllm#48421, open). They also copy an
adapter's matrices for each token; here all tokens share one matrix product. The engine loads this module into its
workers as vLLM's ``worker_extension_cls``.
"""

import torch
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu


class Extension:
    """An empty extension: loading this module is what applies the fix."""


def _chosen(values: torch.Tensor, adapters: torch.Tensor) -> torch.Tensor:
    """Return ``values`` (tokens, adapters, rank), set to 0 except for the token's own adapter (-1: no adapter)."""
    own = adapters[:, None] == torch.arange(values.shape[1], device=adapters.device)
    return values * own[..., None]


def shrink(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, adapters: torch.Tensor, scaling: float = 1.0
) -> None:
    """Multiply ``inputs`` (tokens, in) by each token's A in ``weights`` (adapters, 1, rank, in), into ``output``."""
    count, rank = weights.shape[0], weights.shape[-2]
    products = inputs.to(output.dtype) @ weights.reshape(count * rank, -1).to(output.dtype).T
    output[:, :rank] = scaling * _chosen(products.view(-1, count, rank), adapters).sum(dim=1)


def expand(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, adapters: torch.Tensor, add_inputs: bool = True
) -> None:
    """Multiply ``inputs`` (tokens, rank) by each token's B in ``weights`` (adapters, 1, out, rank), into ``output``.

    With ``add_inputs`` the products are added to ``output``; otherwise they replace it.
    """
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
    """Do the same as ``expand``, for ``slice_size`` columns of ``output`` from ``slice_offset`` on."""
    count, rank = weights.shape[0], weights.shape[-1]
    repeated = inputs.to(output.dtype)[:, None].expand(-1, count, rank)
    matrices = weights.reshape(count, -1, rank)[:, :slice_size].to(output.dtype)
    products = _chosen(repeated, adapters).flatten(1) @ matrices.transpose(1, 2).flatten(0, 1)
    columns = output[:, slice_offset : slice_offset + slice_size]
    columns.copy_(columns + products if add_inputs else products)


for module in (lora_ops, punica_cpu):  # lora_ops calls its own functions, punica_cpu has imported them
    module.bgmv_shrink = shrink
    module.bgmv_expand = expand
    module.bgmv_expand_slice = expand_slice
