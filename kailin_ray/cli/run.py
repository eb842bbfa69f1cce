"""Commands that make, show and publish a run."""

import json
from typing import TYPE_CHECKING

from kailin_ray.config import DistillConfig, PublishConfig, ReplayConfig, ReportConfig, StatusConfig
from kailin_ray.io.terminal import show

if TYPE_CHECKING:
    from kailin_ray.dataset.run import Run
    from kailin_ray.distill.run import Start


def distill(config: DistillConfig) -> int:
    """Documents to records, then the run's manifest and its summary."""
    from kailin_ray.distill.run import RunFailedError, run

    try:
        result = run(config, _print_start)
    except RunFailedError as error:
        _print_summary(error.result.run)
        raise
    if result.was_complete:
        show(f"{config.out}: complete, nothing to do")
    _print_summary(result.run)
    return 0


def _print_start(start: "Start") -> None:
    show("\n".join(start.lines()))


def _print_summary(run: "Run") -> None:
    from kailin_ray.dataset.summary import format_summary

    show(format_summary(run.manifest))


def replay(config: ReplayConfig) -> int:
    """Some rows of a run again, with another configuration; the new records take the place of the old ones."""
    from kailin_ray.distill.replay import replay as do_again

    result = do_again(config, _print_start)
    became = ", ".join(f"{name} {number:,}" for name, number in result.num_by_status.items())
    show(f"{config.run}: {result.num_rows:,} rows done again: {became}")
    _print_summary(result.run)
    return 0


def publish(config: PublishConfig) -> int:
    """A run's records to a Hugging Face dataset folder."""
    from kailin_ray.dataset.publish import publish as write

    result = write(config)
    show(f"{config.out}: " + ", ".join(f"{name} {number:,}" for name, number in result.num_rows.items()))
    return 0


def report(config: ReportConfig) -> int:
    """What a run gave, and some of its triples."""
    from kailin_ray.dataset.summary import format_examples, format_lacks
    from kailin_ray.dataset.summary import report as find

    found = find(config)
    if config.summary:
        _print_summary(found.run)
        if found.num_of_before:
            show(format_lacks(found.num_of_before))
        show()
    if found.examples:
        show(format_examples(found.examples))
    return 0


def status(config: StatusConfig) -> int:
    """How far a run is."""
    from kailin_ray.distill.status import format_status
    from kailin_ray.distill.status import status as find

    found = find(config.run)
    show(json.dumps(found.as_json(), indent=1) if config.json else format_status(found))
    return 0
