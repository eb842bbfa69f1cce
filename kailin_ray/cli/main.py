"""The command line: ``python -m kailin_ray <command> [key=value …]``.

Exit codes: 0 done; 1 done in part, or failed; 2 wrong configuration, path or model; 75 stopped in good order by SIGTERM
or ``max_hours`` (the same command goes on); 130 interrupted.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kailin_ray.cli import corpus, deploy, plan, train
from kailin_ray.cli import run as run_module
from kailin_ray.cli.overrides import as_hydra_reads, raising_hydra, set_apart, with_keys
from kailin_ray.config import (
    BundleConfig,
    CompareConfig,
    DistillConfig,
    DownloadConfig,
    FetchConfig,
    IndexConfig,
    IngestConfig,
    PlanConfig,
    PublishConfig,
    RefineConfig,
    ReplayConfig,
    ReportConfig,
    SelectConfig,
    StatusConfig,
    SubmitConfig,
    TrainConfig,
    check,
    conf_dir,
)
from kailin_ray.errors import CommandFailedError, CommandStoppedError, ConfigError

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int], str]] = {
    "fetch": (FetchConfig, corpus.fetch, "download what the demo needs: MeSH, PubMed, a small model, an encoder"),
    "download": (DownloadConfig, corpus.download, "PubMed's baseline and update files from NLM, checked"),
    "ingest": (
        IngestConfig,
        corpus.ingest,
        "PubMed XML, queries, tables or datasets to documents, and into those that are there",
    ),
    "select": (SelectConfig, corpus.select, "the documents of a corpus that are worked on"),
    "index": (IndexConfig, corpus.index, "documents to a dense index"),
    "distill": (DistillConfig, run_module.distill, "documents to records: question, contexts, answer"),
    "replay": (
        ReplayConfig,
        run_module.replay,
        "a run's rows that ended for a reason again, with another configuration",
    ),
    "plan": (PlanConfig, plan.plan, "what distill would run where, with the arithmetic; nothing starts"),
    "publish": (PublishConfig, run_module.publish, "a run's records to a Hugging Face dataset folder"),
    "train": (TrainConfig, train.train, "agents by SFT and DPO, and downstream models, as adapters or whole models"),
    "refine": (RefineConfig, train.refine, "distil, train judge and question agent on that, distil again, compare"),
    "compare": (CompareConfig, train.compare, "what a run's questions are worth beside another run's"),
    "report": (ReportConfig, run_module.report, "what a run gave, and some of its triples"),
    "status": (StatusConfig, run_module.status, "how far a run is, how fast, what fails, until when; running or dead"),
    "submit": (SubmitConfig, deploy.submit, "one of these commands as a job of a Ray cluster"),
    "bundle": (BundleConfig, deploy.bundle, "wheels, models and assets, for machines without internet"),
}

STOPPED = 75
"""EX_TEMPFAIL: what batch systems take for "try again"."""

HELP = """kailin_ray: PubMed abstracts to question-context-answer training data, on Ray and vLLM, guided by MeSH.

  python -m kailin_ray <command> [key=value ...]

{commands}

  python -m kailin_ray <command> --help      its keys, with their defaults
  python -m kailin_ray <command> --cfg job   the configuration as it would run
"""


def main() -> None:
    """Run one command and exit."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<9}{about}" for name, (*_, about) in COMMANDS.items())))
        sys.exit(0 if arguments else 2)
    name, *overrides = arguments
    if name not in COMMANDS:
        sys.exit(_say(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}"))
    sys.exit(run(name, overrides))


def run(name: str, overrides: list[str]) -> int:
    """Compose the command's configuration with Hydra, check it, and run it; return the exit code."""
    kind, command, _ = COMMANDS[name]
    if name == "submit" and overrides and re.fullmatch(r"\w+", overrides[0]):
        overrides = [f"command={overrides[0]}", *overrides[1:]]
    apart = set_apart(name, kind, overrides)
    overrides = [text for text in overrides if not any(text in texts for texts in apart.values())]
    code = 0
    fault: BaseException | None = None

    def job(composed: DictConfig) -> None:
        # Hydra puts a line of its own before what a job raises, so nothing is raised through it.
        nonlocal code, fault
        try:
            config = check(kind, with_keys(composed, apart))
            if name == "submit":
                check_keys(config.command, list(config.keys))
            code = command(config)
        except (Exception, KeyboardInterrupt) as error:
            fault = error

    wanted_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    sys.argv = [f"kailin_ray {name}", *map(as_hydra_reads, overrides)]
    try:
        with raising_hydra():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
        if fault:
            raise fault
    except KeyboardInterrupt:
        return _say("interrupted; what is done is kept, and the same command goes on from there", 130)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        if wanted_traceback:
            traceback.print_exc()
        return _say(" ".join(str(error).split()))
    except CommandStoppedError as error:
        return _say(str(error), STOPPED)
    except (CommandFailedError, OSError, RuntimeError) as error:
        if wanted_traceback:
            traceback.print_exc()
        return _say(" ".join(str(error).split()), 1)
    return code


def check_keys(name: str, overrides: list[str]) -> None:
    """Raise what a command would say of its keys; inside ``hydra.main``."""
    allowed = [command for command in COMMANDS if command != "submit"]
    if name not in allowed:
        raise ConfigError(f"command: {name!r}; allowed: {', '.join(allowed)}")
    kind = COMMANDS[name][0]
    apart = set_apart(name, kind, overrides)
    own = [as_hydra_reads(text) for text in overrides if not any(text in texts for texts in apart.values())]
    check(kind, with_keys(hydra.compose(name, own), apart))


def _say(message: str, code: int = 2) -> int:
    print(f"kailin_ray: {message}", file=sys.stderr)
    return code
