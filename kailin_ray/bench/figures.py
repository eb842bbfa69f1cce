"""The figures of a measurement. With GPUs, "per unit" is per GPU; without, it is per engine."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import TypedDict  # pydantic refuses typing.TypedDict before Python 3.12

from kailin_ray.bench.measure import Measurement, StageMeasurement


class Quantiles(TypedDict):
    """Percentiles of seconds."""

    p50: float
    p95: float


class StageFigures(TypedDict):
    """The figures of one stage; stages run one after another."""

    stage: str
    model: str
    replicas: int
    gpus: float
    """Of one replica."""
    seconds: float
    calls: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    busy_share: float
    """Share of the time in which an engine had a call."""
    calls_at_once: float
    first_token: Quantiles
    cpu_ms: float
    """CPU time of an abstract in the actors' processes, in ms: the pipeline and vLLM's front end."""
    bare_seconds: float | None
    """Seconds that the slowest of its engines took for its calls without the pipeline."""
    bare_cpu_ms: float
    """The same CPU time without the pipeline."""
    bare_cached_tokens: int
    bare_completion_tokens: int


class Figures(TypedDict):
    """The figures of one measurement; "per second" and "per hour" are per unit unless the name says otherwise."""

    num_documents: int
    num_accepted: int
    unit: Literal["GPU", "engine"]
    num_units: float
    """The most that a stage used."""
    seconds: float
    unit_seconds: float
    all_abstracts_per_second: float
    """Of all units together."""
    abstracts_per_second: float
    accepted_per_hour: float
    new_prompt_tokens_per_second: float
    """Prompt tokens that were not cached."""
    cached_prompt_tokens_per_second: float
    output_tokens_per_second: float
    cached_share: float
    busy_share: float
    first_token: Quantiles
    of_bare: float | None
    """Seconds of the bare engines over those of the pipeline: 1 is the ceiling."""
    of_chain: float | None
    """Seconds of the chain of ray.data.llm processors over those of the pipeline."""
    hours_per_million_abstracts: float
    price_per_million_abstracts: float | None
    stages: list[StageFigures]


def compute_figures(made: Measurement, gpu_hour_price: float | None, chain_seconds: float | None) -> Figures:
    """Compute the figures of a measurement."""
    stages = [_stage(stage, made.num_documents) for stage in made.stages]
    on_gpus = any(stage["gpus"] for stage in stages)
    units = [stage["replicas"] * (stage["gpus"] or 1) for stage in stages]
    unit_seconds = sum(number * stage["seconds"] for number, stage in zip(units, stages, strict=True))
    bare = [stage["bare_seconds"] for stage in stages]
    bare_seconds = sum(n * s for n, s in zip(units, bare, strict=True) if s is not None)
    first_tokens = [seconds for stage in made.stages for report in stage.reports for seconds in report["first_token"]]
    prompt, cached, completion = (
        sum(stage["prompt_tokens"] for stage in stages),
        sum(stage["cached_tokens"] for stage in stages),
        sum(stage["completion_tokens"] for stage in stages),
    )
    hours = unit_seconds / 3600 / made.num_documents * 1e6
    return {
        "num_documents": made.num_documents,
        "num_accepted": made.num_accepted,
        "unit": "GPU" if on_gpus else "engine",
        "num_units": max(units),
        "seconds": round(sum(stage["seconds"] for stage in stages), 3),
        "unit_seconds": round(unit_seconds, 3),
        "all_abstracts_per_second": round(made.num_documents / sum(stage["seconds"] for stage in stages), 4),
        "abstracts_per_second": round(made.num_documents / unit_seconds, 4),
        "accepted_per_hour": round(3600 * made.num_accepted / unit_seconds, 1),
        "new_prompt_tokens_per_second": round((prompt - cached) / unit_seconds, 1),
        "cached_prompt_tokens_per_second": round(cached / unit_seconds, 1),
        "output_tokens_per_second": round(completion / unit_seconds, 1),
        "cached_share": round(cached / prompt, 4) if prompt else 0.0,
        "busy_share": round(
            sum(stage["busy_share"] * n * stage["seconds"] for n, stage in zip(units, stages, strict=True))
            / unit_seconds,
            4,
        ),
        "first_token": _quantiles(first_tokens),
        "of_bare": round(bare_seconds / unit_seconds, 4) if None not in bare else None,
        "of_chain": round(chain_seconds * units[0] / unit_seconds, 4) if chain_seconds is not None else None,
        "hours_per_million_abstracts": round(hours, 2),
        "price_per_million_abstracts": round(hours * gpu_hour_price, 2) if on_gpus and gpu_hour_price else None,
        "stages": stages,
    }


def _stage(made: StageMeasurement, num_documents: int) -> StageFigures:
    reports, pool = made.reports, made.pool
    bare = [report["bare_seconds"] for report in reports if report["bare_seconds"] is not None]
    busy = sum(report["busy"] for report in reports)
    return {
        "stage": pool.stage.name,
        "model": path.name if (path := Path(pool.stage.engine.path)).is_absolute() else pool.stage.engine.path,
        "replicas": pool.replicas,
        "gpus": pool.demand.gpus,
        "seconds": made.seconds,
        "calls": sum(report["calls"] for report in reports),
        "prompt_tokens": sum(report["prompt_tokens"] for report in reports),
        "cached_tokens": sum(report["cached_tokens"] for report in reports),
        "completion_tokens": sum(report["completion_tokens"] for report in reports),
        "busy_share": round(min(1.0, busy / (pool.replicas * made.seconds)), 4),
        "calls_at_once": round(sum(report["call_seconds"] for report in reports) / busy, 1) if busy else 0.0,
        "first_token": _quantiles([seconds for report in reports for seconds in report["first_token"]]),
        "cpu_ms": round(1000 * sum(report["cpu_seconds"] for report in reports) / num_documents, 2),
        "bare_seconds": round(max(bare), 3) if bare else None,
        "bare_cpu_ms": round(1000 * sum(report["bare_cpu_seconds"] for report in reports) / num_documents, 2),
        "bare_cached_tokens": sum(report["bare_cached_tokens"] for report in reports),
        "bare_completion_tokens": sum(report["bare_completion_tokens"] for report in reports),
    }


def _quantiles(seconds: Sequence[float]) -> Quantiles:
    p50, p95 = np.percentile(seconds, (50, 95)) if seconds else (0.0, 0.0)
    return {"p50": round(float(p50), 4), "p95": round(float(p95), 4)}


def middle(runs: Sequence[Figures]) -> Figures:
    """Return the run with the median rate; of an even number, the slower of the two in the middle."""
    rate = statistics.median_low([run["abstracts_per_second"] for run in runs])
    return next(run for run in runs if run["abstracts_per_second"] == rate)
