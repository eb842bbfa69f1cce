"""The `train` command for real: killed and gone on with, refused, made already."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from kailin_ray.cli.main import run_command
from tests.conftest import ROOT, Command
from tests.training.test_examples import HELD_OUT, TRAINED
from tests.training.test_loop import make_tiny, publish_as

pytestmark = pytest.mark.process("Ray")  # its commands start no engine


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A question agent's training of a tiny model: 96 steps."""
    folder = tmp_path_factory.mktemp("train")
    make_tiny(folder / "tiny")
    items = {
        str(pmid): {"QUESTION": f"Is number {pmid} so in mice?", "CONTEXTS": [f"Number {pmid} was so. " * 5]}
        for pmid in (*TRAINED[:48], *HELD_OUT[:4])
    }
    (folder / "ori_pqal.json").write_text(json.dumps(items))
    return [
        "train", "task=question", f"data.path={folder}/ori_pqal.json", f"model.path={folder}/tiny", "lora.r=4",
        "optimization.batch_size=4", "optimization.num_train_epochs=8", "optimization.learning_rate=0.01",
    ]  # fmt: skip


def losses(out: Path) -> list[tuple[int, float]]:
    manifest: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    return [(row["step"], row["loss"]) for row in manifest["log"] if "loss" in row]


def step_of(checkpoints: Path) -> int:
    """The last whole checkpoint's step; 0: there is none."""
    whole = checkpoints.glob("checkpoint-*/trainer_state.json")
    return max((int(path.parent.name.rpartition("-")[2]) for path in whole), default=0)


def stopped(keys: list[str], checkpoints: Path, step: int, number: int) -> int:
    """Start the command, send it the signal once a checkpoint of ``step`` or later is there; return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kailin_ray", *keys], cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    until = time.monotonic() + 300
    while step_of(checkpoints) < step:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < until
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    code = process.wait(timeout=300)
    # Ray's workers outlive a killed driver for some seconds and go on with its training. The next one is not to see it.
    _, left = psutil.wait_procs(started, timeout=120)
    assert not left
    return code


@pytest.mark.parametrize("killed_too", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stopped_training_ends_with_the_same_steps_and_nearly_the_same_loss(
    kailin: Command, base: list[str], tmp_path: Path, killed_too: bool
) -> None:
    whole, stopped_at = tmp_path / "whole", tmp_path / "stopped"
    done = kailin(*base, f"out={whole}")
    assert done.returncode == 0, done.stderr
    assert "48 examples, 4 held out, 96 steps" in done.stdout
    keys = [*base, f"out={stopped_at}", "optimization.save_steps=3"]
    checkpoints = tmp_path / ".stopped.training" / "checkpoints"
    if killed_too:
        assert stopped(keys, checkpoints, 1, signal.SIGKILL) == -signal.SIGKILL
    # In good order, which leaves a checkpoint of the step that was begun.
    assert stopped(keys, checkpoints, step_of(checkpoints) + 3, signal.SIGTERM) == 75
    assert step_of(checkpoints) < 96
    assert not stopped_at.exists()
    again = kailin(*keys)
    assert again.returncode == 0, again.stderr
    one, two = losses(whole), losses(stopped_at)
    assert [step for step, _ in one] == [step for step, _ in two] == list(range(1, 97))
    assert one[-1][1] == pytest.approx(two[-1][1], rel=0.01)
    assert one[-1][1] < one[0][1] - 0.2  # of random weights the adapter alone learns
    assert not (tmp_path / ".stopped.training").exists()
    made = kailin(*keys)
    assert (made.returncode, "made already" in made.stdout) == (0, True)
    other = kailin(*keys, "seed=5")
    assert (other.returncode, "holds a training with another seed" in other.stderr) == (2, True)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "loss.png"} <= {
        path.name for path in stopped_at.iterdir()
    }


@pytest.mark.slow
def test_several_workers_train_one_model(kailin: Command, base: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    keys = ["workers.num=2", "workers.cpus=1", "optimization.per_device_batch_size=2", "optimization.max_steps=3"]
    done = kailin(*base, f"out={out}", *keys)
    assert done.returncode == 0, done.stderr
    assert [step for step, _ in losses(out)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["model.path=no/such"], "model.path: no/such"),
        (
            ["optimization.batch_size=6", "optimization.per_device_batch_size=4"],
            "optimization.batch_size: 6 is not a multiple of 4",
        ),
        (["optimization.packing=true"], "optimization.packing: true, but task=question"),
        (["lora=null", "model.adapter=x"], "lora: null, but model.adapter"),
        (["min_examples=100"], "leaves 48 examples to train on, fewer than min_examples=100"),
        (["optimization.max_length=20"], "optimization.max_length: of 48 examples 0 fit into 20 tokens"),
        (["exclude=[nowhere.json]"], "nowhere.json does not exist"),
        (["task=nothing"], "task"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(
    base: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], keys: list[str], said: str
) -> None:
    # In this process: the command's imports take eight seconds each time.
    assert run_command([*base, f"out={tmp_path / 'out'}", *keys]) == 2
    out, err = capfd.readouterr()
    assert said in err
    assert (out, len(err.splitlines())) == ("", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["workers.num=64", "optimization.batch_size=256"], "workers.cpus: 64 workers of 2 need 128 CPUs, the cluster"),
        (["workers.gpus=1"], "workers.gpus: 1 workers of 1 need 1 GPUs, the cluster has 0"),
    ],
)
def test_workers_that_would_wait_for_ever_are_refused(
    kailin: Command, base: list[str], tmp_path: Path, keys: list[str], said: str
) -> None:
    done = kailin(*base, f"out={tmp_path / 'out'}", *keys)
    assert (done.returncode, said in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.log"]


def test_what_stands_at_out_is_left_alone(kailin_here: Command, base: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = kailin_here(*base, f"out={tmp_path}")
    assert (done.returncode, "exists and `train` did not write it" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_model_without_a_chat_template_is_refused(kailin_here: Command, base: list[str], tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "bare")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in about.items() if k != "chat_template"}))
    done = kailin_here(*base, f"out={tmp_path / 'out'}", f"model.path={folder}")
    assert (done.returncode, "has no chat template" in done.stderr) == (2, True)


def test_messages_need_a_chat_template_and_texts_do_not(kailin_here: Command, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "bare")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in about.items() if k != "chat_template"}))
    keys = ["train", "task=sft", f"model.path={folder}", f"out={tmp_path / 'out'}"]
    cases = [
        ("messages", "limit=8", "has no chat template; `publish` with sft=text"),
        ("text", "optimization.max_length=20", "of 8 examples 0 fit into 20 tokens"),  # it comes as far as that
    ]
    for sft, key, said in cases:
        dataset = publish_as(tmp_path / sft, "parquet", sft)
        done = kailin_here(*keys, key, "min_examples=4", f"data.path={dataset}")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert said in done.stderr
