"""The command line: ``kailin-ray <command> [key=value …]``.

Exit codes: 0 done; 1 done in part, or failed; 2 wrong configuration, path or model; 75 stopped in good order by SIGTERM
or ``max_hours`` (the same command goes on); 130 interrupted.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import OmegaConf

from kailin_ray.cli import corpus, deploy, plan, run, train
from kailin_ray.cli.help import format_help
from kailin_ray.cli.overrides import add_keys, compose_keys, quote_query, split_overrides
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
    compose,
)
from kailin_ray.errors import CommandFailedError, ConfigError, StoppedError
from kailin_ray.io.logs import warn_on_terminal

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
    "distill": (DistillConfig, run.distill, "documents to records: question, contexts, answer"),
    "replay": (
        ReplayConfig,
        run.replay,
        "retry rows of a run that ended for a given reason, with changed settings",
    ),
    "plan": (PlanConfig, plan.plan, "what distill would run where, with the arithmetic; nothing starts"),
    "publish": (PublishConfig, run.publish, "a run's records to a Hugging Face dataset folder"),
    "train": (TrainConfig, train.train, "agents by SFT and DPO, and downstream models, as adapters or whole models"),
    "refine": (RefineConfig, train.refine, "distil, train judge and question agent on that, distil again, compare"),
    "compare": (CompareConfig, train.compare, "the questions of one run compared with those of another"),
    "report": (ReportConfig, run.report, "the figures of a run, and some of its triples"),
    "status": (StatusConfig, run.status, "progress, throughput, failures and time left of a run, alive or not"),
    "submit": (SubmitConfig, deploy.submit, "one of these commands as a job of a Ray cluster"),
    "bundle": (BundleConfig, deploy.bundle, "wheels, models and assets, for machines without internet"),
}

EXIT_STOPPED = 75
"""EX_TEMPFAIL, which batch systems take for "try again"."""
EXIT_INTERRUPTED = 130

HELP = """kailin-ray: PubMed abstracts to question-context-answer training data, on Ray and vLLM, guided by MeSH.

  kailin-ray <command> [key=value ...]

{commands}

  kailin-ray <command> --help      its keys, with their defaults
  kailin-ray <command> --cfg job   the configuration as it would run
"""


def main() -> None:
    """Run the command that the process was started with, and exit."""
    warn_on_terminal()
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit code. What goes wrong is one line on standard error."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<9}{about}" for name, (*_, about) in COMMANDS.items())))
        return 0 if arguments else 2
    try:
        return _run(arguments[0], arguments[1:])
    except KeyboardInterrupt:
        return _fail("interrupted; what is done is kept, and the same command goes on from there", EXIT_INTERRUPTED)
    except StoppedError as error:
        return _fail(str(error), EXIT_STOPPED)
    except ConfigError as error:
        _print_traceback_if_asked()
        return _fail(str(error), 2)
    except (CommandFailedError, OSError, RuntimeError) as error:
        _print_traceback_if_asked()
        return _fail(str(error), 1)


def _run(name: str, words: Sequence[str]) -> int:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}")
    kind, command, _ = COMMANDS[name]
    flags, overrides = _split_flags(compose_keys(name, words))
    own, apart = split_overrides(name, kind, overrides)
    own = [quote_query(text) for text in own]
    if flags & {"--help", "-h"}:
        print(format_help(compose(name, own, with_help=True)))
        return 0
    composed = add_keys(compose(name, own), apart)
    if flags:
        print(OmegaConf.to_yaml(composed), end="")
        return 0
    config = check(kind, composed)
    if name == "submit":
        check_keys(config.command, list(config.keys))
    return command(config)


def _split_flags(words: Sequence[str]) -> tuple[set[str], list[str]]:
    """The flags among the words of a command, ``--cfg job`` as one, and its overrides."""
    text = [word for word in words if word.startswith("-")]
    rest = [word for word in words if not word.startswith("-")]
    if set(text) & {"--cfg", "-c"}:
        if "job" not in rest:
            raise ConfigError("--cfg: allowed: --cfg job")
        rest.remove("job")
    unknown = sorted(set(text) - {"--help", "-h", "--cfg", "-c"})
    if unknown:
        raise ConfigError(f"unknown flag {unknown[0]}; allowed: --help, --cfg job, and key=value")
    return set(text), rest


def check_keys(name: str, overrides: list[str]) -> None:
    """Raise ``ConfigError`` for what a command would refuse of its keys before it looks at files."""
    allowed = [command for command in COMMANDS if command != "submit"]
    if name not in allowed:
        raise ConfigError(f"command: {name!r}; allowed: {', '.join(allowed)}")
    kind = COMMANDS[name][0]
    own, apart = split_overrides(name, kind, overrides)
    check(kind, add_keys(compose(name, [quote_query(text) for text in own]), apart))


def _fail(message: str, code: int) -> int:
    print(f"kailin_ray: {' '.join(message.split())}", file=sys.stderr)
    return code


def _print_traceback_if_asked() -> None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exc()
