"""Configuration of where a command runs."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.fields import STRICT, NotNegative, Positive


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Nodes:
    """Machines that are alike."""

    count: Positive
    cpus: Positive
    memory_gib: Annotated[float, Field(gt=0.0)]
    gpus: NotNegative
    gpu_memory_gib: Annotated[float, Field(ge=0.0)]
    """Of one GPU."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cluster:
    """Where it runs."""

    address: str | None
    """Of a running Ray cluster; null starts one on this machine, unless RAY_ADDRESS is set."""
    nodes: Nodes | None
    """For ``plan``, a cluster that is not at hand; null for the one that is."""
    device: Literal["cpu", "gpu"]
    """What engines run on; cpu needs vLLM's CPU build."""
    num_engines: Positive | None
    """Replicas of each engine; null for what the plan finds best."""
    cut: Literal["auto", "never", "always"]
    """Stages that do not fit side by side run one after another: as few cuts as it takes, none, or after each stage."""
    cpus_per_engine: Annotated[float, Field(gt=0.0)]
    """That an engine's actor holds in Ray; on CPUs its threads are another matter."""
    threads_per_engine: Positive | None
    """Of an engine on CPUs; null shares the machine's cores out evenly."""
    num_retrievers: Positive | None
    """Actors that find the contexts; null for one on each machine whose engines ask for them."""
    num_encoders: Positive
    gpus_per_encoder: Annotated[float, Field(ge=0.0)]
    """Also of a retriever, which encodes the questions."""
    rows_per_block: Positive
    """Abstracts that are handed on and written together."""
    rows_in_flight: Positive
    """Abstracts that an engine works on at once: what a crash of it can cost, about twice."""
    gpu_hour_price: Annotated[float, Field(ge=0.0)] | None
    """Money for a GPU and hour; null leaves money out of the summary."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Job:
    """A command as a job of a Ray cluster; the names are Ray's."""

    address: str | None
    """Of the cluster's dashboard; null: the environment variable RAY_API_SERVER_ADDRESS, or this machine's."""
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None
    """Null: one that Ray makes."""
    follow: bool
    """Show its output until it ends, and end with its exit code."""
    ship: bool
    """This code travels; false: the cluster's machines have it installed."""
    python: str
    """The interpreter on the cluster's machines."""
    num_cpus: Annotated[float, Field(ge=0)]
    """That the driver holds; with 0 it runs on the head."""
    memory_gib: Annotated[float, Field(ge=0)]
    resources: dict[str, Annotated[float, Field(gt=0)]]
    """Others that it holds, such as those that only some machines have."""
    env: dict[str, str]
    """Environment variables of the driver and its workers; no secrets."""
    stop_seconds: Positive
    """That `ray job stop` waits for a run to drain, before it kills it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SubmitConfig:
    """``python -m kailin_ray submit <command>``."""

    command: str
    job: Job
    keys: tuple[str, ...]
    """Of the command, as on its command line."""
