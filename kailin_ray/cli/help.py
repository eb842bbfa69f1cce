"""The help of a command: its template in ``conf/``, with its keys, their defaults and what they mean."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import Template
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from kailin_ray.config import compose, conf_dir
from kailin_ray.config.describe import REQUIRED, Key, describe_keys
from kailin_ray.schema import Json

WIDTH = 100
SHOWN = {"train": "task=question"}
"""Commands with a group that has no default option, and the option whose defaults their help shows."""


def summarize_command(command: str) -> str:
    """What a command does, in a line: the header of its help in ``conf/``."""
    header: str = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())["hydra"]["help"]["header"]
    return header.removeprefix(f"{command}: ")


def compose_for_help(command: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a command with its help; a group that must be chosen may be missing."""
    shown = SHOWN.get(command)
    if shown and not any(text.startswith(f"{shown.partition('=')[0]}=") for text in overrides):
        overrides = [*overrides, shown]
    return compose(command, overrides, with_help=True)


def format_help(kind: type[Any], composed: DictConfig) -> str:
    """The help text of a command, from its configuration composed ``with_help``."""
    template, chosen = Template(composed.hydra.help.template), dict(composed.hydra.runtime.choices)
    with open_dict(composed):
        del composed["hydra"]
    return template.safe_substitute(KEYS="\n".join(_format_keys(describe_keys(kind, to_values(composed)), chosen)))


def to_values(composed: DictConfig) -> Json:
    """Return a composed configuration as plain values; interpolations and missing values stay as they are."""
    values: Any = OmegaConf.to_container(composed)
    return dict(values)


def _format_keys(keys: Iterable[Key], chosen: Mapping[str, str | None]) -> Iterator[str]:
    """The command's own keys, then those of each group under the group's options.

    What a key means is printed once: keys of several agents often mean the same.
    """
    options = {group: stems for group, stems in list_groups().items() if group in chosen}
    own = [key for key in keys if key.name.partition(".")[0] not in options]
    yield "Keys (key=value; all others have a default):" if any(key.default == REQUIRED for key in own) else "Keys:"
    printed: set[str] = set()
    yield from _format_lines(own, printed)
    for group, stems in options.items():
        others = ", ".join(stem for stem in stems if stem != chosen[group])
        yield f"\nGroup {group}={chosen[group]} (or {others}):" if others else f"\nGroup {group}={chosen[group]}:"
        yield from _format_lines([key for key in keys if key.name.startswith(f"{group}.")], printed)


def _format_lines(keys: Iterable[Key], printed: set[str]) -> Iterator[str]:
    for key in keys:
        text = f"{key.name}={key.default}" if key.default != REQUIRED else f"{key.name}=  (required)"
        yield textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 8, break_long_words=False)
        if key.meaning and key.meaning not in printed:
            printed.add(key.meaning)
            yield textwrap.fill(key.meaning, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def list_groups() -> dict[str, list[str]]:
    """The groups of ``conf/`` with their options."""
    folders = sorted(folder for folder in conf_dir().iterdir() if folder.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}
