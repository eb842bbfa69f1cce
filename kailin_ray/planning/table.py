"""Format a plan as a table that people can check: what runs where, and the arithmetic behind it."""

from collections import Counter

from kailin_ray.planning.concurrency import CACHE_SHARE
from kailin_ray.planning.plan import Plan
from kailin_ray.planning.pools import GIB, RUNTIME_GIB, Pool


def describe(plan: Plan, brief: bool = False) -> str:
    """Return the plan's table; ``brief`` leaves out the arithmetic."""
    lines = ["plan", *_stages(plan), *_retrievers(plan)]
    if not brief:
        lines = [*_machines(plan), *_models(plan), *lines, *_memory(plan), *_concurrency(plan), *_tokens(plan)]
    return "\n".join(lines)


def _pools(plan: Plan) -> list[Pool]:
    return [pool for pools in plan.phases for pool in pools]


def _machines(plan: Plan) -> list[str]:
    lines = ["cluster"]
    for node, number in Counter(plan.nodes).items():
        gpus = f"{node.gpus:g} GPUs of {node.gpu_memory_gib:g} GiB, " if node.gpus else "no GPU, "
        lines.append(f"  {number} x  {gpus}{node.cpus:g} CPUs, {node.memory_gib:.0f} GiB of memory")
    return lines


def _models(plan: Plan) -> list[str]:
    lines = ["models"]
    for engine in {(pool.stage.engine.path, pool.stage.engine.revision): pool for pool in _pools(plan)}.values():
        size, spec = engine.size, engine.stage.engine
        active = f" ({size.num_active / 1e9:.1f} B active)" if size.num_active < size.num_parameters else ""
        lines.append(
            f"  {spec.path}{'@' + spec.revision if spec.revision else ''}: {size.num_parameters / 1e9:.2f} B parameters"
            f"{active}, {size.weight_bytes / GIB:.1f} GiB of weights, "
            f"{size.kv_bytes(engine.max_length) / engine.max_length / 1024:.0f} KiB of KV cache a token, "
            f"{engine.max_length:,} tokens long" + (f", {len(spec.adapters)} adapters" if spec.adapters else "")
        )
    return lines


def _stages(plan: Plan) -> list[str]:
    on_gpus = any(pool.demand.gpus for pool in _pools(plan))
    unit = "GPUs" if on_gpus else "CPUs"
    width = max(len(pool.stage.name) for pool in _pools(plan))
    lines = [f"  phase  {'stage':<{width}}  replicas x {unit:<6}{unit:>5}  work of an abstract  busy"]
    least_work = min(pool.work for pool in _pools(plan))
    for number, pools in enumerate(plan.phases, start=1):
        slowest = max(pool.work / pool.replicas for pool in pools)
        for pool in pools:
            each = pool.demand.gpus if on_gpus else pool.demand.cpus
            lines.append(
                f"  {number:<7}{pool.stage.name:<{width}}  {pool.replicas:>8} x {each:<6g}{pool.replicas * each:>5g}"
                f"  {pool.work / least_work:>19.2f}  {100 * pool.work / pool.replicas / slowest:>3.0f} %"
            )
    if len(plan.phases) > 1:
        lines.append("  the phases run one after another over all abstracts, with Parquet between them")
    return lines


def _retrievers(plan: Plan) -> list[str]:
    lines = []
    for number, machines in enumerate(plan.retrievers, start=1):
        if machines:
            per_machine = Counter(machines).values()
            in_phase = f" of phase {number}" if len(plan.phases) > 1 else ""
            shares = f" ({' + '.join(map(str, per_machine))})" if max(per_machine) > 1 else ""
            lines.append(
                f"  retrievers{in_phase}: {len(machines)}, on {len(per_machine)} of {len(plan.nodes)} machines{shares}"
            )
    return lines


def _memory(plan: Plan) -> list[str]:
    width = max(len(pool.stage.name) for pool in _pools(plan))
    on_gpus = any(pool.demand.gpus for pool in _pools(plan))
    about = f" on each GPU, with {RUNTIME_GIB:g} more for activations" if on_gpus else ""
    lines = [f"memory of an engine, GiB{about}", f"  {'stage':<{width}}  weights  KV cache"]
    return lines + [
        f"  {pool.stage.name:<{width}}  {pool.weights_gib:>7.1f}  {pool.cache_gib:>8.1f}" for pool in _pools(plan)
    ]


def _concurrency(plan: Plan) -> list[str]:
    width = max(len(pool.stage.name) for pool in _pools(plan))
    lines = ["an engine at once", f"  {'stage':<{width}}  max_num_seqs  concurrent rows  calls that the KV cache holds"]
    for pool in _pools(plan):
        numbers = pool.concurrency
        lines.append(
            f"  {pool.stage.name:<{width}}  {numbers.max_num_seqs:>12,}  {numbers.max_concurrent_rows:>15,}  "
            f"{CACHE_SHARE:.0%} of {numbers.cache_bytes / GIB:.1f} GiB / {numbers.call_bytes / 2**20:,.1f} MiB "
            f"({numbers.call_tokens:,} tokens, {numbers.agent}) = {numbers.num_calls:,}"
        )
    return lines


def _tokens(plan: Plan) -> list[str]:
    lines = ["expected tokens of an abstract", "  agent        prompt  not cached  completion"]
    for pool in _pools(plan):
        for agent, call in pool.calls.items():
            lines.append(f"  {agent:<11}{call.prompt:>8,}  {call.fresh:>10,}  {call.completion:>10.0f}")
    return lines
