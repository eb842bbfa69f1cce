"""The Ray session: connect or start, where its output goes, and what the cluster's machines have."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kailin_ray.config import Cluster, ConfigError, without_secrets
from kailin_ray.plan import Plan
from kailin_ray.pools import GIB, Node

LINEAGE_BYTES = 32 << 20
"""What the driver may keep of how finished tasks were made, so that Ray can make a lost block again: about 50 KB a
block of rows, of which those in flight matter. Ray's own 1 GiB is filled by millions of rows that are long written."""


@contextmanager
def ray_session(cluster: Cluster, log: Path, num_cpus: int | None = None) -> Iterator[TextIO]:
    """Connect to the cluster, or start one on this machine with so many CPUs; yield the person's terminal.

    Inside the block this process's output goes to ``log``: Ray writes there from Python and from C++, and none
    of it is for the person who watches.

    Raises ``ConfigError`` if the cluster cannot be reached.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with output_to(log) as terminal:
        _start_ray(cluster, num_cpus)
        try:
            yield terminal
        finally:
            ray.shutdown()


@contextmanager
def output_to(log: Path) -> Iterator[TextIO]:
    """Send this process's output, also that of its C++ parts, to ``log``; yield the person's terminal."""
    sys.stdout.flush()
    stdout, terminal = os.dup(1), os.fdopen(os.dup(2), "w", buffering=1)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(stdout, 1)
        os.dup2(terminal.fileno(), 2)
        os.close(stdout)
        terminal.close()


def _start_ray(cluster: Cluster, num_cpus: int | None) -> None:
    # Without an address Ray would join whatever cluster runs on this machine, somebody else's too.
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False, "num_cpus": num_cpus} if address == "local" else {}
    os.environ.setdefault("RAY_max_lineage_bytes", str(LINEAGE_BYTES))
    try:
        ray.init(address=address, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = without_secrets(f"{address}: {' '.join(str(error).split())}")
        raise ConfigError(f"cluster.address: {said}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # else a thread for each block, only for Ray Data's own statistics


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


def engine_environment(cluster: Cluster, num_engines: int) -> dict[str, str]:
    """Environment of an engine actor, one of ``num_engines`` on its machine.

    On CPUs: so many threads, free to move, as other actors share the cores.
    """
    if cluster.device == "gpu":
        return {}
    threads = cluster.threads_per_engine or max(1, min(_cores()) // num_engines)
    return {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def encoder_environment(cluster: Cluster) -> dict[str, str]:
    """Environment of an encoder actor: on CPUs, its share of the machines' cores as threads."""
    if cluster.gpus_per_encoder:
        return {}
    cores = _cores()
    return {"OMP_NUM_THREADS": str(max(1, min(max(cores), sum(cores) // cluster.num_encoders)))}


def _cores() -> list[int]:
    """Of each machine that works, as Ray counts them: a container's or an allocation's, and not the host's."""
    if not ray.is_initialized():
        return [os.cpu_count() or 1]
    return [int(cpus) for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU"))] or [1]
