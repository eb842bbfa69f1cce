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


@dataclass(frozen=True)
class Plan:
    """The parts of a distillation, in order; each runs over all abstracts before the next."""

    parts: tuple[Part, ...]
    nodes: tuple[Node, ...]


def make_plan(config: Layout, nodes: Sequence[Node]) -> Plan:
    """Lay a distillation out on the machines. Raises ``ConfigError``, with the arithmetic, if it cannot run there."""
    pools = [make_pool(config, stage, nodes) for stage in make_stages(config)]
    parts = [_replicated(part, config.cluster, nodes) for part in _cut(pools, config.cluster, nodes)]
    return Plan(tuple(_located(part, config.cluster, nodes) for part in parts), tuple(nodes))


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
    """All actors of a part with the number of their pool (-1: the retriever), the hardest to place first."""
    actors = [(number, pool.demand) for number, pool in enumerate(pools) for _ in range(pool.replicas)]
    if any(step in QUESTION_AGENTS for pool in pools for step in pool.stage.steps):
        actors.append((-1, Demand(0, gpus=cluster.gpus_per_encoder)))
    return sorted(actors, key=lambda one: (-one[1].gpus, -one[1].memory_gib, -one[1].cpus))


def _shortage(pools: Sequence[Pool], cluster: Cluster, nodes: Sequence[Node]) -> str:
    """What the machines lack for a part, with the arithmetic; empty if all fits."""
    demands = _demands(pools, cluster)
    for unit, what in (("gpus", "GPUs"), ("cpus", "CPUs"), ("memory_gib", "GiB of memory")):
        have = sum(getattr(node, unit) for node in nodes)
        each = [(pool.replicas, getattr(pool.demand, unit), pool.stage.name) for pool in pools]
        sums = " + ".join(f"{number} x {held:.3g} ({name})" for number, held, name in each)
        need = sum(getattr(demand, unit) for _, demand in demands)
        if unit == "gpus" and any(number < 0 and demand.gpus for number, demand in demands):
            sums += f" + {cluster.gpus_per_encoder:g} (retriever)"
        # Reading and writing need a CPU that no actor holds.
        if unit == "cpus" and need + 1 > have:
            return f"{sums} = {need:g} CPUs, and one more to read and write with; the cluster has {have:g}"
        if need > have:
            return f"{sums} = {need:.3g} {what}; the cluster has {have:.3g}"
    if _placed(demands, nodes) is None:
        return f"{len(demands)} actors that its {len(nodes)} machines cannot hold: no actor is divided among machines"
    return ""


def _placed(demands: Sequence[tuple[int, Demand]], nodes: Sequence[Node]) -> list[int] | None:
    """The machine of each actor, the fullest that has room for it; None if one finds none."""
    left = [[node.gpus, node.cpus, node.memory_gib] for node in nodes]
    chosen = []
    for _, demand in demands:
        holds = (demand.gpus, demand.cpus, demand.memory_gib)
        room = [i for i, free in enumerate(left) if all(f >= h for f, h in zip(free, holds, strict=True))]
        if not room:
            return None
        chosen.append(min(room, key=lambda i: left[i]))
        left[chosen[-1]] = [f - h for f, h in zip(left[chosen[-1]], holds, strict=True)]
    return chosen


def _located(part: Part, cluster: Cluster, nodes: Sequence[Node]) -> Part:
    """The part's pools with the machine of each replica.

    Left to itself Ray may spread engines of one GPU so that no machine has four left for an engine of four.
    """
    demands = _demands(part, cluster)
    placed = list(zip(demands, _placed(demands, nodes) or [], strict=True))
    return tuple(
        replace(pool, machines=tuple(nodes[place].identity for (mine, _), place in placed if mine == number))
        for number, pool in enumerate(part)
    )


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
