"""No process of an engine outlives the process that it belongs to."""

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points

import psutil
import pytest

from kailin_ray.engines.parent_watch import OWNER, watch_parent
from tests.conftest import MODEL

# Starts a child that watches, as vLLM's process does; the child would end by itself after five minutes.
OWNER_PROCESS = """
import subprocess, sys, time
from kailin_ray.engines.parent_watch import own_engine
own_engine()
child = "import time; from kailin_ray.engines.parent_watch import watch_parent; watch_parent(); time.sleep(300)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(300)
"""
ENGINE_PROCESS = f"""
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.vllm_engine import Engine
args = {{"max_model_len": 512, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 27, "block_size": 32}}
if __name__ == "__main__":
    Engine(EngineSpec(path={str(MODEL)!r}, revision=None, args=args, chat_template={{}}))
"""


def wait_for_child(process: psutil.Process, name: str = "") -> psutil.Process:
    deadline = time.monotonic() + 120
    while not (found := [child for child in process.children(recursive=True) if name in " ".join(child.cmdline())]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found[0]


def wait_for_end(process: psutil.Process) -> None:
    deadline = time.monotonic() + 60
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"still running: {process.cmdline()}"
        time.sleep(0.2)


def test_a_process_ends_when_its_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER_PROCESS])
    child = wait_for_child(psutil.Process(owner.pid))
    time.sleep(3)
    assert child.is_running()  # while the owner lives
    owner.kill()
    owner.wait()
    wait_for_end(child)


@pytest.mark.slow  # a start of an engine
def test_an_engine_that_is_starting_ends_with_its_owner() -> None:
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    owner = subprocess.Popen([sys.executable, "-c", ENGINE_PROCESS], env=environment)
    engine = wait_for_child(psutil.Process(owner.pid), "EngineCore")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_for_end(engine)


def test_nothing_else_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = psutil.Process().num_threads()
    for owner in ("", str(os.getpid())):
        monkeypatch.setenv(OWNER, owner) if owner else monkeypatch.delenv(OWNER, raising=False)
        watch_parent()
    assert psutil.Process().num_threads() == before


def test_vllm_finds_it() -> None:
    plugins = {plugin.name: plugin for plugin in entry_points(group="vllm.general_plugins")}
    assert plugins["kailin_ray"].load() is watch_parent
