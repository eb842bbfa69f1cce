"""The hierarchy in Ray's object store: two actors of a node read it where it lies."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from kailin_ray.mesh import MeshHierarchy
from tests.conftest import MESH


class Reader:
    """Reads all of a hierarchy and says what that cost this process."""

    def __init__(self, toy: Any):
        read_all(toy)  # what reading imports and compiles is there before it is measured

    def cost(self, mesh: Any) -> tuple[int, int]:
        """Growth of this process' private and shared resident memory, in bytes; it holds the hierarchy on."""
        gc.collect()
        before = resident()
        self.mesh = ray.get(mesh[0])
        read_all(self.mesh)
        return tuple(b - a for a, b in zip(before, resident(), strict=True))  # type: ignore[return-value]


def read_all(mesh: MeshHierarchy) -> None:
    for value in vars(mesh).values():
        for array in buffers(value):
            np.frombuffer(array, np.uint8)[:: 1 << 10].sum()


def buffers(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return [value.view(np.uint8).data] if value.size else []
    return [buffer for buffer in value.buffers() if buffer] if isinstance(value, pa.Array) else []


def resident() -> tuple[int, int]:
    """Private and shared resident bytes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    anon, shared = (int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssShmem"))
    return anon, shared


def test_two_actors_add_no_copy(ray_here: Callable[[], None], toy_mesh: MeshHierarchy) -> None:
    ray_here()
    mesh = MeshHierarchy.load(MESH).with_counts({"D003924": 7})
    stored = ray.put(mesh)
    readers = [ray.remote(num_cpus=0)(Reader).remote(toy_mesh) for _ in range(2)]
    for private, shared in ray.get([reader.cost.remote([stored]) for reader in readers]):
        print(f"{mesh.nbytes:,} bytes of arrays: {private:,} private, {shared:,} shared")
        assert private < 0.1 * mesh.nbytes
        assert shared > 0.8 * mesh.nbytes
