"""Plan what runs where: pools of engines on the cluster's machines.

Everything here is computed. Nothing starts, and what cannot run is refused before anything starts.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NotRequired

from typing_extensions import TypedDict  # pydantic refuses typing.TypedDict before Python 3.12

from kailin_ray.config import Agents, Cluster, Layout, Nodes
from kailin_ray.errors import ConfigError
from kailin_ray.planning.pools import Demand, Node, Pool, make_pool
from kailin_ray.planning.stages import QUESTION_AGENTS, Stage, make_stages

Phase = tuple[Pool, ...]
"""Pools that run side by side."""

_TASK = -1
"""The pool number of a task, which belongs to no pool."""

Places = tuple[list[list[int]], list[int]]
"""The machines, by number: of each pool's replicas, and of the retrievers."""


class PoolNote(TypedDict):
    """A pool, as a manifest records it."""

    stage: str
    model: str
    replicas: int
    gpus_per_replica: float
    max_num_seqs: NotRequired[int]  # runs of earlier versions lack it, and the next
    max_concurrent_rows: NotRequired[int]


@dataclass(frozen=True)
class Plan:
    """The phases of a distillation, in order; each runs over all abstracts before the next."""

    phases: tuple[Phase, ...]
    nodes: tuple[Node, ...]
    retrievers: tuple[tuple[str | None, ...], ...]
    """For each phase, the machine of each retriever; empty for a phase without question agents."""


def make_plan(config: Layout, nodes: Sequence[Node]) -> Plan:
    """Plan a distillation on the machines. Raises ``ConfigError``, with the arithmetic, if it cannot run there."""
    return lay_out(config, make_stages(config), nodes)


def lay_out(config: Agents, stages: Sequence[Stage], nodes: Sequence[Node]) -> Plan:
    """Plan the given stages on the machines; raises as ``make_plan`` does."""
    pools = [make_pool(config, stage, nodes) for stage in stages]
    phases = [
        _add_replicas(phase, config.cluster, nodes) for phase in _divide_into_phases(pools, config.cluster, nodes)
    ]
    placed, retrievers = zip(*(_locate_phase(phase, config.cluster, nodes) for phase in phases), strict=True)
    return Plan(placed, tuple(nodes), retrievers)


def _divide_into_phases(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> list[Phase]:
    """Return the pools as phases that fit on the machines, each phase as long as possible."""
    phases: list[Phase] = []
    for pool in pools:
        together = (*phases[-1], pool) if phases else (pool,)
        enlarged = [_times(member, cluster.num_engines or 1) for member in together]
        shortage = _shortage(enlarged, cluster, nodes)
        if phases and not shortage and cluster.stage_placement != "sequential":
            phases[-1] = together
            continue
        if phases and shortage and cluster.stage_placement == "together":
            raise ConfigError(
                f"cluster: {len(pools)} stages side by side need {shortage}; "
                "cluster.stage_placement=auto runs them one after another if they do not fit"
            )
        phases.append((pool,))
        alone = [_times(pool, cluster.num_engines or 1)]
        own_shortage = _shortage(alone, cluster, nodes)
        if own_shortage:
            without = cluster.gpus_per_encoder and not _shortage(alone, replace(cluster, gpus_per_encoder=0), nodes)
            remedy = "; an engine takes whole GPUs, cluster.gpus_per_encoder=0 encodes questions on CPUs"
            raise ConfigError(f"cluster: {own_shortage}{remedy if without else ''}")
    return phases


def _times(pool: Pool, replicas: int) -> Pool:
    return replace(pool, replicas=replicas)


def _add_replicas(phase: Phase, cluster: Cluster, nodes: Sequence[Node]) -> Phase:
    """Return as many replicas as fit. Each step adds one to the slowest pool, so that no pool starves another."""
    if cluster.num_engines:
        return tuple(_times(pool, cluster.num_engines) for pool in phase)
    pools = list(phase)
    while True:
        slowest = max(range(len(pools)), key=lambda i: pools[i].work / pools[i].replicas)
        more = [_times(pool, pool.replicas + (i == slowest)) for i, pool in enumerate(pools)]
        if _shortage(more, cluster, nodes):
            return tuple(pools)
        pools = more


def _asks(pool: Pool) -> bool:
    """Whether the pool's engines ask retrievers for contexts."""
    return any(step in QUESTION_AGENTS for step in pool.stage.steps)


def _demands(pools: Sequence[Pool]) -> list[tuple[int, Demand]]:
    """Return a phase's actors except retrievers, each with its pool's number (or _TASK), the hardest to place first."""
    actors = [(number, pool.demand) for number, pool in enumerate(pools) for _ in range(pool.replicas)]
    actors.append((_TASK, Demand(1)))  # the tasks that read and write
    return sorted(actors, key=lambda actor: (-actor[1].gpus, -actor[1].memory_gib, -actor[1].cpus))


def _shortage(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> str:
    """Return what the machines lack for a phase, with the arithmetic; empty if everything fits."""
    # With one retriever on each machine, the placement of the engines decides how many there are: at least one.
    retrievers = (cluster.num_retrievers or 1) * any(map(_asks, pools))
    for unit, what in (("gpus", "GPUs"), ("cpus", "CPUs"), ("memory_gib", "GiB of memory")):
        have = sum(getattr(node, unit) for node in nodes)
        terms = [(pool.replicas, getattr(pool.demand, unit), pool.stage.name) for pool in pools]
        if unit == "gpus" and retrievers and cluster.gpus_per_encoder:
            terms.append((retrievers, cluster.gpus_per_encoder, "retriever"))
        if unit == "cpus":
            terms.append((1, 1, "to read and write"))
        need = sum(number * each for number, each, _ in terms)
        if need > have:
            sums = " + ".join(f"{number} x {each:.3g} ({name})" for number, each, name in terms)
            return f"{sums} = {need:.3g} {what}; the cluster has {have:.3g}"
    if _place_actors(pools, cluster, nodes) is None:
        actors = [f"{pool.replicas} x {_format_resources(pool.demand)} ({pool.stage.name})" for pool in pools]
        if retrievers and cluster.gpus_per_encoder:
            number = f"{retrievers} x" if cluster.num_retrievers else "on each machine whose engines ask"
            actors.append(f"{number} {cluster.gpus_per_encoder:g} of a GPU (retriever)")
        return f"{', '.join(actors)} do not fit on its {len(nodes)} machines: an actor cannot span machines"
    return ""


def _place_actors(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> Places | None:
    """Return the machine of each actor: the fullest with room for it. None if an actor fits on no machine.

    With one retriever on each machine, the retriever is placed with the first engine there that asks.
    """
    remaining = [[node.gpus, node.cpus, node.memory_gib] for node in nodes]
    engines: list[list[int]] = [[] for _ in pools]
    asking = [0] * len(nodes)
    brought_gpus = _gpus_of(1, cluster) if cluster.num_retrievers is None else 0.0
    for number, demand in _demands(pools):
        asks = number != _TASK and _asks(pools[number])

        def after(i: int, demand: Demand = demand, asks: bool = asks) -> list[float]:
            gpus = demand.gpus + (brought_gpus if asks and not asking[i] else 0)
            return [f - h for f, h in zip(remaining[i], (gpus, demand.cpus, demand.memory_gib), strict=True)]

        room = [
            i for i, node in enumerate(nodes) if min(after(i)) >= 0 and node.gpu_memory_gib >= demand.gpu_memory_gib
        ]
        if not room:
            return None
        machine = min(room, key=lambda i: remaining[i])
        remaining[machine] = after(machine)
        asking[machine] += asks
        if number != _TASK:
            engines[number].append(machine)
    if cluster.num_retrievers is None:
        return engines, [i for i, number in enumerate(asking) if number]
    retrievers = _place_retrievers(cluster.num_retrievers if any(asking) else 0, cluster, asking, remaining)
    return None if retrievers is None else (engines, retrievers)


def _place_retrievers(
    number: int, cluster: Cluster, asking: Sequence[int], remaining: Sequence[Sequence[float]]
) -> list[int] | None:
    """Return the machines of ``number`` retrievers, in proportion to the asking engines; None if one does not fit."""
    placed: Counter[int] = Counter()
    machines = []
    for _ in range(number):
        room = [i for i, free in enumerate(remaining) if free[0] >= _gpus_of(placed[i] + 1, cluster)]
        if not room:
            return None
        machine = min(room, key=lambda i: (not asking[i], placed[i] / (asking[i] or 1), remaining[i]))
        placed[machine] += 1
        machines.append(machine)
    return machines


def encoders_of(gpus: float, share: float) -> int:
    """Return how many encoders or retrievers of ``share`` GPUs fit on a machine's GPUs. A share lies on one GPU."""
    return int(gpus) * math.floor(1 / share) if share < 1 else int(gpus // share)


def _gpus_of(number: int, cluster: Cluster) -> float:
    """Return the GPUs that retrievers take from a machine's engines, which use whole GPUs."""
    share = cluster.gpus_per_encoder
    return math.ceil(number / encoders_of(1, share)) if 0 < share < 1 else number * share


def _format_resources(demand: Demand) -> str:
    gpus = f"{demand.gpus:g} GPUs of {demand.gpu_memory_gib:g} GiB and " if demand.gpus else ""
    return f"{gpus}{demand.cpus:g} CPUs" + (f" and {demand.memory_gib:.1f} GiB" if demand.memory_gib else "")


def _locate_phase(phase: Phase, cluster: Cluster, nodes: Sequence[Node]) -> tuple[Phase, tuple[str | None, ...]]:
    """Return the phase's pools with the machine of each replica, and the machine of each retriever.

    Ray alone may spread engines of one GPU so that no machine has four GPUs left for an engine of four GPUs.
    """
    places = _place_actors(phase, cluster, nodes)
    assert places is not None  # otherwise _shortage would have refused the phase
    *engines, retrievers = (tuple(nodes[i].identity for i in numbers) for numbers in (*places[0], places[1]))
    return tuple(replace(pool, machines=machines) for pool, machines in zip(phase, engines, strict=True)), retrievers


def retriever_threads(plan: Plan, number: int) -> list[int]:
    """Return the threads of each retriever of phase ``number`` (from 0): its share of its machine's free cores."""
    threads = []
    for machine in plan.retrievers[number]:
        cpus = sum(node.cpus for node in plan.nodes if node.identity == machine)
        engine_cpus = sum(pool.machines.count(machine) * pool.demand.cpus for pool in plan.phases[number])
        # One core is for reading and writing.
        threads.append(max(1, int(cpus - engine_cpus - 1) // plan.retrievers[number].count(machine)))
    return threads


def nodes_of(nodes: Nodes) -> list[Node]:
    """Return the machines that a configuration describes, numbered from 1."""
    node = Node(nodes.cpus, nodes.memory_gib, nodes.gpus, nodes.gpu_memory_gib)
    return [replace(node, identity=str(number)) for number in range(1, nodes.count + 1)]


def as_json(plan: Plan) -> list[list[PoolNote]]:
    """Return the plan for a manifest: the pools of each phase."""
    return [
        [
            {
                "stage": pool.stage.name,
                "model": pool.stage.engine.path,
                "replicas": pool.replicas,
                "gpus_per_replica": pool.demand.gpus,
                "max_num_seqs": pool.concurrency.max_num_seqs,
                "max_concurrent_rows": pool.concurrency.max_concurrent_rows,
            }
            for pool in phase
        ]
        for phase in plan.phases
    ]
