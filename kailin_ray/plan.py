"""What runs where: pools of engines on the cluster's machines.

Everything here is computed: nothing starts, and what cannot run is refused before anything does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kailin_ray.config import Cluster, Layout, Nodes
from kailin_ray.errors import ConfigError
from kailin_ray.pools import Demand, Node, Pool, make_pool
from kailin_ray.stages import QUESTION_AGENTS, make_stages

Part = tuple[Pool, ...]
"""Pools that run side by side."""

_RETRIEVER, _TASK = -1, -2
"""Stand for a pool's number where it is none."""


@dataclass(frozen=True)
class Plan:
    """The parts of a distillation, in order; each runs over all abstracts before the next."""

    parts: tuple[Part, ...]
    nodes: tuple[Node, ...]
    retrievers: tuple[str | None, ...]
    """The machine of each part's retriever; None for a part without one."""


def make_plan(config: Layout, nodes: Sequence[Node]) -> Plan:
    """Lay a distillation out on the machines. Raises ``ConfigError``, with the arithmetic, if it cannot run there."""
    pools = [make_pool(config, stage, nodes) for stage in make_stages(config)]
    parts = [_replicated(part, config.cluster, nodes) for part in _cut(pools, config.cluster, nodes)]
    placed, retrievers = zip(*(_located(part, config.cluster, nodes) for part in parts), strict=True)
    return Plan(placed, tuple(nodes), retrievers)


def _cut(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> list[Part]:
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


def _replicated(part: Part, cluster: Cluster, nodes: Sequence[Node]) -> Part:
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


def _demands(pools: Sequence[Pool], cluster: Cluster) -> list[tuple[int, Demand]]:
    """All that a part starts with the number of its pool (or _RETRIEVER, _TASK), the hardest to place first."""
    actors = [(number, pool.demand) for number, pool in enumerate(pools) for _ in range(pool.replicas)]
    actors.append((_TASK, Demand(1)))  # what reads and writes
    if any(step in QUESTION_AGENTS for pool in pools for step in pool.stage.steps):
        actors.append((_RETRIEVER, Demand(0, gpus=cluster.gpus_per_encoder)))
    return sorted(actors, key=lambda one: (-one[1].gpus, -one[1].memory_gib, -one[1].cpus))


def _shortage(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> str:
    """What the machines lack for a part, with the arithmetic; empty if all fits."""
    demands = _demands(pools, cluster)
    for unit, what in (("gpus", "GPUs"), ("cpus", "CPUs"), ("memory_gib", "GiB of memory")):
        have = sum(getattr(node, unit) for node in nodes)
        each = [(pool.replicas, getattr(pool.demand, unit), pool.stage.name) for pool in pools]
        sums = " + ".join(f"{number} x {held:.3g} ({name})" for number, held, name in each)
        need = sum(getattr(demand, unit) for _, demand in demands)
        for number, demand in demands:
            if number < 0 and getattr(demand, unit):
                sums += f" + {getattr(demand, unit):g} ({'retriever' if number == _RETRIEVER else 'to read and write'})"
        if need > have:
            return f"{sums} = {need:.3g} {what}; the cluster has {have:.3g}"
    if _placed(demands, nodes) is None:
        held = ", ".join(f"{pool.replicas} x {_held(pool.demand)} ({pool.stage.name})" for pool in pools)
        return f"{held} find no place on its {len(nodes)} machines: none is divided among machines"
    return ""


def _placed(demands: Sequence[tuple[int, Demand]], nodes: Sequence[Node]) -> list[int] | None:
    """The machine of each actor, the fullest that has room for it; None if one finds none."""
    left = [[node.gpus, node.cpus, node.memory_gib] for node in nodes]
    chosen = []
    for _, demand in demands:
        holds = (demand.gpus, demand.cpus, demand.memory_gib)
        room = [
            i
            for i, free in enumerate(left)
            if all(f >= h for f, h in zip(free, holds, strict=True))
            and nodes[i].gpu_memory_gib >= demand.gpu_memory_gib
        ]
        if not room:
            return None
        chosen.append(min(room, key=lambda i: left[i]))
        left[chosen[-1]] = [f - h for f, h in zip(left[chosen[-1]], holds, strict=True)]
    return chosen


def _held(demand: Demand) -> str:
    gpus = f"{demand.gpus:g} GPUs of {demand.gpu_memory_gib:g} GiB and " if demand.gpus else ""
    return f"{gpus}{demand.cpus:g} CPUs" + (f" and {demand.memory_gib:.1f} GiB" if demand.memory_gib else "")


def _located(part: Part, cluster: Cluster, nodes: Sequence[Node]) -> tuple[Part, str | None]:
    """The part's pools with the machine of each replica, and the machine of the retriever.

    Left to itself Ray may spread engines of one GPU so that no machine has four left for an engine of four.
    """
    demands = _demands(part, cluster)
    places = _placed(demands, nodes)
    assert places is not None  # or _shortage would have said so

    def of(number: int) -> tuple[str | None, ...]:
        return tuple(nodes[i].identity for (mine, _), i in zip(demands, places, strict=True) if mine == number)

    pools = tuple(replace(pool, machines=of(number)) for number, pool in enumerate(part))
    return pools, next(iter(of(_RETRIEVER)), None)


def nodes_of(nodes: Nodes) -> list[Node]:
    """The machines that a configuration describes."""
    return [Node(nodes.cpus, nodes.memory_gib, nodes.gpus, nodes.gpu_memory_gib)] * nodes.count


def as_json(plan: Plan) -> list[list[dict[str, str | float]]]:
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
