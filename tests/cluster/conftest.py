"""A real cluster of one machine, started as its users start one."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests


@dataclass(frozen=True)
class Head:
    """What a client of the cluster needs to know."""

    address: str
    dashboard: str
    environment: dict[str, str]
    folder: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(happened: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and all that it started."""
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        member.kill()
    process.wait()


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """A head that asks for a token."""
    port, dashboard_port = free_port(), free_port()
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    # Not pytest's folder: the path of a socket in it has room for 107 characters.
    folder = Path("/tmp") / f"kailin-{secrets.token_hex(4)}"
    options = [f"--port={port}", f"--dashboard-port={dashboard_port}", f"--temp-dir={folder}", "--num-cpus=3"]
    # Else the agent wants a port that the agent of another Ray session on this machine has, and no job is taken.
    options += [f"--dashboard-agent-{kind}-port={free_port()}" for kind in ("listen", "grpc")]
    process = subprocess.Popen(
        [Path(sys.executable).with_name("ray"), "start", "--head", "--block", *options, "--disable-usage-stats"],
        env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    dashboard = f"http://127.0.0.1:{dashboard_port}"
    bearer = {"Authorization": f"Bearer {environment['RAY_AUTH_TOKEN']}"}

    def answers() -> bool:
        assert process.poll() is None, "the head did not start"
        try:
            return requests.get(f"{dashboard}/api/version", headers=bearer, timeout=5).ok
        except requests.ConnectionError:
            return False

    try:
        until(answers)
        yield Head(f"127.0.0.1:{port}", dashboard, environment, folder)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)
