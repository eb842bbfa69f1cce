"""The ``bench`` command: measure each combination of settings, and write a report.

::

    bench/
      README.md     hardware, versions, the table, the best settings
      bench.json    every figure of every run, and the configuration
"""

import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter

from kailin_ray.agents.prompts import DECISIONS
from kailin_ray.bench.figures import Figures, compute_figures
from kailin_ray.bench.measure import Measurement, measure
from kailin_ray.bench.report import BenchResult, Entry, summarize, write_report
from kailin_ray.config import BenchConfig, settings
from kailin_ray.config.loading import validate
from kailin_ray.distill.preflight import Inputs, check_run, open_inputs
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.locks import hold_lock
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.load import load_mesh
from kailin_ray.planning.stages import make_stages
from kailin_ray.schema import STEPS, Json
from kailin_ray.versions import versions

logger = logging.getLogger(__name__)


def bench(
    config: BenchConfig, command: str | None = None, on_step: Callable[[str], None] = lambda _: None
) -> BenchResult:
    """Measure all combinations of ``config.bench.sweep``, and write the report to ``config.out``.

    ``command`` is what the report says it was made with; ``on_step`` is told what begins and what was measured. The
    report is written after each measurement, so that what was measured is kept whatever happens next.

    Raises ``ConfigError``; ``StoppedError`` if it was asked to stop; ``CommandFailedError`` if nothing was measured.
    """
    opened = open_inputs(config)
    _check(config)
    combinations = list(combine(config))
    checked = [replace(combined, model=check_run(combined, opened).model) for _, combined in combinations]
    for combined in checked:
        _check_chain(combined)
    mesh, _ = load_mesh(config.mesh, config.tolerate_orphans, config.documents, config.index)
    result = BenchResult(
        out=config.out, entries=[], machines=[], versions=versions(), config=settings(config), command=command
    )
    with hold_lock(config.out):
        config.out.mkdir(parents=True, exist_ok=True)
        first_error: Exception | None = None
        for number, ((changes, _), combined) in enumerate(zip(combinations, checked, strict=True), start=1):
            entry = Entry(settings=changes)
            on_step(f"measurement {number} of {len(combinations)}: {entry.name}")
            try:
                for run in range(config.bench.runs):
                    out = config.out / f"measurement-{number}-{run + 1}"
                    figures, made = _measure(replace(combined, out=out), opened, mesh)
                    entry.runs.append(figures)
                    result.machines[:] = made.machines
            except (CommandFailedError, ConfigError) as error:
                first_error = first_error or error
                entry = replace(entry, failure=str(error))
                logger.warning("%s: %s", entry.name, error)
                on_step(f"  failed: {error}")
            result.entries.append(entry)
            write_report(result)
            if entry.figures:
                on_step(f"  {summarize(entry.figures)}")
    if first_error and not result.best:
        raise first_error
    return result


def _check(config: BenchConfig) -> None:
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    if config.from_run or config.stages != STEPS:
        raise ConfigError("from, stages: bench measures whole runs; leave both out")


def _check_chain(config: BenchConfig) -> None:
    if not config.bench.chain:
        return
    stages = make_stages(config)
    if not config.bench.bare or len(stages) > 1 or stages[0].engine.adapters or "judge" in stages[0].steps:
        raise ConfigError(
            "bench.chain: it needs bench.bare=true, one model for all agents, no adapter and evaluation.method=rule"
        )


def combine(config: BenchConfig) -> Iterator[tuple[Json, BenchConfig]]:
    """Yield each combination of the sweep's values, and the configuration with it. Raises ``ConfigError``."""
    sweep = config.bench.sweep or {}
    for values in itertools.product(*sweep.values()):
        changes = dict(zip(sweep, values, strict=True))
        plain: Json = TypeAdapter(BenchConfig).dump_python(config, mode="json")
        for key, value in changes.items():
            _set(plain, key if "." in key else f"model.engine.{key}", value)
        yield changes, validate(BenchConfig, plain)


def _set(values: Json, key: str, value: Any) -> None:
    *groups, last = key.split(".")
    if groups[0] == "bench":
        raise ConfigError(f"bench.sweep: {key}: allowed: arguments of vLLM's engine, and keys of distill")
    for group in groups:
        inner = values.get(group)
        if not isinstance(inner, dict):
            raise ConfigError(f"bench.sweep: {key}: not a key of distill")
        values = inner
    values[last] = value


def _measure(config: BenchConfig, opened: Inputs, mesh: MeshHierarchy) -> tuple[Figures, Measurement]:
    made = measure(config, opened, mesh)
    chain_seconds = _run_chain(made, config) if config.bench.chain else None
    return compute_figures(made, config.cluster.gpu_hour_price, chain_seconds), made


def _run_chain(made: Measurement, config: BenchConfig) -> float:
    """Run the calls of a measurement through a chain of ray.data.llm processors; return its seconds."""
    (stage,) = made.stages
    engine = stage.pool.stage.engine
    by_agent: dict[str, list[Any]] = {}
    for report in stage.reports:
        for agent, prompts in report["prompts"].items():
            by_agent.setdefault(agent, []).extend(prompts)
    job = {
        "engine": {"model": engine.path, "revision": engine.revision, **engine.args},
        "replicas": stage.pool.replicas,
        "gpus": int(stage.pool.demand.gpus),
        "words": DECISIONS,
        "environment": stage.environment,
        "processors": list(by_agent.values()),
    }
    path, log = config.out.with_name(f"{config.out.name}-chain.json"), config.out.with_name("chain.log")
    path.write_text(json.dumps(job))
    with log.open("a") as sink:
        done = subprocess.run(
            [sys.executable, "-m", "kailin_ray.bench.chain", str(path)],
            stdout=subprocess.PIPE, stderr=sink, text=True, env=os.environ | stage.environment,
        )  # fmt: skip
    path.unlink()
    if done.returncode:
        raise CommandFailedError(f"the chain of ray.data.llm processors failed; see {log}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])
