"""The type that an engine takes on a CPU, and the memory that a plan reckons for it."""

import platform
import re
from pathlib import Path

import pytest
import torch

from kailin_ray.engines.cpu import choose_dtype, multiplies_bfloat16
from tests.conftest import Command
from tests.support.model_configs import config_only

SKYLAKE = ("x86_64", False, False)
KINDS = [
    (("x86_64", True, False), True),  # Cooper Lake, Zen 4
    (("x86_64", False, True), True),  # Sapphire Rapids
    (SKYLAKE, False),  # and Cascade Lake, Ice Lake: AVX-512 without its bfloat16 part
    (("AMD64", False, False), False),
    (("aarch64", False, False), True),
]


def pretend(patch: pytest.MonkeyPatch, machine: str, avx512_bf16: bool, amx_tile: bool) -> None:
    """Make this process see another CPU."""
    patch.setattr(platform, "machine", lambda: machine)
    patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx_tile)


@pytest.mark.parametrize(("cpu", "is_fast"), KINDS)
def test_bfloat16_is_fast_only_where_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, cpu: tuple[str, bool, bool], is_fast: bool
) -> None:
    pretend(monkeypatch, *cpu)
    assert multiplies_bfloat16() == is_fast
    assert choose_dtype("auto") == ("auto" if is_fast else "float32")
    assert choose_dtype("bfloat16") == "bfloat16"


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="not Linux on x86")
def test_the_flags_are_those_of_the_kernel() -> None:
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    assert multiplies_bfloat16() == bool(flags & {"avx512_bf16", "amx_tile"})


@pytest.mark.parametrize(
    ("cpu", "keys", "gib", "kib"),
    [
        (KINDS[0][0], (), 15.0, 128),
        (SKYLAKE, (), 29.9, 256),
        (SKYLAKE, ("+model.engine.dtype=auto",), 29.9, 256),
        (SKYLAKE, ("+model.engine.dtype=bfloat16",), 15.0, 128),
        (SKYLAKE, ("cluster.device=gpu",), 15.0, 128),
    ],
)
def test_a_plan_reckons_with_the_type_that_the_engine_takes(
    kailin_here: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cpu: tuple[str, bool, bool],
    keys: tuple[str, ...],
    gib: float,
    kib: int,
) -> None:
    pretend(monkeypatch, *cpu)
    nodes = "cluster.nodes={count: 1, cpus: 16, memory_gib: 64, gpus: 8, gpu_memory_gib: 80}"
    given = ["model=chat", f"model.path={config_only(tmp_path, 'llama-3-8b')}", nodes, "cluster.device=cpu"]
    done = kailin_here("plan", *given, "+model.engine.kv_cache_memory_bytes=8589934592", *keys)
    assert done.returncode == 0, done.stderr
    assert f"{gib} GiB of weights, {kib} KiB of KV cache a token" in done.stdout


def test_a_model_that_fits_only_in_16_bits_is_refused_where_engines_take_32(
    kailin_here: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes = "cluster.nodes={count: 1, cpus: 16, memory_gib: 24, gpus: 0, gpu_memory_gib: 0}"
    given = ["model=chat", f"model.path={config_only(tmp_path, 'llama-3-8b')}", nodes, "cluster.device=cpu"]
    given.append("+model.engine.kv_cache_memory_bytes=4294967296")
    pretend(monkeypatch, *KINDS[0][0])
    assert kailin_here("plan", *given).returncode == 0
    pretend(monkeypatch, *SKYLAKE)
    done = kailin_here("plan", *given)
    assert done.returncode == 2
    assert "does not fit: 8.0 B parameters are 29.9 GiB of weights" in done.stderr
