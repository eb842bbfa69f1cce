"""The machines of the session's cluster, and what they have."""

import shutil
import subprocess

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kailin_ray.config import Cluster
from kailin_ray.errors import ConfigError
from kailin_ray.planning.plan import Plan
from kailin_ray.planning.pools import GIB, Node


def cluster_nodes(cluster: Cluster) -> list[Node]:
    """What the machines of the session's cluster have. Raises ``ConfigError`` if a GPU does not tell its memory."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    memory = _gpu_memory([n["NodeID"] for n in alive if n["Resources"].get("GPU")]) if cluster.device == "gpu" else {}
    unknown = [identity for identity, gib in memory.items() if gib is None]
    if unknown and not cluster.nodes:
        raise ConfigError(
            f"cluster.device: gpu, but {len(unknown)} machines of the cluster do not tell the memory of their GPUs "
            "(nvidia-smi); give it as cluster.nodes"
        )
    assumed = cluster.nodes.gpu_memory_gib if cluster.nodes else 0.0
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0),
            memory_gib=node["Resources"].get("memory", 0) / GIB,
            gpus=node["Resources"].get("GPU", 0),
            gpu_memory_gib=memory.get(node["NodeID"]) or assumed,
            identity=node["NodeID"],
        )
        for node in alive
    ]


def _gpu_memory(nodes: list[str]) -> dict[str, float | None]:
    """GiB of the smallest GPU of each node, by node id; None where it cannot be told."""
    asked = {
        node: ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(
            smallest_gpu_gib
        ).remote()
        for node in nodes
    }
    return {node: ray.get(answer) for node, answer in asked.items()}


def smallest_gpu_gib() -> float | None:
    """Memory of this machine's smallest GPU in GiB, asked without touching it; None without NVIDIA's driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    sizes = [float(line) for line in done.stdout.split("\n") if line.strip().replace(".", "").isdigit()]
    return min(sizes) / 1024 if sizes else None


def others_hold(plan: Plan) -> str | None:
    """A line that says so where the cluster has what a plan takes, but others hold some of it now."""
    free = ray.available_resources()
    lines = []
    for unit, name in (("gpus", "GPU"), ("cpus", "CPU")):
        need = max(sum(pool.replicas * getattr(pool.demand, unit) for pool in part) for part in plan.parts)
        if need > free.get(name, 0.0):
            lines.append(f"{need:g} {name}s are needed, {free.get(name, 0.0):g} are free now")
    return f"waiting for what others hold: {'; '.join(lines)}" if lines else None


def check_encoders(cluster: Cluster, nodes: list[Node]) -> None:
    """Raise ``ConfigError``, with the arithmetic, for encoders that Ray would wait for, silently and for ever."""
    for unit, held in (("cpus", 1.0), ("gpus", cluster.gpus_per_encoder)):
        need, have = cluster.num_encoders * held, sum(getattr(node, unit) for node in nodes)
        spare = ", and one more to read and write with" if unit == "cpus" else ""
        if need > have or (spare and need == have):
            sums = f"{cluster.num_encoders} encoders x {held:g} = {need:g} {unit.upper()[:3]}s"
            raise ConfigError(f"cluster: {sums}{spare}; the cluster has {have:g}")
