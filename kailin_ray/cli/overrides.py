"""Overrides of the command line, and those that belong to another command."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

APART = {"replay": "overrides", "refine": "distill", "submit": "keys"}
"""Commands that take keys of another beside their own, and where these go."""


@contextmanager
def raising_hydra() -> Iterator[None]:
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


def as_hydra_reads(override: str) -> str:
    """The same override; a PubMed query, whose brackets and quotes mean something to Hydra, in quotes of Hydra's."""
    key, _, query = override.partition("=")
    if key != "source.query" or (len(query) > 1 and query[0] == query[-1] == "'"):
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), query)
    return f"{key}='{escaped}'"
