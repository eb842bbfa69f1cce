"""Configuration of ``bench``."""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.fields import STRICT, Positive
from kailin_ray.config.run import DistillConfig
from kailin_ray.io.storage import LocalPath

Values = Annotated[tuple[Any, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bench:
    """What is measured."""

    sweep: dict[str, Values] | None
    """Settings to try, each with its values; every combination is measured. A name without a dot is an argument of
    vLLM's engine, such as max_num_seqs; with a dot it is a key of `distill`, such as cluster.num_engines."""
    runs: Positive
    """How often each combination is measured, with engines started anew; the median counts."""
    bare: bool
    """Also repeat each run's very calls through its bare engines, which is the ceiling."""
    chain: bool
    """Also run the very calls through a chain of ray.data.llm processors, which is the peer. Needs `bench.bare`, and
    one model for all agents."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BenchConfig(DistillConfig):
    """``kailin-ray bench``. It takes all keys of ``distill``."""

    bench: Bench
    out: LocalPath
    """The folder of the report to create."""
