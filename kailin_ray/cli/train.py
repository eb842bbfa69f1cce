"""Commands that train, refine and compare."""

import importlib.util
import sys
from typing import Any

from kailin_ray.config import (
    CompareConfig,
    RefineConfig,
    TrainConfig,
)
from kailin_ray.distill.preflight import check_judge
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import remove_folder
from kailin_ray.io.locks import locked
from kailin_ray.io.storage import check_access, log_file
from kailin_ray.runtime.faults import discard_if_refused, one_line_faults


def train(config: TrainConfig) -> int:
    """Examples to an adapter or a model."""
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("trl is not installed: pip install '.[train]'")
    from kailin_ray.training import job
    from kailin_ray.training.report import summary as training_summary

    config = job.checked(config)
    out = config.out.absolute()
    with locked(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            manifest = job.made_already(config)
            print(f"{config.out}: made already")
        else:
            with discard_if_refused(job.scratch_of(out)), one_line_faults(log_file(out)):
                manifest = job.train(config, out, log_file(out))
    print(training_summary(config.out, manifest))
    return 0


def refine(config: RefineConfig) -> int:
    """Distil, train on the preferences, distil again, compare."""
    from kailin_ray.training import refine as loop

    with locked(config.out.absolute()):
        try:
            loop.refine(config)
        except loop.StepFailedError as error:
            goes_on = "" if error.code == 2 else "; the same command goes on from there"
            print(f"kailin_ray: {error}{goes_on}", file=sys.stderr)
            return error.code
    return 0


def compare(config: CompareConfig) -> int:
    """What one run's questions are worth beside another's."""
    for key in ("old", "new"):
        check_access(key, getattr(config, key))
    from kailin_ray.comparison import job

    about = job.check_runs(config)
    if config.judge:
        config = check_judge(config)
    with locked(config.out.absolute()):
        old, new = job.read_both(config)
        judge, judged = _judged(config, about, old, new) if config.judge else (None, None)
        found = job.write_comparison(config, about, old, new, judge, judged)
        remove_folder(job.judging_folder(config.out))
    print(job.summary(config.out, found))
    return 0


def _judged(config: CompareConfig, about: dict[str, Any], old: Any, new: Any) -> tuple[dict[str, Any], Any]:
    """Who judged, and what of each kind of question."""
    from kailin_ray.comparison import job, judging, verdicts

    asked = job.asked_of_judge(config, about)
    with one_line_faults(log_file(config.out)):
        found = judging.judged(config, asked, verdicts.wanted(old, new), log_file(config.out))
    return asked, verdicts.by_kind(found, old, new, asked["form"] == "pairwise")
