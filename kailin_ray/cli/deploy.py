"""Commands for clusters and for machines without internet."""

import sys

from kailin_ray.config import BundleConfig, SubmitConfig
from kailin_ray.io.terminal import show


def submit(config: SubmitConfig) -> int:
    """One of the commands as a job of a Ray cluster."""
    from kailin_ray.runtime.submit import format_submitted
    from kailin_ray.runtime.submit import submit as submit_job

    job = submit_job(config)
    show(format_submitted(job))
    if not config.job.follow:
        return 0
    try:
        return job.follow(sys.stdout)
    except KeyboardInterrupt:
        show("\noutput no longer followed; the job continues", to_errors=True)
        return 130


def bundle(config: BundleConfig) -> int:
    """Wheels, models and assets for machines without internet."""
    from kailin_ray.offline.bundle import bundle as make_bundle
    from kailin_ray.offline.bundle import format_bundle

    show(format_bundle(make_bundle(config)))
    return 0
