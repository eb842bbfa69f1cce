"""The refinement loop: distil, learn from the preferences, distil again, and compare.

Each step is a command of its own with its own folder, run as a person would run it. So each step can be inspected,
repeated or resumed::

    out/question             train task=question     if question data are configured
    out/round-0/run          distill                 with the agents as they are
    out/round-1/dataset      publish                 round 0: judge labels, preferences
    out/round-1/judge        train task=judge        on the MeSH rule's labels
    out/round-1/question     train task=dpo          on the preferences, from the latest question agent
    out/round-1/run          distill                 with both adapters
    out/round-1/comparison   compare                 round 0 with round 1, on held-out abstracts
    out/lineage.json         which folder was made from which, by which command
"""

import logging
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from kailin_ray.config import CompareConfig, DistillConfig, PublishConfig, RefineConfig, TrainConfig, load
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import read_json, sha256, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import has_manifest, manifest_checksum

logger = logging.getLogger(__name__)

ENGINE_KEYS = ("model=", "model.", "retrieval=", "retrieval.", "evaluation=", "evaluation.", "cluster=", "cluster.")
"""The keys of ``distill`` that the judge of ``compare`` needs too."""
LINEAGE = "lineage.json"
CONFIGS: dict[str, type[Any]] = {
    "distill": DistillConfig,
    "publish": PublishConfig,
    "train": TrainConfig,
    "compare": CompareConfig,
}


@dataclass(frozen=True)
class Step:
    """One command of the loop."""

    command: str
    arguments: tuple[str, ...]
    out: Path
    made_from: tuple[Path, ...]
    """Folders of earlier steps."""

    @property
    def done(self) -> bool:
        """Whether ``publish`` or ``compare`` has its folder. The other commands find out themselves what is done."""
        return self.command in ("publish", "compare") and self.out.exists()


class StepFailedError(CommandFailedError):
    """A step of the loop ended with an exit code other than 0; the step itself has printed why."""

    def __init__(self, step: Step, code: int):
        super().__init__(f"{step.command} out={step.out} ended with exit code {code}")
        self.code = code


def steps(config: RefineConfig) -> list[Step]:
    """Return the commands of the loop, in order."""
    out, loop_steps = config.out.absolute(), []
    adapter: Path | None = None
    if config.question is not None:
        adapter = out / "question"
        loop_steps.append(_train("question", config.question, adapter, ()))
    last_run = out / "round-0" / "run"
    arguments = (*config.distill, *_asking(config, adapter), f"out={last_run}")
    loop_steps.append(Step("distill", arguments, last_run, (adapter,) if adapter else ()))
    for number in range(1, config.rounds + 1):
        folder = out / f"round-{number}"
        dataset, judge, refined, run = (folder / name for name in ("dataset", "judge", "question", "run"))
        loop_steps.append(Step("publish", (*config.publish, f"run={last_run}", f"out={dataset}"), dataset, (last_run,)))
        data = f"data.path={dataset}"
        loop_steps.append(_train("judge", (*config.judge, data), judge, (dataset,)))
        start = (f"model.adapter={adapter}",) if adapter else ()
        made_from = (dataset, adapter) if adapter else (dataset,)
        loop_steps.append(_train("dpo", (*config.dpo, data, *start), refined, made_from))
        judging = (f"model.judge.adapter={judge}", "model.judge.examples=false", "evaluation.judge.mode=pairwise")
        arguments = (*config.distill, *_asking(config, refined), *judging, *config.refined, f"out={run}")
        loop_steps.append(Step("distill", arguments, run, (judge, refined)))
        comparison = folder / "comparison"
        engines = tuple(text for text in config.distill if text.startswith(ENGINE_KEYS))
        compare_arguments = (*engines, f"old={last_run}", f"new={run}", f"out={comparison}", *judging, *config.compare)
        loop_steps.append(Step("compare", compare_arguments, comparison, (last_run, run, judge)))
        last_run, adapter = run, refined
    return loop_steps


def _train(task: str, arguments: Sequence[str], out: Path, made_from: tuple[Path, ...]) -> Step:
    return Step("train", (f"task={task}", *arguments, f"out={out}"), out, made_from)


def _asking(config: RefineConfig, adapter: Path | None) -> Iterator[str]:
    """Yield the keys that make the refined agents ask with the adapter, in the form that it was trained on."""
    for agent in config.agents if adapter else ():
        yield from (f"model.{agent}.adapter={adapter}", f"model.{agent}.examples=false", f"model.{agent}.persona=any")


class Origin(TypedDict):
    """How a folder of the loop was made."""

    command: list[str]
    made_from: dict[str, str]
    """Folders of the loop and their checksums at that time."""
    checksum: str


Lineage = dict[str, Origin]
"""By folder: its path relative to the loop's folder."""


@dataclass(frozen=True)
class RefineResult:
    """A finished loop."""

    out: Path
    lineage: Lineage


def refine(config: RefineConfig, tell: Callable[[str], object] = logger.info) -> RefineResult:
    """Run the steps that are not done, each as a command of its own that writes to this process's output.

    ``tell`` receives a line before each step. Raises ``StepFailedError``; the same call resumes from there. Raises
    ``ConfigError`` before the first step runs if any step has a wrong key, and for a folder whose source has changed
    since it was made.
    """
    loop_steps, out = steps(config), config.out.absolute()
    check_keys(loop_steps)
    with hold_lock(out):
        out.mkdir(parents=True, exist_ok=True)
        for number, step in enumerate(loop_steps, start=1):
            tell(f"[{number} of {len(loop_steps)}] kailin-ray {step.command} {shlex.join(step.arguments)}")
            if step.done:
                _check_same_source(out, step)
                tell(f"{step.out}: made already")
            elif code := _run([sys.executable, "-m", "kailin_ray", step.command, *step.arguments]):
                raise StepFailedError(step, code)
            _note(out, step)
        return RefineResult(config.out, read_lineage(out))


def check_keys(every: Sequence[Step]) -> None:
    """Raise ``ConfigError`` for the first step whose keys its command would refuse."""
    for step in every:
        try:
            config = load(CONFIGS[step.command], step.command, step.arguments)
            if isinstance(config, PublishConfig) and config.format not in ("parquet", "jsonl"):
                raise ConfigError(f"format: {config.format} is not what train reads; allowed: parquet, jsonl")
        except ConfigError as error:
            raise ConfigError(f"{step.command} out={step.out}: {error}") from error


def read_lineage(out: Path) -> Lineage:
    """Return which folder of a loop was made from which; empty before the first step is done."""
    path = out / LINEAGE
    lineage: Lineage = read_json(path) if path.exists() else {}
    return lineage


def _check_same_source(out: Path, step: Step) -> None:
    """Raise ``ConfigError`` if a source of the step's folder has changed since, such as a run with a higher limit."""
    origin = read_lineage(out).get(step.out.relative_to(out).as_posix())
    for name, checksum in origin["made_from"].items() if origin else ():
        if checksum != _checksum(out / name):
            raise ConfigError(f"out: {step.out} was made from {name}, which has changed since; remove it to rebuild it")


def _run(command: list[str]) -> int:
    process = subprocess.Popen(command)
    with _forward_sigterm(process):
        return process.wait()


@contextmanager
def _forward_sigterm(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Pass SIGTERM to the step, so that it stops cleanly. Ctrl-C reaches it directly."""
    previous_handler = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    try:
        yield
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _note(out: Path, step: Step) -> None:
    """Record the command that made a folder, and its source folders with their manifests' checksums."""
    lineage = read_lineage(out)
    lineage[step.out.relative_to(out).as_posix()] = {
        "command": [step.command, *step.arguments],
        "made_from": {source.relative_to(out).as_posix(): _checksum(source) for source in step.made_from},
        "checksum": _checksum(step.out),
    }
    write_json(out / LINEAGE, lineage)


def _checksum(folder: Path) -> str:
    return manifest_checksum(folder) if has_manifest(folder) else sha256(folder)
