"""Configuration of where a command runs."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.fields import STRICT, NotNegative, Positive


def _check_share(gpus: float) -> float:
    """Return what Ray can reserve. Raises ``ValueError`` otherwise."""
    if (gpus > 1 and gpus != int(gpus)) or 0 < gpus < 0.0001:
        raise ValueError("allowed: 0, a share of one GPU from 0.0001 to 1, or a whole number")
    return gpus


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Nodes:
    """A number of identical machines."""

    count: Positive
    """How many machines."""
    cpus: Positive
    """CPU cores of one machine."""
    memory_gib: Annotated[float, Field(gt=0.0)]
    """Memory of one machine."""
    gpus: NotNegative
    """GPUs of one machine."""
    gpu_memory_gib: Annotated[float, Field(ge=0.0)]
    """Memory of one GPU."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cluster:
    """Where a command runs, and how its work is divided."""

    address: str | None
    """Address of a running Ray cluster. null uses RAY_ADDRESS if that is set, and otherwise starts Ray on this
    machine."""
    nodes: Nodes | None
    """The machines of a cluster that `plan` plans for without connecting to it. The other commands use only its
    gpu_memory_gib, for machines that do not report the memory of their GPUs."""
    device: Literal["cpu", "gpu"]
    """What the engines run on; cpu needs vLLM's CPU build."""
    num_engines: Positive | None
    """Replicas of each engine; null lets the plan choose."""
    stage_placement: Literal["auto", "together", "sequential"]
    """Whether stages run at the same time. auto: as many as the machines can hold, the rest later. together: all at
    once, or the run is refused. sequential: one stage after another."""
    cpus_per_engine: Annotated[float, Field(gt=0.0)]
    """CPUs that Ray reserves for an engine's actor. This does not set the number of its threads."""
    threads_per_engine: Positive | None
    """Threads of an engine on CPUs; null divides the machine's cores evenly among its engines."""
    num_retrievers: Positive | None
    """Actors that search the index; null for one on each machine whose engines need contexts."""
    num_encoders: Positive
    """Actors that encode passages while an index is built."""
    gpus_per_encoder: Annotated[float, Field(ge=0.0), AfterValidator(_check_share)]
    """GPUs that Ray reserves for an encoder, and for a retriever, which encodes the questions: a share of one GPU, such
    as 0.25, or a whole number. Engines take whole GPUs, so that retrievers with a share leave them a GPU less."""
    block_rows: Positive
    """Abstracts that are passed between stages and written together."""
    max_concurrent_rows: Positive | None
    """Abstracts that an engine works on at once; null lets the plan compute it from the KV cache. If the engine
    crashes, at most about twice as many are redone."""
    max_silent_minutes: Annotated[float, Field(ge=0.0)] | None = 60.0  # runs of earlier versions, replayed, lack it
    """Kill an engine of a run that has calls and ends none of them in this time, and a retriever that does not answer.
    Their rows are redone as after a crash. The start of an engine does not count. null or 0 for no limit."""
    gpu_hour_price: Annotated[float, Field(ge=0.0)] | None
    """Price of one GPU for one hour; null leaves prices out of the summary."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Job:
    """How a command runs as a job of a Ray cluster, in Ray's terms."""

    address: str | None
    """Address of the cluster's dashboard; null uses RAY_API_SERVER_ADDRESS, or this machine's."""
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None
    """The job's id; null lets Ray choose one."""
    follow: bool
    """Print the job's output until it ends, and exit with its exit code."""
    ship: bool
    """Upload this package with the job; false if the cluster's machines have it installed."""
    python: str
    """The Python interpreter on the cluster's machines."""
    num_cpus: Annotated[float, Field(ge=0)]
    """CPUs that Ray reserves for the driver; 0 runs it on the head node."""
    memory_gib: Annotated[float, Field(ge=0)]
    """Memory that Ray reserves for the driver."""
    resources: dict[str, Annotated[float, Field(gt=0)]]
    """Custom resources that Ray reserves for the driver, such as one that only some machines have."""
    env: dict[str, str]
    """Environment variables of the driver and its workers. Put no secrets here: Ray shows them."""
    stop_seconds: Positive
    """How long `ray job stop` waits for a run to finish its rows before it kills the job."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubmitConfig:
    """``kailin-ray submit <command>``."""

    command: str
    """The command to run: the first word after `submit`."""
    job: Job
    keys: tuple[str, ...]
    """The keys of that command. Filled from the command line: every key that does not begin with `job.`."""
