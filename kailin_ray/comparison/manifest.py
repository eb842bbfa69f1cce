"""The manifest of a comparison: what was compared with what, and how."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from kailin_ray.dataset.run import UsedModel
from kailin_ray.io.manifests import Manifest
from kailin_ray.schema import Json


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the two runs."""

    run: str
    """Path of the run at that time."""
    manifest_sha256: str
    models: dict[str, UsedModel]
    """By agent."""
    index: str
    replays: int
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class JudgeIdentity:
    """The judge and all that its verdicts depend on."""

    mode: Literal["pairwise", "pointwise"]
    model: UsedModel
    prompts: str
    """Checksum of the judge's prompts."""
    runs: dict[str, str]
    """Checksums of the manifests of ``old`` and ``new``."""


@dataclass(frozen=True, kw_only=True)
class IntervalMethod:
    """How intervals were computed."""

    level: float
    seed: int
    bootstrap_draws: int
    diversity_draws: int


@dataclass(frozen=True, kw_only=True)
class ComparisonManifest(Manifest):
    """What was compared with what, and how."""

    FORMAT_VERSION: ClassVar[int] = 2
    """Since 2 ``config`` and ``judge`` have the keys of ``config.renamed``."""
    COMMAND: ClassVar[str] = "compare"

    kind: Literal["comparison"] = "comparison"
    documents: str
    """The id of the documents of both runs."""
    held_out: bool
    """Only abstracts that were never used for training."""
    old: ComparedRun
    new: ComparedRun
    differs: dict[str, tuple[Any, Any]]
    """Old and new value of each setting that differs, except the models and where the runs ran."""
    abstracts: int
    judge: JudgeIdentity | None
    intervals: IntervalMethod
    versions: dict[str, str]
    config: Json
