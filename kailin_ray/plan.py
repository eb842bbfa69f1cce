"""What runs where: the Ray session, and the check that the cluster has what the configuration asks for."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.data

from kailin_ray.config import Cluster, ConfigError


@dataclass(frozen=True)
class Actors:
    """So many actors of a kind that a job starts, and what each of them holds."""

    name: str
    count: int
    cpus: float
    gpus: float


@contextmanager
def ray_session(cluster: Cluster, log: Path, actors: Sequence[Actors] = ()) -> Iterator[TextIO]:
    """Connect to the cluster, or start one on this machine; yield the person's terminal.

    Inside the block this process's output goes to ``log``: Ray writes there from Python and from C++, and none
    of it is for the person who watches.

    Raises ``ConfigError`` if the cluster cannot be reached or lacks what the configuration asks for.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with output_to(log) as terminal:
        _start_ray(cluster)
        try:
            check_resources(actors, [node["Resources"] for node in ray.nodes() if node["Alive"]])
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


def _start_ray(cluster: Cluster) -> None:
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cluster.address: {address}: {' '.join(str(error).split())}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def check_resources(actors: Sequence[Actors], nodes: Sequence[dict[str, float]]) -> None:
    """Raise ``ConfigError``, with the arithmetic, for what Ray would otherwise wait for, silently and for ever.

    ``nodes`` are the resources of each node of the cluster.
    """
    for resource, unit in (("gpus", "GPU"), ("cpus", "CPU")):
        have = sum(node.get(unit, 0) for node in nodes)
        need = sum(group.count * getattr(group, resource) for group in actors)
        sums = " + ".join(f"{g.count} {g.name} x {getattr(g, resource):g}" for g in actors if getattr(g, resource))
        # Reading and writing need a CPU that no actor holds.
        if need > have or (unit == "CPU" and need == have):
            spare = ", and one more to read and write with" if unit == "CPU" else ""
            raise ConfigError(f"cluster: {sums} = {need:g} {unit}s{spare}; the cluster has {have:g}")
        for group in actors:
            largest = max((node.get(unit, 0) for node in nodes), default=0)
            if getattr(group, resource) > largest:
                each = f"{getattr(group, resource):g} {unit}s on one node"
                raise ConfigError(f"cluster: one of the {group.name} needs {each}; the largest has {largest:g}")


def engine_environment(cluster: Cluster) -> dict[str, str]:
    """Environment of an engine actor. On CPUs: so many threads, free to move, as other actors share the cores."""
    if cluster.gpus_per_engine:
        return {}
    threads = cluster.threads_per_engine or max(1, (os.cpu_count() or 1) // cluster.num_engines)
    return {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def encoder_environment(cluster: Cluster) -> dict[str, str]:
    """Environment of an encoder actor: on CPUs, its share of the machine's cores as threads."""
    if cluster.gpus_per_encoder:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // cluster.num_encoders))}
