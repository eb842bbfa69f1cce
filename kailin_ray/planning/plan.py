"""What runs where: pools of engines on the cluster's machines.

Everything here is computed: nothing starts, and what cannot run is refused before anything does.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from typing_extensions import TypedDict  # of typing's own, pydantic takes none before Python 3.12

from kailin_ray.config import Agents, Cluster, Layout, Nodes
from kailin_ray.errors import ConfigError
from kailin_ray.planning.pools import Demand, Node, Pool, make_pool
from kailin_ray.planning.stages import QUESTION_AGENTS, Stage, make_stages

Part = tuple[Pool, ...]
"""Pools that run side by side."""

_TASK = -1
"""Stands for a pool's number where it is none."""

Places = tuple[list[list[int]], list[int]]
"""Numbers of machines: of each pool's replicas, and of the retrievers."""


class PoolNote(TypedDict):
    """A pool, for a manifest."""

    stage: str
    model: str
    replicas: int
    gpus_per_replica: float


@dataclass(frozen=True)
class Plan:
    """The parts of a distillation, in order; each runs over all abstracts before the next."""

    parts: tuple[Part, ...]
    nodes: tuple[Node, ...]
    retrievers: tuple[tuple[str | None, ...], ...]
    """Of each part the machine of each retriever; none for a part in which nobody asks one."""


def make_plan(config: Layout, nodes: Sequence[Node]) -> Plan:
    """Lay a distillation out on the machines. Raises ``ConfigError``, with the arithmetic, if it cannot run there."""
    return lay_out(config, make_stages(config), nodes)


def lay_out(config: Agents, stages: Sequence[Stage], nodes: Sequence[Node]) -> Plan:
    """The same for some stages."""
    pools = [make_pool(config, stage, nodes) for stage in stages]
    parts = [_add_replicas(part, config.cluster, nodes) for part in _cut_into_parts(pools, config.cluster, nodes)]
    placed, retrievers = zip(*(_locate_part(part, config.cluster, nodes) for part in parts), strict=True)
    return Plan(placed, tuple(nodes), retrievers)


def _cut_into_parts(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> list[Part]:
    """The pools as parts that fit, each as long as it can be."""
    parts: list[Part] = []
    for pool in pools:
        together = (*parts[-1], pool) if parts else (pool,)
        wanted = [_times(one, cluster.num_engines or 1) for one in together]
        short = _shortage(wanted, cluster, nodes)
        if parts and not short and cluster.cut != "always":
            parts[-1] = together
            continue
        if parts and short and cluster.cut == "never":
            raise ConfigError(
                f"cluster: {len(pools)} stages side by side need {short}; "
                "cluster.cut=auto runs them one after another where they do not fit"
            )
        parts.append((pool,))
        alone = _shortage([_times(pool, cluster.num_engines or 1)], cluster, nodes)
        if alone:
            raise ConfigError(f"cluster: {alone}")
    return parts


def _times(pool: Pool, replicas: int) -> Pool:
    return replace(pool, replicas=replicas)


def _add_replicas(part: Part, cluster: Cluster, nodes: Sequence[Node]) -> Part:
    """As many replicas of each pool as fit, one more for the slowest each time, so that none starves another."""
    if cluster.num_engines:
        return tuple(_times(pool, cluster.num_engines) for pool in part)
    pools = list(part)
    while True:
        slowest = max(range(len(pools)), key=lambda i: pools[i].work / pools[i].replicas)
        more = [_times(pool, pool.replicas + (i == slowest)) for i, pool in enumerate(pools)]
        if _shortage(more, cluster, nodes):
            return tuple(pools)
        pools = more


def _asks(pool: Pool) -> bool:
    """Whether its engines ask retrievers for contexts."""
    return any(step in QUESTION_AGENTS for step in pool.stage.steps)


def _demands(pools: Sequence[Pool]) -> list[tuple[int, Demand]]:
    """All but retrievers that a part starts, with the number of its pool (or _TASK), the hardest to place first."""
    actors = [(number, pool.demand) for number, pool in enumerate(pools) for _ in range(pool.replicas)]
    actors.append((_TASK, Demand(1)))  # what reads and writes
    return sorted(actors, key=lambda one: (-one[1].gpus, -one[1].memory_gib, -one[1].cpus))


def _shortage(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> str:
    """What the machines lack for a part, with the arithmetic; empty if all fits."""
    # Where each machine is to have one, the engines' places tell how many: at least one.
    retrievers = (cluster.num_retrievers or 1) * any(map(_asks, pools))
    for unit, what in (("gpus", "GPUs"), ("cpus", "CPUs"), ("memory_gib", "GiB of memory")):
        have = sum(getattr(node, unit) for node in nodes)
        terms = [(pool.replicas, getattr(pool.demand, unit), pool.stage.name) for pool in pools]
        if unit == "gpus" and retrievers and cluster.gpus_per_encoder:
            terms.append((retrievers, cluster.gpus_per_encoder, "retriever"))
        if unit == "cpus":
            terms.append((1, 1, "to read and write"))
        need = sum(number * held for number, held, _ in terms)
        if need > have:
            sums = " + ".join(f"{number} x {held:.3g} ({name})" for number, held, name in terms)
            return f"{sums} = {need:.3g} {what}; the cluster has {have:.3g}"
    if _place_actors(pools, cluster, nodes) is None:
        actors = [f"{pool.replicas} x {_format_resources(pool.demand)} ({pool.stage.name})" for pool in pools]
        if retrievers and cluster.gpus_per_encoder:
            number = f"{retrievers} x" if cluster.num_retrievers else "on each machine whose engines ask"
            actors.append(f"{number} {cluster.gpus_per_encoder:g} of a GPU (retriever)")
        return f"{', '.join(actors)} find no place on its {len(nodes)} machines: none is divided among machines"
    return ""


def _place_actors(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> Places | None:
    """The machine of each actor, the fullest that has room for it; None if one finds none.

    Where each machine is to have a retriever, its first engine that asks brings it.
    """
    left = [[node.gpus, node.cpus, node.memory_gib] for node in nodes]
    engines: list[list[int]] = [[] for _ in pools]
    asking = [0] * len(nodes)
    brought = _gpus_of(1, cluster) if cluster.num_retrievers is None else 0.0
    for number, demand in _demands(pools):
        asks = number != _TASK and _asks(pools[number])

        def after(i: int, demand: Demand = demand, asks: bool = asks) -> list[float]:
            gpus = demand.gpus + (brought if asks and not asking[i] else 0)
            return [f - h for f, h in zip(left[i], (gpus, demand.cpus, demand.memory_gib), strict=True)]

        room = [
            i for i, node in enumerate(nodes) if min(after(i)) >= 0 and node.gpu_memory_gib >= demand.gpu_memory_gib
        ]
        if not room:
            return None
        place = min(room, key=lambda i: left[i])
        left[place] = after(place)
        asking[place] += asks
        if number != _TASK:
            engines[number].append(place)
    if cluster.num_retrievers is None:
        return engines, [i for i, number in enumerate(asking) if number]
    retrievers = _place_retrievers(cluster.num_retrievers if any(asking) else 0, cluster, asking, left)
    return None if retrievers is None else (engines, retrievers)


def _place_retrievers(
    number: int, cluster: Cluster, asking: Sequence[int], left: Sequence[Sequence[float]]
) -> list[int] | None:
    """Machines of so many retrievers: where engines ask, in proportion to how many; None if one finds none."""
    here: Counter[int] = Counter()
    places = []
    for _ in range(number):
        room = [i for i, free in enumerate(left) if free[0] >= _gpus_of(here[i] + 1, cluster)]
        if not room:
            return None
        place = min(room, key=lambda i: (not asking[i], here[i] / (asking[i] or 1), left[i]))
        here[place] += 1
        places.append(place)
    return places


def _gpus_of(number: int, cluster: Cluster) -> float:
    """GPUs that so many retrievers take from a machine's engines, which have whole ones: none lies across two."""
    share = cluster.gpus_per_encoder
    return math.ceil(number / math.floor(1 / share)) if 0 < share < 1 else number * share


def _format_resources(demand: Demand) -> str:
    gpus = f"{demand.gpus:g} GPUs of {demand.gpu_memory_gib:g} GiB and " if demand.gpus else ""
    return f"{gpus}{demand.cpus:g} CPUs" + (f" and {demand.memory_gib:.1f} GiB" if demand.memory_gib else "")


def _locate_part(part: Part, cluster: Cluster, nodes: Sequence[Node]) -> tuple[Part, tuple[str | None, ...]]:
    """The part's pools with the machine of each replica, and the machine of each retriever.

    Left to itself Ray may spread engines of one GPU so that no machine has four left for an engine of four.
    """
    places = _place_actors(part, cluster, nodes)
    assert places is not None  # or _shortage would have said so
    *engines, retrievers = (tuple(nodes[i].identity for i in one) for one in (*places[0], places[1]))
    return tuple(replace(pool, machines=on) for pool, on in zip(part, engines, strict=True)), retrievers


def retriever_threads(plan: Plan, number: int) -> list[int]:
    """Threads of each retriever of the part ``number``, from 0: its share of its machine's cores that nobody holds."""
    threads = []
    for machine in plan.retrievers[number]:
        cpus = sum(node.cpus for node in plan.nodes if node.identity == machine)
        held = sum(pool.machines.count(machine) * pool.demand.cpus for pool in plan.parts[number])
        # One more is to read and write with.
        threads.append(max(1, int(cpus - held - 1) // plan.retrievers[number].count(machine)))
    return threads


def nodes_of(nodes: Nodes) -> list[Node]:
    """The machines that a configuration describes, numbered from 1."""
    one = Node(nodes.cpus, nodes.memory_gib, nodes.gpus, nodes.gpu_memory_gib)
    return [replace(one, identity=str(number)) for number in range(1, nodes.count + 1)]


def as_json(plan: Plan) -> list[list[PoolNote]]:
    """The plan for a manifest: of each part its pools."""
    return [
        [
            {
                "stage": pool.stage.name,
                "model": pool.stage.engine.path,
                "replicas": pool.replicas,
                "gpus_per_replica": pool.demand.gpus,
            }
            for pool in part
        ]
        for part in plan.parts
    ]
