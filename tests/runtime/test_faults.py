"""What a person reads of an error in another process: the innermost cause in one line, and the rest in the log."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data

from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.runtime.faults import describe_error, one_line_faults


def die() -> None:
    import os

    os._exit(1)


def lose_an_actor(block: pa.Table) -> pa.Table:
    class Fragile:
        def die(self) -> None:
            die()

    ray.get(ray.remote(num_cpus=0)(Fragile).remote().die.remote())
    return block


def fail_in_a_task(block: pa.Table) -> pa.Table:
    def fail() -> None:
        raise pa.ArrowInvalid("Value 200 too large")

    ray.get(ray.remote(num_cpus=0)(fail).remote())
    return block


def fail_with_a_cause(block: pa.Table) -> pa.Table:
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        raise RuntimeError("the block is lost") from error


def fail_while_handling(block: pa.Table) -> pa.Table:
    try:
        {}["unimportant"]
    except KeyError:
        assert block is None
    return block


def refuse(block: pa.Table) -> pa.Table:
    try:
        raise KeyError("weight")
    except KeyError as error:
        raise ConfigError("model.path: the file lacks weights") from error


class Unstartable:
    def __init__(self) -> None:
        raise ValueError("the index is gone\nsecond line")

    def __call__(self, block: pa.Table) -> pa.Table:
        return block


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lose_an_actor, "ActorDiedError: The actor died unexpectedly before finishing this task."),
        (fail_in_a_task, "ArrowInvalid: Value 200 too large"),
        (fail_with_a_cause, "RuntimeError: the block is lost; cause: OSError: [Errno 28] No space left on device"),
        (fail_while_handling, "AssertionError"),
        (refuse, "model.path: the file lacks weights"),
        (Unstartable, "ValueError: the index is gone"),
    ],
)
def test_a_failed_job_names_its_innermost_cause(
    ray_here: Callable[[], None], tmp_path: Path, function: Any, named: str
) -> None:
    ray_here()
    log = tmp_path / "driver.log"
    options = {"concurrency": 1} if isinstance(function, type) else {}
    with pytest.raises(CommandFailedError) as failed, one_line_faults(log):
        ray.data.range(1).map_batches(function, batch_format="pyarrow", num_cpus=0.1, **options).materialize()
    assert str(failed.value) == f"{named} (more in {log})"
    assert "Traceback" in log.read_text()
    assert named.rpartition(": ")[2] in log.read_text()


def test_an_error_of_this_process_names_its_cause_too() -> None:
    with pytest.raises(RuntimeError) as failed:
        fail_with_a_cause(pa.table({}))
    found = describe_error(failed.value)
    assert found == "RuntimeError: the block is lost; cause: OSError: [Errno 28] No space left on device"
    assert describe_error(ValueError()) == "ValueError"
