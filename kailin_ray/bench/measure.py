"""One measurement: distil the documents once, with engines that then repeat their calls."""

import shutil
from dataclasses import dataclass, replace

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kailin_ray.bench.conductor import Conductor
from kailin_ray.bench.engine import EngineReport, Machine, MeasuredActor, StartMeasured
from kailin_ray.config import BenchConfig
from kailin_ray.dataset.counts import count_records
from kailin_ray.distill import pipeline
from kailin_ray.distill.preflight import Inputs
from kailin_ray.errors import CommandFailedError
from kailin_ray.io.storage import log_folder
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.plan import Plan, make_plan
from kailin_ray.planning.pools import Pool
from kailin_ray.runtime.faults import one_line_faults
from kailin_ray.runtime.nodes import cluster_nodes
from kailin_ray.runtime.session import engine_environment, ray_session
from kailin_ray.runtime.signals import stop_requests
from kailin_ray.schema import OK


@dataclass(frozen=True, kw_only=True)
class StageMeasurement:
    """One stage of a measurement."""

    pool: Pool
    seconds: float
    """From the first warm engine to the last finished row."""
    reports: list[EngineReport]
    """Of its engines."""
    environment: dict[str, str]
    """Of its engines."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured."""

    num_documents: int
    num_accepted: int
    stages: list[StageMeasurement]
    machines: list[Machine]


def measure(config: BenchConfig, opened: Inputs, mesh: MeshHierarchy) -> Measurement:
    """Distil the documents into ``config.out``, which is removed if all went well. Raises ``CommandFailedError``."""
    # Stages run one after another, so that each is measured beside its own ceiling.
    sequential = replace(config, cluster=replace(config.cluster, stage_placement="sequential"))
    log = log_folder(config.out) / "driver.log"
    with one_line_faults(log), ray_session(config.cluster, log) as terminal, stop_requests(config.max_hours) as stop:
        plan = make_plan(sequential, cluster_nodes(config.cluster))
        work = pipeline.find_work(sequential, opened.documents)
        replicas = [phase[0].replicas for phase in plan.phases]
        on_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=1_000, scheduling_strategy=on_driver)(Conductor)
        conductor = actor.remote(replicas, work.num_documents, config.bench.bare, config.bench.chain)
        pipeline.distill(
            sequential,
            plan,
            work,
            mesh,
            terminal,
            start_engine=StartMeasured(conductor),
            stop=stop,
            index=opened.index,
            engine_actor=MeasuredActor,
        )
        machines, phases = ray.get(conductor.results.remote())
        environment = {phase[0].stage.name: _environment_of(config, plan, i) for i, phase in enumerate(plan.phases)}
    counts = count_records(config.out)["status"]
    if sum(counts.values()) != work.num_documents:
        raise CommandFailedError(f"{sum(counts.values())} of {work.num_documents} abstracts have a record")
    shutil.rmtree(config.out)
    return Measurement(
        num_documents=work.num_documents,
        num_accepted=counts.get(OK, 0),
        stages=[
            StageMeasurement(pool=pool, seconds=seconds, reports=reports, environment=environment[pool.stage.name])
            for (pool,), (seconds, reports) in zip(plan.phases, phases, strict=True)
        ],
        machines=machines,
    )


def _environment_of(config: BenchConfig, plan: Plan, number: int) -> dict[str, str]:
    (pool,) = plan.phases[number]
    busiest = max(pool.machines.count(machine) for machine in pool.machines)
    return engine_environment(config.cluster, busiest)
