"""The command ``bench``."""

import shlex
import sys

from kailin_ray.config import BenchConfig
from kailin_ray.io.terminal import show


def bench(config: BenchConfig) -> int:
    """Throughput of a configuration, beside the bare engine."""
    from kailin_ray.bench.job import bench as measure
    from kailin_ray.bench.report import format_table

    result = measure(config, shlex.join(["kailin-ray", *sys.argv[1:]]), on_step=lambda line: show(line))
    show()
    show(format_table(result))
    if result.best and len(result.entries) > 1:
        show(f"best: {result.best.name}")
    show(f"report: {config.out}/README.md")
    return 1 if any(entry.failure for entry in result.entries) else 0
