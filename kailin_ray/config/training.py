"""Configuration of training and refinement."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.cluster import Cluster
from kailin_ray.config.fields import STRICT, Fraction, NotNegative, Positive
from kailin_ray.io.storage import LocalPath

Task = Literal["question", "judge", "dpo", "pretrain", "sft"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrlRows:
    """Training data in TRL's columns: what ``publish`` makes, or any dataset like it."""

    kind: Literal["trl"]
    path: str
    """A dataset folder, a file (JSON, JSON lines, CSV, Parquet), or a hub id."""
    name: str | None
    """Of the dataset's configuration."""
    revision: str | None
    """Of the hub, best a commit."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionColumns:
    """Which column holds a field; null for none."""

    pmid: str | None
    title: str | None
    abstract: str
    question: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionRows:
    """Abstracts with a question each, in columns of any name."""

    kind: Literal["columns"]
    path: str
    name: str | None
    split: str
    revision: str | None
    columns: QuestionColumns


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PubMedQaFile:
    """PubMedQA's own JSON (``ori_pqal.json``), or JSON lines with its fields."""

    kind: Literal["pubmedqa"]
    path: LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BioAsqFile:
    """BioASQ's training JSON; its abstracts are looked up by PMID."""

    kind: Literal["bioasq"]
    path: LocalPath
    documents: LocalPath
    """A folder that ``ingest`` or ``select`` made."""


TrainingData = Annotated[TrlRows | QuestionRows | PubMedQaFile | BioAsqFile, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainedModel:
    """What is trained."""

    path: str
    """A local directory or a hub id."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    adapter: str | None
    """A LoRA adapter of it to go on from; DPO takes it as the reference, too."""
    chat_template: dict[str, bool | int | float | str]
    """Arguments of the chat template; the same as the engine's."""
    dtype: Literal["bfloat16", "float32"]
    """Of the weights as they are loaded; an adapter's own are float32."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """The adapter, in PEFT's names."""

    r: Positive
    lora_alpha: Positive
    lora_dropout: Fraction
    target_modules: Literal["all-linear"] | tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimization:
    """In the names of transformers' TrainingArguments, but for the batch."""

    num_train_epochs: Annotated[float, Field(gt=0.0)]
    max_steps: Positive | None
    """Null: as many as the epochs take."""
    learning_rate: Annotated[float, Field(gt=0.0)]
    lr_scheduler_type: Literal["constant", "linear", "cosine", "constant_with_warmup"]
    warmup_steps: Annotated[float, Field(ge=0.0)]
    """Below 1 it is a share of all steps."""
    batch_size: Positive
    """Examples of one step, over all workers."""
    per_device_batch_size: Positive | None
    """Of these a worker takes so many at once. Null: 4 on a GPU, 1 on CPUs, which then compute nothing for padding."""
    max_length: Positive
    """Tokens of an example. A longer one is left out and counted; of plain text it is cut."""
    packing: bool
    """Several texts in one sequence; for pretrain."""
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Annotated[float, Field(gt=0.0)]
    gradient_checkpointing: bool
    save_steps: Positive
    """Steps that a killed job may have to do again."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dpo:
    """Which preferences are learned from, and how."""

    beta: Annotated[float, Field(gt=0.0)]
    min_margin: Annotated[float, Field(ge=0.0)]
    """Of a pair: preferences by less are left out."""
    max_length_ratio: Annotated[float, Field(ge=1.0)] | None
    """Pairs of which one side has more than so many times the other's words are left out; null keeps them."""
    weight_by_margin: bool
    """Pairs are drawn, with replacement, by their margins; else each is seen once an epoch."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Workers:
    """Of Ray Train: processes that train one model together."""

    num: Positive
    cpus: Annotated[float, Field(gt=0.0)]
    """Of each; on CPUs also its threads."""
    gpus: Annotated[int, Field(ge=0, le=1)]
    max_failures: NotNegative
    """A worker that is lost is begun again from the last checkpoint so many times."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """``kailin-ray train``."""

    task: Task
    data: TrainingData
    exclude: tuple[LocalPath, ...]
    """Benchmark files whose abstracts (by PMID) and texts must not be learned from."""
    limit: Positive | None
    """The first so many examples only."""
    min_examples: Positive
    model: TrainedModel
    lora: Lora | None
    """Null trains all weights."""
    optimization: Optimization
    dpo: Dpo
    merge: bool
    """Write the whole model with the adapter worked in, instead of the adapter."""
    out: LocalPath
    seed: NotNegative
    workers: Workers
    cluster: Cluster

    @property
    def at_once(self) -> int:
        """Examples that a worker takes at once."""
        return self.optimization.per_device_batch_size or (4 if self.workers.gpus else 1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RefineConfig:
    """``kailin-ray refine``; lists hold keys of the commands that it runs, as on the command line."""

    out: LocalPath
    rounds: Positive
    agents: Annotated[tuple[Literal["general", "biomedical"], ...], Field(min_length=1)]
    """The question agents that are refined."""
    question: tuple[str, ...] | None
    """Null begins with the model as it is."""
    publish: tuple[str, ...]
    judge: tuple[str, ...]
    dpo: tuple[str, ...]
    refined: tuple[str, ...]
    """Of distill, from the first round on."""
    compare: tuple[str, ...]
    distill: tuple[str, ...]
    """Of all rounds' distill."""
