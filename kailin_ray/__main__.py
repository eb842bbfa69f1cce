"""The command line: ``python -m kailin_ray <command> [key=value …]``.

Exit codes: 0 done; 1 done in part, or failed; 2 wrong configuration, path or model; 75 stopped in good order by SIGTERM
or ``max_hours`` (the same command goes on); 130 interrupted.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kailin_ray import commands
from kailin_ray.config import (
    BundleConfig,
    CompareConfig,
    ConfigError,
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

COMMANDS: dict[str, tuple[type[Any], Callable[[Any], int], str]] = {
    "fetch": (FetchConfig, commands.fetch, "download what the demo needs: MeSH, PubMed, a small model, an encoder"),
    "download": (DownloadConfig, commands.download, "PubMed's baseline and update files from NLM, checked"),
    "ingest": (
        IngestConfig,
        commands.ingest,
        "PubMed XML, queries, tables or datasets to documents, and into those that are there",
    ),
    "select": (SelectConfig, commands.select, "the documents of a corpus that are worked on"),
    "index": (IndexConfig, commands.index, "documents to a dense index"),
    "distill": (DistillConfig, commands.distill, "documents to records: question, contexts, answer"),
    "replay": (ReplayConfig, commands.replay, "a run's rows that ended for a reason again, with another configuration"),
    "plan": (PlanConfig, commands.plan, "what distill would run where, with the arithmetic; nothing starts"),
    "publish": (PublishConfig, commands.publish, "a run's records to a Hugging Face dataset folder"),
    "train": (TrainConfig, commands.train, "agents by SFT and DPO, and downstream models, as adapters or whole models"),
    "refine": (RefineConfig, commands.refine, "distil, train judge and question agent on that, distil again, compare"),
    "compare": (CompareConfig, commands.compare, "what a run's questions are worth beside another run's"),
    "report": (ReportConfig, commands.report, "what a run gave, and some of its triples"),
    "status": (StatusConfig, commands.status, "how far a run is, how fast, what fails, until when; running or dead"),
    "submit": (SubmitConfig, commands.submit, "one of these commands as a job of a Ray cluster"),
    "bundle": (BundleConfig, commands.bundle, "wheels, models and assets, for machines without internet"),
}

APART = {"replay": "overrides", "refine": "distill", "submit": "keys"}
"""Commands that take keys of another beside their own, and where these go."""

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
        with _raising_hydra():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(job)()
        if fault:
            raise fault
    except KeyboardInterrupt:
        return _say("interrupted; what is done is kept, and the same command goes on from there", 130)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        if wanted_traceback:
            traceback.print_exc()
        return _say(" ".join(str(error).split()))
    except commands.CommandStoppedError as error:
        return _say(str(error), STOPPED)
    except (commands.CommandFailedError, OSError, RuntimeError) as error:
        if wanted_traceback:
            traceback.print_exc()
        return _say(" ".join(str(error).split()), 1)
    return code


@contextmanager
def _raising_hydra() -> Iterator[None]:
    """Let Hydra raise what is wrong instead of printing pages and exiting."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        if before is not None:
            os.environ["HYDRA_FULL_ERROR"] = before


def set_apart(name: str, kind: type[Any], overrides: list[str]) -> dict[str, list[str]]:
    """Keys of other commands that a command takes beside its own, by the key of its own where they go.

    To ``replay`` all that are not its own are distill's, to ``submit`` its command's. Of ``refine``'s, ``judge.seed=1``
    is ``seed=1`` of its judge's training, and those that begin with no key of its own are distill's.
    """
    if name not in APART:
        return {}
    own = {field.name for field in fields(kind)} | {"hydra"}
    apart: dict[str, list[str]] = {}
    for text in overrides:
        first, dot, _ = text.partition("=")[0].lstrip("+~").partition(".")
        if "=" in text and first not in own:
            apart.setdefault(APART[name], []).append(text)
        elif dot and name == "refine" and first != "hydra":
            apart.setdefault(first, []).append(text)
    return apart


def with_keys(composed: DictConfig, apart: dict[str, list[str]]) -> DictConfig:
    """The configuration with the keys of other commands in their places."""
    for key, texts in apart.items():
        given = [re.sub(rf"^([+~]*){key}\.", r"\1", text) for text in texts]
        OmegaConf.update(composed, key, [*(composed[key] or []), *given])
    return composed


def check_keys(name: str, overrides: list[str]) -> None:
    """Raise what a command would say of its keys; inside ``hydra.main``."""
    allowed = [command for command in COMMANDS if command != "submit"]
    if name not in allowed:
        raise ConfigError(f"command: {name!r}; allowed: {', '.join(allowed)}")
    kind = COMMANDS[name][0]
    apart = set_apart(name, kind, overrides)
    own = [as_hydra_reads(text) for text in overrides if not any(text in texts for texts in apart.values())]
    check(kind, with_keys(hydra.compose(name, own), apart))


def as_hydra_reads(override: str) -> str:
    """The same override; a PubMed query, whose brackets and quotes mean something to Hydra, in quotes of Hydra's."""
    key, _, query = override.partition("=")
    if key != "source.query" or (len(query) > 1 and query[0] == query[-1] == "'"):
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), query)
    return f"{key}='{escaped}'"


def _say(message: str, code: int = 2) -> int:
    print(f"kailin_ray: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
