"""The Ray session: connect or start, and what its engines are given."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import ray
import ray.data

from kailin_ray.config import Cluster, without_secrets
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.logs import log_to
from kailin_ray.io.terminal import output_to

LINEAGE_BYTES = 32 << 20
"""What the driver may keep of how finished tasks were made, so that Ray can make a lost block again: about 50 KB a
block of rows, of which those in flight matter. Ray's own 1 GiB is filled by millions of rows that are long written."""

START_WAIT = "RAY_raylet_start_wait_time_s"
"""Ray's own variable: seconds in which a session on this machine must start, 30 by default."""


STATE_OF = "RAY_API_SERVER_ADDRESS"
NOWHERE = "http://127.0.0.1:9"
"""What the processes of a session on this machine ask for the state of its actors. It has no dashboard that tells. By
default they ask that of the cluster which ``ray start`` made here last; which knows none of them, and Ray Train takes
that for the death of its controller and ends the training (2.60, ``placement_group_cleaner.py``)."""


@contextmanager
def ray_session(cluster: Cluster, log: Path, num_cpus: int | None = None) -> Iterator[TextIO]:
    """Connect to the cluster, or start one on this machine with so many CPUs; yield the person's terminal.

    Inside the block this process's output goes to ``log``: Ray writes there from Python and from C++, and none
    of it is for the person who watches.

    A session that this process has already is used as it is, and goes on after the block.

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
    # Without an address Ray would join whatever cluster runs on this machine, somebody else's too.
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False, "num_cpus": num_cpus} if address == "local" else {}
    os.environ.setdefault("RAY_max_lineage_bytes", str(LINEAGE_BYTES))
    try:
        with _environment({STATE_OF: NOWHERE} if local else {}):
            ray.init(address=address, log_to_driver=False, **local)
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = without_secrets(f"{address}: {' '.join(str(error).split())}")
        raise ConfigError(f"cluster.address: {said}") from error
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray gives it no class of its own
            raise
        seconds = os.environ.get(START_WAIT, "30")
        raise CommandFailedError(
            f"Ray did not start within {seconds} s; this machine is busy or low on memory: stop what else runs on it "
            f"(`ray stop` ends all your Ray sessions here), or give it longer with {START_WAIT}=120"
        ) from error


@contextmanager
def _environment(given: dict[str, str]) -> Iterator[None]:
    """Inside the block this process has these variables, and so do the processes that it starts."""
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _quiet_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.memory_usage_poll_interval_s = None  # else a thread for each block, only for Ray Data's own statistics


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
