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
    """Where it lay."""
    manifest_sha256: str
    models: dict[str, UsedModel]
    """By agent."""
    index: str
    replays: int
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class JudgeIdentity:
    """Who judges, and all that verdicts depend on."""

    form: Literal["pairwise", "pointwise"]
    model: UsedModel
    prompts: str
    """Checksum of what the judge is told."""
    runs: dict[str, str]
    """Checksums of the manifests of ``old`` and ``new``."""


@dataclass(frozen=True, kw_only=True)
class IntervalMethod:
    """How intervals were drawn."""

    level: float
    seed: int
    bootstrap_draws: int
    diversity_draws: int


@dataclass(frozen=True, kw_only=True)
class ComparisonManifest(Manifest):
    """What was compared with what, and how."""

    COMMAND: ClassVar[str] = "compare"

    kind: Literal["comparison"] = "comparison"
    documents: str
    """The id of the documents that both runs are of."""
    held_out: bool
    """Only abstracts that nothing was trained on."""
    old: ComparedRun
    new: ComparedRun
    differs: dict[str, tuple[Any, Any]]
    """Settings that the runs differ in, besides the models and where they ran: old and new."""
    abstracts: int
    judge: JudgeIdentity | None
    intervals: IntervalMethod
    versions: dict[str, str]
    config: Json
