"""The Ray session: connect to a cluster or start one, and the environment of its actors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.data
from ray._private import ray_constants

from kailin_ray.config import Cluster, without_secrets
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.logs import log_to
from kailin_ray.io.terminal import output_to

LINEAGE_BYTES = 32 << 20
"""Bytes that the driver may keep to record how finished tasks ran, so that Ray can recompute a lost block. A block of
rows takes about 50 KB, and only blocks in flight matter. Ray's default of 1 GiB fills with millions of rows that were
written long ago."""

START_WAIT = "RAY_raylet_start_wait_time_s"
"""Ray's own variable: seconds within which a session on this machine must start, 30 by default."""


NICENESS = "RAY_worker_niceness"
"""Ray's own variable: the niceness of its workers, 15 by default. With it, an engine gets nearly no time beside any
other busy process: beside two of them on two cores it had not started after seven minutes (docs/decisions.md)."""

STATE_OF = "RAY_API_SERVER_ADDRESS"
NOWHERE = "http://127.0.0.1:9"
"""Address that the processes of a session on this machine query for the state of its actors. Such a session has no
dashboard. By default, they would query the dashboard of the cluster that ``ray start`` created last on this machine. It
knows none of these actors, so Ray Train assumes that its controller died and ends the training (2.60,
``placement_group_cleaner.py``)."""


@contextmanager
def ray_session(cluster: Cluster, log: Path, num_cpus: int | None = None) -> Iterator[TextIO]:
    """Connect to the cluster, or start one on this machine with ``num_cpus`` CPUs; yield the terminal.

    Inside the block, this process's output goes to ``log``: Ray writes there from Python and from C++, and none of it
    is for the person who watches.

    If this process already has a session, it is used as it is and stays open after the block.

    Raises ``ConfigError`` if the cluster cannot be reached, ``CommandFailedError`` if none starts here in time.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with output_to(log) as terminal, log_to(log):
        ours = not ray.is_initialized()
        if ours:
            _start_ray(cluster, num_cpus)
        _quiet_ray_data()
        try:
            yield terminal
        finally:
            if ours:
                ray.shutdown()


def _start_ray(cluster: Cluster, num_cpus: int | None) -> None:
    # Without an address, Ray would join any cluster that runs on this machine, even somebody else's.
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False, "num_cpus": num_cpus} if address == "local" else {}
    os.environ.setdefault("RAY_max_lineage_bytes", str(LINEAGE_BYTES))
    os.environ.setdefault(NICENESS, "0")
    try:
        with _on_loopback() if local else nullcontext():
            ray.init(address=address, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        message = without_secrets(f"{address}: {' '.join(str(error).split())}")
        raise ConfigError(f"cluster.address: {message}") from error
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray has no exception class for it
            raise
        seconds = os.environ.get(START_WAIT, "30")
        raise CommandFailedError(
            f"Ray did not start within {seconds} s; this machine is busy or low on memory: stop other programs on it "
            f"(`ray stop` ends all your Ray sessions here), or allow more time with {START_WAIT}=120"
        ) from error


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a session that starts inside the block listen on this machine's loopback alone, and ask no other cluster.

    Ray's ports ask for no password: who reaches them runs code as this user. ``_node_ip_address="127.0.0.1"`` does not
    help, as Ray replaces it by the machine's address (2.60, ``services.resolve_ip_for_localhost``). This constant is
    what keeps Ray on the loopback on macOS and Windows; its environment variable counts only before Ray is imported.
    """
    previous = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _environment({STATE_OF: NOWHERE}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = previous


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block, for this process and the processes that it starts."""
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _quiet_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # else a thread runs for each block, only for Ray Data's statistics


def engine_environment(cluster: Cluster, num_engines: int) -> dict[str, str]:
    """Return the environment of an engine actor, one of ``num_engines`` on its machine.

    On CPUs, it sets the number of threads and does not bind them to cores, because other actors share the cores.
    """
    if cluster.device == "gpu":
        return {}
    threads = cluster.threads_per_engine or max(1, min(_cores()) // num_engines)
    return {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def encoder_environment(cluster: Cluster) -> dict[str, str]:
    """Return the environment of an encoder actor: on CPUs, as many threads as its share of the machines' cores."""
    if cluster.gpus_per_encoder:
        return {}
    cores = _cores()
    return {"OMP_NUM_THREADS": str(max(1, min(max(cores), sum(cores) // cluster.num_encoders)))}


def _cores() -> list[int]:
    """Return the cores of each live machine, as Ray counts them: of a container or an allocation, not of the host."""
    if not ray.is_initialized():
        return [os.cpu_count() or 1]
    return [int(cpus) for node in ray.nodes() if node["Alive"] and (cpus := node["Resources"].get("CPU"))] or [1]
