"""The command ``plan``."""

import tempfile
from dataclasses import replace
from pathlib import Path

from kailin_ray.config import (
    PlanConfig,
)
from kailin_ray.distill.preflight import found_models
from kailin_ray.runtime.faults import one_line_faults


def plan(config: PlanConfig) -> int:
    """What would run where, with the arithmetic; nothing starts."""
    config = replace(config, model=found_models(config))
    from kailin_ray.planning.plan import make_plan, nodes_of
    from kailin_ray.planning.table import describe
    from kailin_ray.runtime.nodes import cluster_nodes
    from kailin_ray.runtime.session import ray_session

    if config.cluster.nodes:
        nodes = nodes_of(config.cluster.nodes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "ray.log")
            with one_line_faults(log), ray_session(config.cluster, log):
                nodes = cluster_nodes(config.cluster)
    print(describe(make_plan(config, nodes)))
    return 0
