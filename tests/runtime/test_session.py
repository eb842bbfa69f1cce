"""A Ray session: started and ended, found and left, or not there in time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from kailin_ray.config import DistillConfig
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.runtime.session import NOWHERE, START_WAIT, STATE_OF, ray_session
from tests.conftest import ROOT

TIMED_OUT = (
    "The current node timed out during startup. This could happen because some of the raylet failed to startup or the "
    "GCS has become overloaded."
)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Let ray.init raise an exception."""

    def fail_with(error: Exception) -> None:
        def init(**_: Any) -> None:
            raise error

        monkeypatch.setattr(ray, "init", init)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return fail_with


@pytest.fixture
def owned() -> Iterator[None]:
    """A session that the process has already."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize(("waited", "said"), [(None, "within 30 s"), ("90", "within 90 s")])
def test_ray_that_does_not_start_in_time_ends_in_one_line_that_says_what_to_do(
    failing: Callable[[Exception], None],
    config: DistillConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    waited: str | None,
    said: str,
) -> None:
    monkeypatch.delenv(START_WAIT, raising=False)
    if waited:
        monkeypatch.setenv(START_WAIT, waited)
    failing(Exception(TIMED_OUT))
    with pytest.raises(CommandFailedError) as failed, ray_session(config.cluster, tmp_path / "ray.log"):
        pass
    message = str(failed.value)
    assert said in message
    assert "`ray stop`" in message
    assert f"{START_WAIT}=120" in message
    assert "\n" not in message


def test_the_command_line_says_that_line_alone(
    failing: Callable[[Exception], None],
    kailin_here: Callable[..., subprocess.CompletedProcess[str]],
    small_shard: Path,
    tmp_path: Path,
) -> None:
    failing(Exception(TIMED_OUT))
    done = kailin_here("ingest", f"source.path={small_shard}", f"out={tmp_path / 'corpus'}")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("kailin_ray: Ray did not start within ")


def test_a_fault_of_another_kind_is_not_hidden(
    failing: Callable[[Exception], None], config: DistillConfig, tmp_path: Path
) -> None:
    failing(Exception("something else"))
    with pytest.raises(Exception, match="^something else$"), ray_session(config.cluster, tmp_path / "ray.log"):
        pass
    failing(ConnectionError("no cluster\nat that address"))
    with (
        pytest.raises(ConfigError, match="^cluster.address: local: no cluster at that address$"),
        ray_session(config.cluster, tmp_path / "ray.log"),
    ):
        pass


def test_a_session_that_is_there_is_used_and_left(owned: None, config: DistillConfig, tmp_path: Path) -> None:
    job = ray.get_runtime_context().get_job_id()
    with ray_session(config.cluster, tmp_path / "ray.log", num_cpus=7):
        assert ray.get_runtime_context().get_job_id() == job
        assert ray.cluster_resources()["CPU"] == 1
        assert not ray.data.DataContext.get_current().enable_progress_bars
    assert ray.is_initialized()
    assert ray.get(ray.put(7)) == 7


def test_a_session_of_its_own_is_ended(config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray, "init", lambda **_: calls.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(KeyError), ray_session(config.cluster, tmp_path / "ray.log"):
        raise KeyError("a fault of the block's")
    assert calls == ["init", "shutdown"]


def test_no_process_asks_another_cluster_of_this_machine_for_the_state_of_its_actors(
    ray_here: Callable[[], None],
) -> None:
    ray_here()
    assert STATE_OF not in os.environ

    @ray.remote
    def told() -> str | None:
        return os.environ.get(STATE_OF)

    assert ray.get(told.remote()) == NOWHERE


LISTENERS = """
import json, psutil, ray
from pathlib import Path
from kailin_ray.config import Cluster, DistillConfig, load
from kailin_ray.runtime.session import ray_session
cluster = load(DistillConfig, "distill", ["documents=d", "index=i", "mesh=m", "out=o"]).cluster
with ray_session(cluster, Path("ray.log"), num_cpus=1) as terminal:
    @ray.remote
    class Actor:
        def address(self):
            return ray.util.get_node_ip_address()
    actor = Actor.remote()
    addresses = {ray.get(actor.address.remote()), ray.util.get_node_ip_address()}
    own = psutil.Process()
    listening = [
        (process.name(), connection.laddr.ip)
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
print(json.dumps([sorted(addresses), listening]))
"""


def test_a_session_of_this_machine_listens_on_its_loopback_alone(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    addresses, listening = json.loads(done.stdout)
    assert addresses == ["127.0.0.1"]
    assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
    assert {address.removeprefix("::ffff:") for _, address in listening} == {"127.0.0.1"}
