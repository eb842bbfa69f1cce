"""Commands that train, refine and compare."""

from kailin_ray.config import CompareConfig, RefineConfig, TrainConfig
from kailin_ray.io.terminal import show


def train(config: TrainConfig) -> int:
    """Examples to an adapter or a model."""
    from kailin_ray.training import job
    from kailin_ray.training.report import format_training

    result = job.train(config)
    if result.made_already:
        show(f"{config.out}: made already")
    show(format_training(result.adapter))
    return 0


def refine(config: RefineConfig) -> int:
    """Distil, train on the preferences, distil again, compare."""
    from kailin_ray.training import refine as loop

    try:
        loop.refine(config, lambda line: show(line))
    except loop.StepFailedError as error:
        advice = "" if error.code == 2 else "; the same command resumes"
        show(f"kailin_ray: {error}{advice}", to_errors=True)
        return error.code
    return 0


def compare(config: CompareConfig) -> int:
    """Compare the questions of two runs."""
    from kailin_ray.comparison.job import compare as compare_runs
    from kailin_ray.comparison.report import format_comparison

    show(format_comparison(compare_runs(config)))
    return 0
