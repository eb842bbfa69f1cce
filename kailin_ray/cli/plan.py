"""The command ``plan``."""

from kailin_ray.config import PlanConfig
from kailin_ray.io.terminal import show


def plan(config: PlanConfig) -> int:
    """What would run where, with the arithmetic; nothing starts."""
    from kailin_ray.distill.run import plan as lay_out
    from kailin_ray.planning.table import describe

    show(describe(lay_out(config)))
    return 0
