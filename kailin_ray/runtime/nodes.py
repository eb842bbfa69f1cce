"""The machines of the session's cluster and their resources."""

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
    """Return the machines of the session's cluster. Raises ``ConfigError`` if the memory of a GPU is unknown."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    memory = _gpu_memory([n["NodeID"] for n in alive if n["Resources"].get("GPU")]) if cluster.device == "gpu" else {}
    unknown = [identity for identity, gib in memory.items() if gib is None]
    if unknown and not cluster.nodes:
        raise ConfigError(
            f"cluster.device: gpu, but {len(unknown)} machines of the cluster do not report the memory of their GPUs "
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
    """Return the memory of each node's smallest GPU in GiB, by node id; None if unknown."""
    references = {
        node: ray.remote(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))(
            smallest_gpu_gib
        ).remote()
        for node in nodes
    }
    return {node: ray.get(reference) for node, reference in references.items()}


def smallest_gpu_gib() -> float | None:
    """Return the memory of this machine's smallest GPU in GiB, without using the GPU; None without NVIDIA's driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    sizes = [float(line) for line in result.stdout.split("\n") if line.strip().replace(".", "").isdigit()]
    return min(sizes) / 1024 if sizes else None


def others_hold(plan: Plan) -> str | None:
    """Return a message if others hold some of the cluster's resources that the plan needs now, else None."""
    free = ray.available_resources()
    lines = []
    for unit, name in (("gpus", "GPU"), ("cpus", "CPU")):
        need = max(sum(pool.replicas * getattr(pool.demand, unit) for pool in pools) for pools in plan.phases)
        if need > free.get(name, 0.0):
            lines.append(f"{need:g} {name}s are needed, {free.get(name, 0.0):g} are free now")
    return f"waiting for resources that others hold: {'; '.join(lines)}" if lines else None


def check_encoders(cluster: Cluster, nodes: list[Node]) -> None:
    """Raise ``ConfigError``, with the arithmetic, if the encoders do not fit: Ray would wait silently and for ever."""
    for unit, per_encoder in (("cpus", 1.0), ("gpus", cluster.gpus_per_encoder)):
        need, have = cluster.num_encoders * per_encoder, sum(getattr(node, unit) for node in nodes)
        extra = ", plus one for reading and writing" if unit == "cpus" else ""
        if need > have or (extra and need == have):
            sums = f"{cluster.num_encoders} encoders x {per_encoder:g} = {need:g} {unit.upper()[:3]}s"
            raise ConfigError(f"cluster: {sums}{extra}; the cluster has {have:g}")
