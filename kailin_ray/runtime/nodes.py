"""The machines of the session's cluster and their resources."""

import math
from dataclasses import replace

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kailin_ray.config import Cluster
from kailin_ray.errors import ConfigError
from kailin_ray.planning.plan import Plan, encoders_of
from kailin_ray.planning.pools import GIB, Node
from kailin_ray.runtime.gpus import smallest_gpu_gib


def cluster_nodes(cluster: Cluster) -> list[Node]:
    """Return the machines of the session's cluster. Raises ``ConfigError`` if the memory of a GPU is unknown."""
    nodes = alive_nodes()
    if cluster.device != "gpu":
        return nodes
    memory = _gpu_memory([node for node in nodes if node.gpus])
    unknown = [reason for reason in memory.values() if isinstance(reason, str)]
    if unknown and not cluster.nodes:
        raise ConfigError(
            f"cluster.device: gpu, but the memory of the GPUs is unknown on {len(unknown)} of {len(memory)} machines: "
            f"{unknown[0]}; give it as cluster.nodes={{count: {len(nodes)}, ..., gpu_memory_gib: ...}}"
        )
    assumed = cluster.nodes.gpu_memory_gib if cluster.nodes else 0.0
    known = {identity: gib if isinstance(gib, float) else assumed for identity, gib in memory.items()}
    return [replace(node, gpu_memory_gib=known.get(str(node.identity), 0.0)) for node in nodes]


def alive_nodes() -> list[Node]:
    """Return the machines of the session's cluster, without the memory of their GPUs."""
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0),
            memory_gib=node["Resources"].get("memory", 0) / GIB,
            gpus=node["Resources"].get("GPU", 0),
            identity=node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _gpu_memory(nodes: list[Node]) -> dict[str, float | str]:
    """Return the memory of each machine's smallest GPU in GiB, or why it is unknown, by the machine's id."""
    # With this variable set to 1, Ray would hide from a task without GPUs which GPUs the machine counts.
    environment = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}}
    references = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.identity, soft=False)
        task = ray.remote(num_cpus=0, scheduling_strategy=there, runtime_env=environment)(smallest_gpu_gib)
        references[str(node.identity)] = task.remote(math.ceil(node.gpus))
    return {identity: ray.get(reference) for identity, reference in references.items()}


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
    share, wanted = cluster.gpus_per_encoder, cluster.num_encoders
    cpus = sum(node.cpus for node in nodes)
    if wanted >= cpus:
        raise ConfigError(
            f"cluster: {wanted} encoders x 1 = {wanted} CPUs, plus one for reading and writing; the cluster has "
            f"{cpus:g}"
        )
    if not share:
        return
    gpus = sum(node.gpus for node in nodes)
    most = sum(int(min(node.cpus, encoders_of(node.gpus, share))) for node in nodes)
    if wanted > most:
        raise ConfigError(
            f"cluster: {wanted} encoders x {share:g} = {wanted * share:g} GPUs; the cluster has {gpus:g}, which hold "
            f"{most} such encoders with a CPU each: an encoder cannot span {'GPUs' if share < 1 else 'machines'}"
        )
