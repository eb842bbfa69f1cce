"""Features of this machine's CPU."""

import torch


def multiplies_bfloat16() -> bool:
    """Return whether bfloat16 products are fast here. x86 CPUs without AVX-512 take several times as long."""
    return torch.backends.cpu.get_cpu_capability() != "AVX2"
