"""The command line: ``kailin-ray <command> [key=value …]``.

Exit codes: 0 done; 1 done in part, or failed; 2 wrong configuration, path or model; 75 stopped in good order by SIGTERM
or ``max_hours`` (the same command resumes); 130 interrupted.
"""

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kailin_ray.cli import bench, corpus, deploy, plan, run, train
from kailin_ray.cli.help import compose_for_help, format_help, summarize_command
from kailin_ray.cli.overrides import add_keys, compose_keys, split_overrides
from kailin_ray.config import (
    BenchConfig,
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
from kailin_ray.config.quoting import quote_texts
from kailin_ray.errors import CommandFailedError, ConfigError, StoppedError
from kailin_ray.io.logs import warn_on_terminal
from kailin_ray.io.terminal import show

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int]]] = {
    "fetch": (FetchConfig, corpus.fetch),
    "download": (DownloadConfig, corpus.download),
    "ingest": (IngestConfig, corpus.ingest),
    "select": (SelectConfig, corpus.select),
    "index": (IndexConfig, corpus.index),
    "distill": (DistillConfig, run.distill),
    "replay": (ReplayConfig, run.replay),
    "plan": (PlanConfig, plan.plan),
    "bench": (BenchConfig, bench.bench),
    "publish": (PublishConfig, run.publish),
    "train": (TrainConfig, train.train),
    "refine": (RefineConfig, train.refine),
    "compare": (CompareConfig, train.compare),
    "report": (ReportConfig, run.report),
    "status": (StatusConfig, run.status),
    "submit": (SubmitConfig, deploy.submit),
    "bundle": (BundleConfig, deploy.bundle),
}
"""The configuration of each command, and what runs it; what it does is in its file in ``conf/``."""

EXIT_STOPPED = 75
"""EX_TEMPFAIL, which batch systems take for "try again"."""
EXIT_INTERRUPTED = 130

HELP = """kailin-ray: turn PubMed abstracts into question-context-answer training data, on Ray and vLLM, guided by MeSH.

  kailin-ray <command> [key=value ...]

{commands}

  kailin-ray <command> --help      its keys, their defaults and what they mean
  kailin-ray <command> --cfg job   the configuration as it would run
"""


def main() -> None:
    """Run the command that the process was started with, and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no UTF-8 shows escapes
    warn_on_terminal()
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit code. What goes wrong is one line on standard error."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<9}{summarize_command(name)}" for name in COMMANDS)))
        return 0 if arguments else 2
    try:
        return _run(arguments[0], arguments[1:])
    except BrokenPipeError:  # as of `kailin-ray distill --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted; finished work is kept, and the same command resumes", EXIT_INTERRUPTED)
    except StoppedError as error:
        return _fail(str(error), EXIT_STOPPED)
    except ConfigError as error:
        _print_traceback_if_asked()
        return _fail(str(error), 2)
    except (CommandFailedError, OSError, RuntimeError) as error:
        _print_traceback_if_asked()
        return _fail(str(error), 1)
    except Exception as error:  # a fault of this program: no traceback for a person, but all of it in a file
        _print_traceback_if_asked()
        return _fail(f"unexpected {type(error).__name__}: {error}; {_write_traceback()}", 1)


def _run(name: str, words: Sequence[str]) -> int:
    if name not in COMMANDS:
        raise ConfigError(f"unknown command {name!r}; allowed: {', '.join(COMMANDS)}")
    kind, command = COMMANDS[name]
    flags, overrides = _split_flags(words)
    if flags & {"--help", "-h"}:
        print(format_help(kind, compose_for_help(name, _split(name, overrides)[0])))
    elif flags:
        print(OmegaConf.to_yaml(_compose(name, overrides)), end="")
    else:
        return command(read_config(name, overrides))
    return 0


def read_config(name: str, overrides: Sequence[str]) -> Any:
    """The checked configuration of a command, from the words after its name. Raises ``ConfigError``."""
    config = check(COMMANDS[name][0], _compose(name, overrides))
    if name == "submit":
        check_submitted(config.command, list(config.keys))
    return config


def _compose(name: str, overrides: Sequence[str]) -> DictConfig:
    own, apart = _split(name, overrides)
    return add_keys(compose(name, own), apart)


def _split(name: str, overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    own, apart = split_overrides(name, COMMANDS[name][0], compose_keys(name, overrides))
    return quote_texts(COMMANDS[name][0], own), apart


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


def check_submitted(name: str, overrides: list[str]) -> None:
    """Raise ``ConfigError`` for a command that cannot be submitted, or a key that it would refuse."""
    allowed = [command for command in COMMANDS if command != "submit"]
    if name not in allowed:
        raise ConfigError(f"command: {name!r}; allowed: {', '.join(allowed)}")
    read_config(name, overrides)


def _fail(message: str, code: int) -> int:
    show(f"kailin_ray: {' '.join(message.split())}", to_errors=True)
    return code


def _write_traceback() -> str:
    try:
        handle, name = tempfile.mkstemp(prefix="kailin_ray-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            traceback.print_exc(file=sink)
    except OSError as error:  # no folder for temporary files, or a full disk
        return f"HYDRA_FULL_ERROR=1 shows all of it ({error.strerror})"
    return f"all of it: {name}"


def _print_traceback_if_asked() -> None:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exc()
