"""The memory of the GPUs that Ray counts, from nvidia-smi; a script with its output stands in for it."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kailin_ray.runtime.gpus import smallest_gpu_gib
from tests.support.model_configs import config_only

Command = Callable[..., subprocess.CompletedProcess[str]]

H200, H100 = "143771 MiB", "81559 MiB"


def uuid(number: int) -> str:
    return f"GPU-{number}f57f032-34ab-a064-c37c-7a4f75601cc{number}"


def mig_uuid(card: int, number: int) -> str:
    return f"MIG-{card}{number}7e0049-554c-540b-93c6-d0976f8426c{number}"


def memory(total: str) -> str:
    return f"<fb_memory_usage><total>{total}</total><reserved>0 MiB</reserved><used>1 MiB</used></fb_memory_usage>"


def card(number: int, total: str, slices: tuple[str, ...] | None = None) -> str:
    """A card as ``nvidia-smi -q -x`` of driver 580 prints it, without what is not about memory."""
    mode = "Disabled" if slices is None else "Enabled"
    devices = "".join(
        f"<mig_device><index>{index}</index><gpu_instance_id>{index + 3}</gpu_instance_id>"
        f"<compute_instance_id>0</compute_instance_id>{memory(size)}"
        f"<bar1_memory_usage><total>65535 MiB</total></bar1_memory_usage></mig_device>"
        for index, size in enumerate(slices or ())
    )
    return (
        f'<gpu id="00000000:{number + 10}:00.0"><product_name>NVIDIA H200</product_name>'
        f"<mig_mode><current_mig>{mode}</current_mig><pending_mig>{mode}</pending_mig></mig_mode>"
        f"<mig_devices>{devices or 'None'}</mig_devices><uuid>{uuid(number)}</uuid>"
        f"<minor_number>{number}</minor_number>{memory(total)}"
        f"<bar1_memory_usage><total>262144 MiB</total></bar1_memory_usage></gpu>"
    )


Cards = list[tuple[str, tuple[str, ...] | None]]


def answers(cards: Cards) -> tuple[str, str]:
    """What ``nvidia-smi -q -x`` and ``nvidia-smi -L`` print about cards."""
    xml = "".join(card(number, *one) for number, one in enumerate(cards))
    lines = []
    for number, (_, slices) in enumerate(cards):
        lines.append(f"GPU {number}: NVIDIA H200 (UUID: {uuid(number)})")
        lines += [f"  MIG 1g.18gb     Device  {i}: (UUID: {mig_uuid(number, i)})" for i in range(len(slices or ()))]
    head = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
    count = f"<driver_version>580.105.08</driver_version><attached_gpus>{len(cards)}</attached_gpus>"
    return f"{head}<nvidia_smi_log>{count}{xml}</nvidia_smi_log>\n", "\n".join(lines) + "\n"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script on PATH as nvidia-smi."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def install(script: str) -> None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "nvidia-smi").chmod(0o755)

    return install


@pytest.fixture
def machine(tool: Callable[[str], None], tmp_path: Path) -> Callable[[Cards], None]:
    """Puts an nvidia-smi on PATH that reports these cards."""

    def install(cards: Cards) -> None:
        for name, text in zip(("xml", "list"), answers(cards), strict=True):
            (tmp_path / name).write_text(text)
        tool(f'if [ "$*" = -L ]; then cat "{tmp_path}/list"; else [ "$*" = "-q -x" ] && cat "{tmp_path}/xml"; fi')

    return install


ONE: Cards = [(H200, None)]
MIXED: Cards = [(H100, None)] * 4 + [(H200, None)] * 4
ALIKE: Cards = [(H200, None)] * 8
SLICED: Cards = [(H200, ("71424 MiB", "34816 MiB", "16384 MiB")), (H200, ("16384 MiB", "71424 MiB"))]
HALF: Cards = [(H200, ("16384 MiB", "16384 MiB")), (H200, None)]


@pytest.mark.parametrize(
    ("cards", "visible", "order", "counted", "mib"),
    [
        (ONE, None, None, 1, 143771),
        (ONE, "0", None, 1, 143771),
        (ALIKE, "6,7", None, 2, 143771),
        (MIXED, None, None, 8, 81559),
        (MIXED, "6,7", "PCI_BUS_ID", 2, 143771),
        (MIXED, "3, 7", "PCI_BUS_ID", 2, 81559),
        (MIXED, "7,3", "PCI_BUS_ID", 1, 143771),  # ray start --num-gpus=1
        (MIXED, "6,7", None, 2, 81559),  # CUDA's numbers may be of any of them
        (MIXED, uuid(6), None, 1, 143771),
        (MIXED, f"{uuid(7)},{uuid(2)}", None, 2, 81559),
        (MIXED, uuid(5)[:12], None, 1, 143771),
        (SLICED, None, None, 2, 16384),
        (SLICED, "0", None, 1, 16384),
        (SLICED, uuid(0), None, 1, 16384),
        (SLICED, mig_uuid(0, 0), None, 1, 71424),
        (SLICED, mig_uuid(1, 1), None, 1, 71424),
        (SLICED, f"{mig_uuid(0, 0)},{mig_uuid(0, 1)}", None, 2, 34816),
        (SLICED, mig_uuid(0, 1)[:10], None, 1, 34816),
        (HALF, uuid(1), None, 1, 143771),
        (HALF, "1", "PCI_BUS_ID", 1, 143771),
        ([(H100, None), ("[N/A]", None)], uuid(0), None, 1, 81559),
    ],
)
def test_the_gpus_that_ray_counts_are_measured(
    machine: Callable[[Cards], None],
    monkeypatch: pytest.MonkeyPatch,
    cards: Cards,
    visible: str | None,
    order: str | None,
    counted: int,
    mib: int,
) -> None:
    machine(cards)
    for name, value in (("CUDA_VISIBLE_DEVICES", visible), ("CUDA_DEVICE_ORDER", order)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert smallest_gpu_gib(counted) == mib / 1024


@pytest.mark.parametrize(
    ("cards", "visible", "counted", "reason"),
    [
        (ONE, "", 1, "GPU '', which CUDA_VISIBLE_DEVICES names or Ray counts, is none of nvidia-smi's 1"),
        (ONE, "NoDevFiles", 1, "GPU 'NoDevFiles', which CUDA_VISIBLE_DEVICES names"),
        (ONE, "-1", 1, "GPU '-1', which"),
        (ONE, "1", 1, "GPU '1', which"),
        (ONE, None, 7, "GPU '1', which CUDA_VISIBLE_DEVICES names or Ray counts, is none of nvidia-smi's 1"),
        (ONE, uuid(3), 1, f"GPU '{uuid(3)}', which"),
        (MIXED, "GPU-", 1, "GPU 'GPU-', which"),  # could be any
        (SLICED, "MIG-99", 1, "GPU 'MIG-99', which"),
        ([(H200, ())], None, 1, f"{uuid(0)} is in MIG mode and has no MIG device"),
        ([("[N/A]", None)], None, 1, "nvidia-smi reports no memory (N/A), as of a unified memory"),
        ([("N/A", None)], "0", 1, "nvidia-smi reports no memory (N/A)"),
        ([(H100, None), ("N/A", None)], None, 2, "nvidia-smi reports no memory (N/A)"),
        ([(H200, ("Insufficient Permissions",))], mig_uuid(0, 0), 1, "nvidia-smi reports no memory (N/A)"),
    ],
)
def test_what_cannot_be_measured_has_a_reason(
    machine: Callable[[Cards], None],
    monkeypatch: pytest.MonkeyPatch,
    cards: Cards,
    visible: str | None,
    counted: int,
    reason: str,
) -> None:
    machine(cards)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert str(smallest_gpu_gib(counted)).startswith(reason)


FAILED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running."
)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (f'echo "{FAILED}"; echo; exit 9', f"nvidia-smi fails with exit code 9: {FAILED}"),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch' >&2; exit 18", "nvidia-smi fails with exit "
         "code 18: Failed to initialize NVML: Driver/library version mismatch"),
        ("exit 3", "nvidia-smi fails with exit code 3: no message"),
        ("echo No devices were found", "nvidia-smi's answer is not XML"),
        ("true", "nvidia-smi's answer is not XML"),
        ("printf '\\377\\376<gpu'", "nvidia-smi's answer is not XML"),
    ],
)  # fmt: skip
def test_a_tool_that_fails_is_quoted(tool: Callable[[str], None], script: str, reason: str) -> None:
    tool(script)
    assert smallest_gpu_gib(1) == reason


def test_a_tool_that_hangs_is_left(tool: Callable[[str], None]) -> None:
    """Also one with a child that holds its output, as one that hangs in the driver would."""
    tool("sleep 30")
    begun = time.monotonic()
    assert smallest_gpu_gib(1, seconds=0.2) == "nvidia-smi does not answer within 0.2 s"
    assert time.monotonic() - begun < 25


def test_without_the_tool_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("nvidia-smi") is None
    assert smallest_gpu_gib(1) == "nvidia-smi is not on PATH"


def with_gpus(number: int) -> dict[str, str]:
    """Lets Ray count GPUs, and hide them from tasks that have none."""
    return {"RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": number}), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}


def test_a_plan_counts_the_memory_of_the_visible_gpus(
    machine: Callable[[Cards], None], kailin_subprocess: Command, tmp_path: Path
) -> None:
    machine(MIXED)
    keys = ("plan", "model=chat", f"model.path={config_only(tmp_path, 'llama-3-8b')}", "cluster=gpu")
    shown = kailin_subprocess(*keys, CUDA_VISIBLE_DEVICES=f"{uuid(6)},{uuid(7)}", **with_gpus(2))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "2 GPUs of 140" in shown.stdout


def test_unknown_memory_is_one_line_and_can_be_given(
    tool: Callable[[str], None], kailin_subprocess: Command, documents: Path, tmp_path: Path
) -> None:
    tool(f'echo "{FAILED}"; exit 9')
    keys = ("plan", "model=chat", f"model.path={config_only(tmp_path, 'llama-3-8b')}", "cluster=gpu")
    refused = kailin_subprocess(*keys, **with_gpus(1))
    assert (refused.returncode, refused.stdout) == (2, "")
    [line] = refused.stderr.splitlines()
    assert line == (
        "kailin_ray: cluster.device: gpu, but the memory of the GPUs is unknown on 1 of 1 machines: nvidia-smi fails "
        f"with exit code 9: {FAILED}; give it as cluster.nodes={{count: 1, ..., gpu_memory_gib: ...}}"
    )
    # Encoders do not need to know it.
    built = kailin_subprocess(
        "index", f"documents={documents}", f"out={tmp_path / 'index'}", "limit=8", "cluster=gpu", **with_gpus(1)
    )
    assert (built.returncode, built.stderr.count("cluster.nodes")) == (0, 0), built.stderr
