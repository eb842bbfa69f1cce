"""Configuration of a run and of the commands that read one."""

from typing import Annotated

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.agents import Evaluation, Model
from kailin_ray.config.cluster import Cluster
from kailin_ray.config.fields import STRICT, Fraction, NotNegative, Positive, Step
from kailin_ray.config.retrieval import Retrieval
from kailin_ray.io.storage import Folder, LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Agents:
    """The agents, and where their engines run."""

    model: Model
    retrieval: Retrieval
    evaluation: Evaluation
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Layout(Agents):
    """What a plan is made from."""

    from_run: Annotated[Folder | None, Field(validation_alias=AliasChoices("from", "from_run"))]
    """A complete run whose records are begun again at the first of ``stages``; ``from`` on the command line."""
    stages: tuple[Step, ...]
    """What is done: all steps, or with ``from_run`` the later ones."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DistillConfig(Layout):
    """``kailin-ray distill``."""

    documents: Folder
    index: LocalPath
    mesh: LocalPath
    tolerate_orphans: bool
    """Accept tree numbers of the MeSH file whose parent is missing, as in subsets."""
    out: Folder
    limit: Positive | None
    """Distil the first so many documents only."""
    max_failed_fraction: Fraction
    """The run stops when more of its rows failed (not: were rejected)."""
    max_fraction: dict[str, Fraction | None]
    """The run stops when more of its rows ended for a reason: by a reason of ``schema.REASONS``."""
    max_hours: Annotated[float, Field(gt=0.0)] | None
    """The run stops after so many hours, as after SIGTERM; the same command goes on."""
    grace_seconds: Annotated[float, Field(ge=0.0)]
    """How long a run that stops may finish what it has begun."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanConfig(Layout):
    """``kailin-ray plan``: takes ``distill``'s keys, so that the same line serves, and needs few of them."""

    documents: Folder | None
    index: LocalPath | None
    mesh: LocalPath | None
    tolerate_orphans: bool
    out: Folder | None
    limit: Positive | None
    max_failed_fraction: Fraction
    max_fraction: dict[str, Fraction | None]
    max_hours: float | None
    grace_seconds: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReplayConfig:
    """``kailin-ray replay``."""

    run: Folder
    reason: tuple[str, ...] | str
    """Of the rows to do again: of ``schema.REASONS``, or their last words."""
    overrides: tuple[str, ...]
    """What is to be different from the run's own configuration, as on the command line."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishConfig:
    """``kailin-ray publish``."""

    run: Folder
    out: Folder
    judge_min_margin: Annotated[float, Field(ge=0.0)]
    """The rule's margin from which on its preference trains the judge."""
    benchmarks: tuple[LocalPath, ...] | None
    """Files of benchmarks of which no question, answer or context may have a text; null for those that the run's
    documents were cleaned of."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig(Agents):
    """``kailin-ray compare``; of the agents only the judge works."""

    old: Folder
    new: Folder
    out: LocalPath
    held_out: bool
    """Only abstracts that nothing was trained on."""
    judge: bool
    """Ask the judge which question is better."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReportConfig:
    """``kailin-ray report``."""

    run: Folder
    examples: NotNegative
    """Triples to show."""
    summary: bool
    """Show the figures too, which `distill` has shown already."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StatusConfig:
    """``kailin-ray status``."""

    run: Folder
    json: bool
    """For programs."""
