"""Commands that train, refine and compare."""

import sys

from kailin_ray.config import CompareConfig, RefineConfig, TrainConfig


def train(config: TrainConfig) -> int:
    """Examples to an adapter or a model."""
    from kailin_ray.training import job
    from kailin_ray.training.report import format_training

    result = job.train(config)
    if result.made_already:
        print(f"{config.out}: made already")
    print(format_training(result.adapter))
    return 0


def refine(config: RefineConfig) -> int:
    """Distil, train on the preferences, distil again, compare."""
    from kailin_ray.training import refine as loop

    try:
        loop.refine(config, lambda line: print(line, flush=True))
    except loop.StepFailedError as error:
        advice = "" if error.code == 2 else "; the same command resumes"
        print(f"kailin_ray: {error}{advice}", file=sys.stderr)
        return error.code
    return 0


def compare(config: CompareConfig) -> int:
    """Compare the questions of two runs."""
    from kailin_ray.comparison.job import compare as compare_runs
    from kailin_ray.comparison.report import format_comparison

    print(format_comparison(compare_runs(config)))
    return 0
