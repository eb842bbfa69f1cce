"""Overrides of the command line, and those that belong to another command."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

APART = {"replay": "overrides", "refine": "distill", "submit": "keys"}
"""Commands that also take keys of another command, and their own key that collects these."""


def compose_keys(name: str, arguments: Sequence[str]) -> list[str]:
    """The overrides as Hydra reads them; of ``submit`` the first word is the command to submit."""
    words = list(arguments)
    if name == "submit" and words and re.fullmatch(r"\w+", words[0]):
        words[0] = f"command={words[0]}"
    return words


def split_overrides(name: str, kind: type[Any], overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The command's own overrides, and those of other commands by the key that collects them.

    ``replay`` takes all that are not its own for distill, ``submit`` for its command. Of ``refine``'s, ``judge.seed=1``
    is ``seed=1`` of its judge's training, and those that begin with no key of its own are distill's.
    """
    if name not in APART:
        return list(overrides), {}
    names = {field.name for field in fields(kind)} | {"hydra"}
    own: list[str] = []
    apart: dict[str, list[str]] = {}
    for text in overrides:
        first, dot, _ = text.partition("=")[0].lstrip("+~").partition(".")
        if "=" in text and first not in names:
            apart.setdefault(APART[name], []).append(text)
        elif dot and name == "refine" and first != "hydra":
            apart.setdefault(first, []).append(text)
        else:
            own.append(text)
    return own, apart


def add_keys(composed: DictConfig, apart: Mapping[str, Sequence[str]]) -> DictConfig:
    """Put the overrides of other commands into the keys that collect them."""
    for key, texts in apart.items():
        given = [re.sub(rf"^([+~]*){key}\.", r"\1", text) for text in texts]
        OmegaConf.update(composed, key, [*(composed[key] or []), *given])
    return composed
