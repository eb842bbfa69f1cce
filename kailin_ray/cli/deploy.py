"""Commands for clusters and for machines without internet."""

import sys

from kailin_ray.config import (
    BundleConfig,
    SubmitConfig,
)
from kailin_ray.errors import CommandFailedError
from kailin_ray.io.locks import locked
from kailin_ray.offline import assets


def submit(config: SubmitConfig) -> int:
    """One of the commands as a job of a Ray cluster."""
    from kailin_ray.runtime.submit import submit as submitted

    return submitted(config)


def bundle(config: BundleConfig) -> int:
    """Wheels, models and assets for machines without internet."""
    from kailin_ray.offline import bundle as packing
    from kailin_ray.offline.wheels import WheelError

    with locked(config.out.absolute()):
        try:
            manifest = packing.bundle(config, sys.stderr)
        except (WheelError, assets.FetchError) as error:
            raise CommandFailedError(str(error)) from error
    print(packing.summary(config.out, manifest))
    return 0
