"""What this machine's CPU is good at."""

import torch


def multiplies_bfloat16() -> bool:
    """Whether products of bfloat16 are fast here: not on x86 CPUs without AVX-512, which take several times as long."""
    return torch.backends.cpu.get_cpu_capability() != "AVX2"
