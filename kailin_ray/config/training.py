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
    """Training data in TRL's columns: what `publish` writes, or any dataset with the same columns."""

    kind: Literal["trl"]
    path: str
    """A dataset folder, a file (JSON, JSON lines, CSV, Parquet), or a hub id."""
    name: str | None
    """The dataset's config, if it has several."""
    revision: str | None
    """The hub revision, best a commit."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionColumns:
    """Which column holds which field; null if none does."""

    pmid: str | None
    """Column of the PMID."""
    title: str | None
    """Column of the title."""
    abstract: str
    """Column of the abstract."""
    question: str
    """Column of the question."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionRows:
    """Abstracts with one question each, in columns of any name."""

    kind: Literal["columns"]
    path: str
    """A dataset folder, a file (JSON, JSON lines, CSV, Parquet), or a hub id."""
    name: str | None
    """The dataset's config, if it has several."""
    split: str
    """The split to read."""
    revision: str | None
    """The hub revision, best a commit."""
    columns: QuestionColumns


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PubMedQaFile:
    """PubMedQA's own JSON (``ori_pqal.json``), or JSON lines with its fields."""

    kind: Literal["pubmedqa"]
    path: LocalPath
    """The file."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BioAsqFile:
    """BioASQ's training JSON. Its abstracts are looked up by PMID."""

    kind: Literal["bioasq"]
    path: LocalPath
    """The file."""
    documents: LocalPath
    """The folder of documents to look them up in, made by `ingest` or `select`."""


TrainingData = Annotated[TrlRows | QuestionRows | PubMedQaFile | BioAsqFile, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainedModel:
    """The model to train."""

    path: str
    """The model to train: a local directory or a hub id."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    adapter: str | None
    """A LoRA adapter of the model to start from. For DPO it is also the reference model."""
    chat_template: dict[str, bool | int | float | str]
    """Chat template arguments. Use the same ones for the engine later."""
    dtype: Literal["bfloat16", "float32"]
    """Type of the loaded weights. An adapter's own weights are float32. CPUs without fast bfloat16 compute in
    float32."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """The LoRA adapter, in PEFT's terms."""

    r: Positive
    """Rank."""
    lora_alpha: Positive
    """Scale: the adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: Fraction
    """Dropout of the adapter's input."""
    target_modules: Literal["all-linear"] | tuple[str, ...]
    """The layers that get an adapter."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimization:
    """How the model is trained, in the terms of transformers' TrainingArguments, except for the batch sizes."""

    num_train_epochs: Annotated[float, Field(gt=0.0)]
    """Passes over the examples."""
    max_steps: Positive | None
    """Stop after this many optimizer steps; null for as many as the epochs take."""
    learning_rate: Annotated[float, Field(gt=0.0)]
    """The highest learning rate."""
    lr_scheduler_type: Literal["constant", "linear", "cosine", "constant_with_warmup"]
    """How the learning rate falls."""
    warmup_steps: Annotated[float, Field(ge=0.0)]
    """Optimizer steps of warm-up; a number below 1 is a share of all steps."""
    batch_size: Positive
    """Examples of one optimizer step, over all workers."""
    per_device_batch_size: Positive | None
    """Examples that a worker computes at once; null for 4 on a GPU and 1 on CPUs, which then compute no padding."""
    max_length: Positive
    """The most tokens of an example. Longer examples are left out and counted; longer plain text is cut off."""
    packing: bool
    """Put several texts into one sequence; only for `task=pretrain`."""
    weight_decay: Annotated[float, Field(ge=0.0)]
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0.0)]
    """Gradients are clipped to this norm."""
    gradient_checkpointing: bool
    """Save memory by computing activations twice."""
    save_steps: Positive
    """Optimizer steps between checkpoints: what a killed job may have to redo."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Dpo:
    """Which preferences DPO learns from, and how."""

    beta: Annotated[float, Field(gt=0.0)]
    """How strongly the model is held to the reference model; larger is closer."""
    min_margin: Annotated[float, Field(ge=0.0)]
    """Leave out preferences with a smaller margin."""
    max_length_ratio: Annotated[float, Field(ge=1.0)] | None
    """Leave out pairs in which one question has more than this many times the other's words; null keeps all."""
    weight_by_margin: bool
    """Draw pairs with replacement, in proportion to their margins; false shows each pair once an epoch."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Workers:
    """Ray Train's workers: processes that train one model together."""

    num: Positive
    """How many workers."""
    cpus: Annotated[float, Field(gt=0.0)]
    """CPUs of each worker; on CPUs also its threads."""
    gpus: Annotated[int, Field(ge=0, le=1)]
    """GPUs of each worker: 0 or 1."""
    max_failures: NotNegative
    """How often a training restarts from its last checkpoint after it lost a worker."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """``kailin-ray train``."""

    task: Task
    """What to train. question, judge, dpo: an agent. pretrain, sft: a downstream model."""
    data: TrainingData
    exclude: tuple[LocalPath, ...]
    """Benchmark files. Examples with their PMIDs or texts are left out."""
    limit: Positive | None
    """Train on at most this many examples, the first ones."""
    min_examples: Positive
    """Refuse to train on fewer examples."""
    model: TrainedModel
    lora: Lora | None
    """null trains all weights."""
    optimization: Optimization
    dpo: Dpo
    merge_adapter: bool
    """Write the whole model with the adapter merged into it, instead of the adapter."""
    out: LocalPath
    """The folder to create. The same command resumes a training that stopped, from its last checkpoint."""
    seed: NotNegative
    """Seed of the order of examples and of dropout."""
    workers: Workers
    cluster: Cluster

    @property
    def at_once(self) -> int:
        """Examples that a worker computes at once."""
        return self.optimization.per_device_batch_size or (4 if self.workers.gpus else 1)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RefineConfig:
    """``kailin-ray refine``. Its lists hold keys of the commands that it runs, as on their command lines."""

    out: LocalPath
    """The folder of the loop: adapters, runs, datasets and comparisons."""
    rounds: Positive
    """How often to train and distil again."""
    agents: Annotated[tuple[Literal["general", "biomedical"], ...], Field(min_length=1)]
    """The question agents to refine."""
    question: tuple[str, ...] | None
    """Keys of `train task=question`, to start from a fine-tuned question agent: question.data.path=x. null starts from
    the model as it is."""
    publish: tuple[str, ...]
    """Keys of `publish`."""
    judge: tuple[str, ...]
    """Keys of `train task=judge`: judge.seed=1."""
    dpo: tuple[str, ...]
    """Keys of `train task=dpo`: dpo.lora.r=8."""
    refined: tuple[str, ...]
    """Keys of the `distill` runs from the first round on, on top of `distill`."""
    compare: tuple[str, ...]
    """Keys of `compare`."""
    distill: tuple[str, ...]
    """Keys of every `distill` run. Filled from the command line: every key that begins with none of these names."""
