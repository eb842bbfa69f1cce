"""What runs where: the Ray session, and the check that the cluster has what the configuration asks for."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.data

from kailin_ray.config import Cluster, ConfigError


@contextmanager
def ray_session(cluster: Cluster, log: Path) -> Iterator[TextIO]:
    """Connect to the cluster, or start one on this machine; yield the person's terminal.

    Inside the block this process's standard error goes to ``log``: Ray writes there from Python and from C++, and none
    of it is for the person who watches.

    Raises ``ConfigError`` if the cluster cannot be reached or lacks what the configuration asks for.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with _stderr_to(log) as terminal:
        _start_ray(cluster)
        try:
            check_resources(cluster, ray.cluster_resources())
            yield terminal
        finally:
            ray.shutdown()


@contextmanager
def _stderr_to(log: Path) -> Iterator[TextIO]:
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield terminal
    finally:
        sys.stderr.flush()
        os.dup2(terminal.fileno(), 2)
        terminal.close()


def _start_ray(cluster: Cluster) -> None:
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, **local)
    except ConnectionError as error:
        raise ConfigError(f"cluster.address: {address}: {' '.join(str(error).split())}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def check_resources(cluster: Cluster, have: dict[str, float]) -> None:
    """Raise ``ConfigError``, with the arithmetic, for what Ray would otherwise wait for, silently and for ever."""
    gpus = cluster.num_engines * cluster.gpus_per_engine + cluster.num_encoders * cluster.gpus_per_encoder
    if gpus > have.get("GPU", 0):
        raise ConfigError(
            f"cluster: {cluster.num_engines} engines x {cluster.gpus_per_engine} GPUs + {cluster.num_encoders} "
            f"encoders x {cluster.gpus_per_encoder:g} GPUs = {gpus:g} GPUs; the cluster has {have.get('GPU', 0):g}"
        )
    if cluster.num_engines >= have.get("CPU", 0) and not cluster.gpus_per_engine:
        raise ConfigError(
            f"cluster.num_engines: {cluster.num_engines} engines on CPUs leave none of the cluster's "
            f"{have.get('CPU', 0):g} CPUs to read and write with"
        )


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
