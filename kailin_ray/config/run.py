"""Configuration of a run and of the commands that read one."""

from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.agents import Answer, Evaluation, Model
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
    answer: Answer
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Layout(Agents):
    """What a plan is computed from."""

    from_run: Annotated[Folder | None, Field(validation_alias=AliasChoices("from", "from_run"))]
    """A complete run to start from: its records are redone from the first of `stages` on."""
    stages: tuple[Step, ...]
    """The steps to do: all of them, or with `from` the later ones ([evaluation, answer] or [answer])."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DistillConfig(Layout):
    """``kailin-ray distill``."""

    documents: Folder
    """The folder of documents to distil, made by `ingest` or `select`; local, or s3://bucket/folder."""
    index: LocalPath
    """The index folder to retrieve contexts from, made by `index`."""
    mesh: LocalPath
    """The MeSH hierarchy: NLM's descriptor XML or tree list (mtrees), OBO, or a table; .gz or not."""
    tolerate_orphans: bool
    """Accept tree numbers whose parent is missing, as in subsets of MeSH."""
    out: Folder
    """The run's folder, local or s3://bucket/folder. The same command resumes a run that stopped."""
    accept_updated_index: bool = False  # runs of earlier versions, replayed, lack it
    """Resume a run although its index was updated since, so that its rows have contexts of several versions."""
    limit: Positive | None
    """Distil at most this many documents: the first by file and row, or with `from` those with the lowest PMIDs."""
    max_failed_fraction: Fraction
    """Stop the run if a larger share of its rows failed. Rejected rows do not count."""
    max_fraction: dict[str, Fraction | None]
    """Stop the run if a larger share of its rows ended for this reason; null for no limit."""
    max_hours: Annotated[float, Field(gt=0.0)] | None
    """Stop the run in good order after this many hours (exit code 75). The same command resumes it."""
    grace_seconds: Annotated[float, Field(ge=0.0)]
    """How long a run that stops may take to finish the rows that it has begun."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanConfig(Layout):
    """``kailin-ray plan``. It takes all keys of ``distill``, so that the same command line works; few are needed."""

    documents: Folder | None
    index: LocalPath | None
    mesh: LocalPath | None
    tolerate_orphans: bool
    out: Folder | None
    accept_updated_index: bool
    limit: Positive | None
    max_failed_fraction: Fraction
    max_fraction: dict[str, Fraction | None]
    max_hours: float | None
    grace_seconds: float


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReplayConfig:
    """``kailin-ray replay``."""

    run: Folder
    """A complete run."""
    reason: tuple[str, ...] | str
    """Redo the rows that ended for this reason, or a list of reasons: `answer_truncated`, or in short `truncated`."""
    overrides: tuple[str, ...]
    """Settings to change. Filled from the command line: every key of `distill`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PublishConfig:
    """``kailin-ray publish``."""

    run: Folder
    """A complete run; local, or s3://bucket/folder."""
    out: Folder
    """The dataset folder to create; local, or s3://bucket/folder."""
    format: Literal["parquet", "jsonl", "sharegpt", "alpaca"]
    """parquet: a Hugging Face dataset folder. jsonl: the same as JSON lines. sharegpt, alpaca: JSON lines with the
    fields that LLaMA-Factory and axolotl read, of the configs that train a model."""
    sft: Literal["messages", "text"]
    """Whether prompts and completions of the config `sft` are messages (TRL's conversational format) or plain text, for
    models without a chat template."""
    judge_min_margin: Annotated[float, Field(ge=0.0)]
    """The smallest margin of the rule with which a preference becomes a training example for the judge."""
    benchmarks: tuple[LocalPath, ...] | None
    """Benchmark files. Rows whose question, answer or contexts contain their texts are left out. null takes the files
    that the run's documents were cleaned of; [] none."""
    dedup_questions: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """Leave out a row whose question nearly repeats the question of a row with a better MeSH score: their sets of two
    consecutive content words have at least this Jaccard similarity. null leaves out none."""
    balance: Literal["decision"] | None
    """decision: publish as many rows with decision yes as with decision no. Rows of the more common decision are left
    out by a hash of the PMID. Rows with decision maybe, or without a decision, stay. null leaves out none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig(Agents):
    """``kailin-ray compare``. Of the agents it uses only the judge."""

    old: Folder
    """A complete run; local, or s3://bucket/folder."""
    new: Folder
    """Another complete run on the same documents."""
    out: LocalPath
    """The folder to create: a table, a plot and all figures."""
    held_out: bool
    """Compare only abstracts that nothing was trained on (one in ten); false compares all that both runs have."""
    judge: bool
    """Also ask the judge (`model.judge`, `evaluation.judge.mode`); false compares MeSH scores alone."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReportConfig:
    """``kailin-ray report``."""

    run: Folder
    """A complete run; local, or s3://bucket/folder."""
    examples: NotNegative
    """Triples to print."""
    summary: bool
    """Also print the figures that `distill` prints at its end."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StatusConfig:
    """``kailin-ray status``."""

    run: Folder
    """A run's folder; local, or s3://bucket/folder."""
    json: bool
    """Print JSON, for programs."""
