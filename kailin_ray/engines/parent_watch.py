"""End the processes of an engine when the process that started it is gone.

An actor that is killed while its engine starts cannot end it. vLLM's process then finishes its start and waits for ever
for calls, with the model in memory (0.32). vLLM calls ``watch_parent`` in each of its processes, as a plugin
(``[project.entry-points."vllm.general_plugins"]`` in ``pyproject.toml``).
"""

import os
import threading
import time

from kailin_ray.io.processes import process_exists

OWNER = "KAILIN_RAY_ENGINE_OWNER"
"""Environment variable with the id of the process that an engine belongs to."""
LOOK_S = 2.0


def own_engine() -> None:
    """Note that engines which start now belong to this process."""
    os.environ[OWNER] = str(os.getpid())


def watch_parent() -> None:
    """End this process soon after its parent, or the owner of its engine, has ended.

    It does nothing in the owner itself, and in processes of vLLM that kailin_ray did not start.
    """
    owner = int(os.environ.get(OWNER, "0"))
    if owner in (0, os.getpid()):
        return
    parent = os.getppid()

    def watch() -> None:
        # The parent of an orphan is another process. One that is an orphan already has no owner any more.
        while os.getppid() == parent and process_exists(owner):
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="kailin_ray-parent-watch").start()
