"""The command ``plan``."""

from kailin_ray.config import PlanConfig


def plan(config: PlanConfig) -> int:
    """What would run where, with the arithmetic; nothing starts."""
    from kailin_ray.distill.run import plan as lay_out
    from kailin_ray.planning.table import describe

    print(describe(lay_out(config)))
    return 0
