"""Hold a lock as a command does: ``python -m tests.support.hold_lease <folder> <seconds> <times as JSON>``."""

import json
import sys
import time

from kailin_ray.cli import main
from kailin_ray.config import ReportConfig
from kailin_ray.io import leases
from kailin_ray.io.locks import hold_lock


def hold(config: ReportConfig) -> int:
    with hold_lock(config.run):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
    return 0


if __name__ == "__main__":
    vars(leases).update(json.loads(sys.argv[3]))
    main.COMMANDS["report"] = (ReportConfig, hold)
    main.warn_on_terminal()
    sys.exit(main.run_command(["report", f"run={sys.argv[1]}"]))
