"""The loop: distil, learn from the preferences, distil again, and say what it was worth.

Each step is a command of its own, with a folder of its own, run as a person would run it; so each can be looked at,
done again, or gone on with::

    out/question             train task=question     where question data are given
    out/round-0/run          distill                 with the agents as they are
    out/round-1/dataset      publish                 of round 0: judge labels, preferences
    out/round-1/judge        train task=judge        on the MeSH rule's labels
    out/round-1/question     train task=dpo          on the preferences, from the question agent so far
    out/round-1/run          distill                 with both adapters
    out/round-1/comparison   compare                 round 0 with round 1, on abstracts that were held out
    out/lineage.json         which folder was made from which, by what command
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from kailin_ray.config import RefineConfig
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import read_json, sha256, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import has_manifest, manifest_checksum

logger = logging.getLogger(__name__)

ENGINE_KEYS = ("model=", "model.", "retrieval=", "retrieval.", "evaluation=", "evaluation.", "cluster=", "cluster.")
"""Of distill, what compare's judge needs, too."""
LINEAGE = "lineage.json"


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
        """Its folder is whole. What this does not know of, such as a higher limit, the command itself will find."""
        return self.command in ("publish", "compare") and self.out.exists()


class StepFailedError(CommandFailedError):
    """A step of the loop ended with another exit code than 0, which is its own to explain."""

    def __init__(self, step: Step, code: int):
        super().__init__(f"{step.command} out={step.out} ended with exit code {code}")
        self.code = code


def steps(config: RefineConfig) -> list[Step]:
    """The commands of the loop, in order."""
    out, every = config.out.absolute(), []
    learned: Path | None = None
    if config.question is not None:
        learned = out / "question"
        every.append(_train("question", config.question, learned, ()))
    before = out / "round-0" / "run"
    arguments = (*config.distill, *_asking(config, learned), f"out={before}")
    every.append(Step("distill", arguments, before, (learned,) if learned else ()))
    for number in range(1, config.rounds + 1):
        folder = out / f"round-{number}"
        dataset, judge, refined, run = (folder / name for name in ("dataset", "judge", "question", "run"))
        every.append(Step("publish", (*config.publish, f"run={before}", f"out={dataset}"), dataset, (before,)))
        data = f"data.path={dataset}"
        every.append(_train("judge", (*config.judge, data), judge, (dataset,)))
        start = (f"model.adapter={learned}",) if learned else ()
        made_from = (dataset, learned) if learned else (dataset,)
        every.append(_train("dpo", (*config.dpo, data, *start), refined, made_from))
        judging = (f"model.judge.adapter={judge}", "model.judge.examples=false", "evaluation.judge.form=pairwise")
        arguments = (*config.distill, *_asking(config, refined), *judging, *config.refined, f"out={run}")
        every.append(Step("distill", arguments, run, (judge, refined)))
        comparison = folder / "comparison"
        engines = tuple(text for text in config.distill if text.startswith(ENGINE_KEYS))
        compared = (*engines, f"old={before}", f"new={run}", f"out={comparison}", *judging, *config.compare)
        every.append(Step("compare", compared, comparison, (before, run, judge)))
        before, learned = run, refined
    return every


def _train(task: str, given: Sequence[str], out: Path, made_from: tuple[Path, ...]) -> Step:
    return Step("train", (f"task={task}", *given, f"out={out}"), out, made_from)


def _asking(config: RefineConfig, adapter: Path | None) -> Iterator[str]:
    """The agents that are refined ask with the adapter, as it was trained."""
    for agent in config.agents if adapter else ():
        yield from (f"model.{agent}.adapter={adapter}", f"model.{agent}.examples=false", f"model.{agent}.persona=any")


class Origin(TypedDict):
    """How a folder of the loop was made."""

    command: list[str]
    made_from: dict[str, str]
    """Folders of the loop, each with its checksum at that time."""
    checksum: str


Lineage = dict[str, Origin]
"""By folder, as its path in the loop's own."""


@dataclass(frozen=True)
class RefineResult:
    """A loop that was gone through."""

    out: Path
    lineage: Lineage


def refine(config: RefineConfig, tell: Callable[[str], object] = logger.info) -> RefineResult:
    """Run the steps that are not done, each as a command of its own that writes to this process's output.

    ``tell`` is given a line before each step. Raises ``StepFailedError``; the same call goes on from there. Raises
    ``ConfigError`` if a folder that is there was made from something that has changed since.
    """
    every, out = steps(config), config.out.absolute()
    with hold_lock(out):
        out.mkdir(parents=True, exist_ok=True)
        for number, step in enumerate(every, start=1):
            tell(f"[{number} of {len(every)}] kailin-ray {step.command} {shlex.join(step.arguments)}")
            if step.done:
                _check_same_source(out, step)
                tell(f"{step.out}: made already")
            elif code := _run([sys.executable, "-m", "kailin_ray", step.command, *step.arguments]):
                raise StepFailedError(step, code)
            _note(out, step)
        return RefineResult(config.out, read_lineage(out))


def read_lineage(out: Path) -> Lineage:
    """Which folder of a loop was made from which; empty before the first one is."""
    path = out / LINEAGE
    lineage: Lineage = read_json(path) if path.exists() else {}
    return lineage


def _check_same_source(out: Path, step: Step) -> None:
    """Raise ``ConfigError`` if what a folder was made from has changed since, such as a run with a higher limit."""
    noted = read_lineage(out).get(step.out.relative_to(out).as_posix())
    for name, checksum in noted["made_from"].items() if noted else ():
        if checksum != _checksum(out / name):
            raise ConfigError(f"out: {step.out} was made from {name} before that changed; remove it to make it anew")


def _run(command: list[str]) -> int:
    # Ours is set so that Hydra raises what is wrong (__main__); a person's own would ask for tracebacks.
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    process = subprocess.Popen(command, env=environment)
    with _forward_sigterm(process):
        return process.wait()


@contextmanager
def _forward_sigterm(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """SIGTERM stops the step in good order; Ctrl-C reaches it by itself."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGTERM))
    try:
        yield
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _note(out: Path, step: Step) -> None:
    """Write down by which command a folder was made, and from which others, each with its manifest's checksum."""
    lineage = read_lineage(out)
    lineage[step.out.relative_to(out).as_posix()] = {
        "command": [step.command, *step.arguments],
        "made_from": {one.relative_to(out).as_posix(): _checksum(one) for one in step.made_from},
        "checksum": _checksum(step.out),
    }
    write_json(out / LINEAGE, lineage)


def _checksum(folder: Path) -> str:
    return manifest_checksum(folder) if has_manifest(folder) else sha256(folder)
