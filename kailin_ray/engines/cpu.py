"""Features of this machine's CPU, and what engines choose by them."""

import platform

import torch


def multiplies_bfloat16() -> bool:
    """Return whether bfloat16 products are fast here.

    x86 CPUs without instructions for them take several times as long: those without AVX-512, and those that have
    AVX-512 without its bfloat16 part (Skylake, Cascade Lake, Ice Lake).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_dtype(configured: str) -> str:
    """Return the ``dtype`` of an engine on this machine's CPU: "auto" becomes float32 where bfloat16 is slow."""
    return "float32" if configured == "auto" and not multiplies_bfloat16() else configured
