"""The whole configuration as frozen dataclasses, checked before Ray or a model starts.

The defaults stand in ``conf/``; a field here has none, so that there is one place to look. ``check`` turns what Hydra
composed into one of these, or into one line that names the key, what it was, and what is allowed.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from kailin_ray.errors import ConfigError
from kailin_ray.storage import SECRET, Folder, LocalPath

_STRICT = ConfigDict(extra="forbid")

Step = Literal["question", "evaluation", "answer"]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Sampling:
    """How an agent samples; the names are vLLM's."""

    max_tokens: Positive
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NotNegative = 0
    """0 for all."""
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Agent:
    """The model of an agent, where it is not the one of all agents."""

    path: str | None
    """A local directory or a hub id of its own; null for the model of all agents."""
    revision: str | None
    """Of its own model."""
    adapter: str | None
    """A local directory of a LoRA adapter of its model (PEFT's files); agents of one model share its engine."""
    examples: bool
    """Its prompt has the worked examples; an agent that ``train`` made has learned without them."""
    engine: dict[str, Any]
    """vLLM's engine arguments, over those of all agents."""
    chat_template: dict[str, bool | int | float | str]
    """Arguments of the chat template, over those of all agents."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class QuestionAgent(Agent):
    """One of the two question agents."""

    persona: Literal["clinical", "mechanism", "any"]
    """What it asks for; see ``agents/preamble.py``."""
    sampling: Sampling


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class JudgeAgent(Agent):
    """The evaluation agent's judge; it is read by its probabilities, so nothing is sampled."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AnswerAgent(Agent):
    """The answer agent."""

    sampling: Sampling


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Model:
    """The model of all agents that have none of their own, and what each agent does."""

    path: str | None
    """A local directory or a hub id; null where each agent has its own."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    engine: dict[str, Any]
    """vLLM's engine arguments, passed on untouched."""
    chat_template: dict[str, bool | int | float | str]
    """Arguments of the chat template, such as enable_thinking."""
    general: QuestionAgent
    biomedical: QuestionAgent
    judge: JudgeAgent
    answer: AnswerAgent


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class QueryModel:
    """The model of questions, where they have one of their own."""

    path: str
    """A local directory or a hub id."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Encoder:
    """The sentence encoder of passages (title and abstract) and questions."""

    path: str
    """A local directory or a hub id: the model of passages, and of questions where ``query`` is null."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    query: QueryModel | None
    """The model of questions, as MedCPT has one of its own; null for that of passages."""
    pooling: Literal["mean", "cls"] | None
    """How tokens' vectors become the text's: their mean, or the first's; null for what the model directory's own
    sentence-transformers modules say."""
    normalize: bool
    """Unit vectors, so that scores are cosines; else as they come, scored by inner product."""
    pair: bool
    """Title and abstract are two segments of one input; else one text, a blank between them."""
    prefix: str
    """Set before a passage; the prompts that a model directory names are not used."""
    query_prefix: str
    """Set before a question."""
    max_length: Positive
    """Tokens of a passage that are read, special tokens counted in."""
    query_max_length: Positive
    """Tokens of a question that are read."""
    batch_size: Positive
    """Texts that the model reads at once; they are sorted by length first."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Retrieval:
    """The retrieval agent."""

    top_k: Positive
    """Contexts of a question."""
    exclude_source: bool
    """Leave the source abstract out of its own contexts."""
    jaccard: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """How alike two passages are that count as one, by their sets of five words in a row; null to keep all."""
    lexical_weight: Annotated[float, Field(ge=0.0)]
    """Of BM25's ranking, to 1 of the dense one, where they are fused; 0 for dense search alone."""
    mesh_weight: Annotated[float, Field(ge=0.0)]
    """Of the ranking by MeSH similarity to the source, to 1 of the ranking so far; 0 leaves MeSH to the evaluation."""
    max_context_words: Positive | None
    """Words of a context that the answer agent is shown, from its start; null for all."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Judge:
    """The evaluation agent's language model as a judge."""

    form: Literal["pairwise", "pointwise"]
    """Which of two candidates is better, asked in both orders; or whether each of them suits, asked alone."""
    min_margin: Fraction
    """The judge abstains under this difference of the candidates' probabilities."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Evaluation:
    """The evaluation agent."""

    by: Literal["rule", "judge", "rule_then_judge"]
    """Who prefers; rule_then_judge asks the judge only where the rule abstains."""
    measure: Literal["resnik", "lin", "jc", "rel", "kailin"]
    """Of the rule: similarity of two descriptors; see ``mesh/similarity.py``."""
    aggregate: Literal["bma", "mean"]
    """Of the rule: similarity of two sets of descriptors."""
    min_margin: Annotated[float, Field(ge=0.0)]
    """The rule abstains under this margin."""
    judge: Judge


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Nodes:
    """Machines that are alike."""

    count: Positive
    cpus: Positive
    memory_gib: Annotated[float, Field(gt=0.0)]
    gpus: NotNegative
    gpu_memory_gib: Annotated[float, Field(ge=0.0)]
    """Of one GPU."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Cluster:
    """Where it runs."""

    address: str | None
    """Of a running Ray cluster; null starts one on this machine, unless RAY_ADDRESS is set."""
    nodes: Nodes | None
    """For ``plan``, a cluster that is not at hand; null for the one that is."""
    device: Literal["cpu", "gpu"]
    """What engines run on; cpu needs vLLM's CPU build."""
    num_engines: Positive | None
    """Replicas of each engine; null for what the plan finds best."""
    cut: Literal["auto", "never", "always"]
    """Stages that do not fit side by side run one after another: as few cuts as it takes, none, or after each stage."""
    cpus_per_engine: Annotated[float, Field(gt=0.0)]
    """That an engine's actor holds in Ray; on CPUs its threads are another matter."""
    threads_per_engine: Positive | None
    """Of an engine on CPUs; null shares the machine's cores out evenly."""
    num_retrievers: Positive | None
    """Actors that find the contexts; null for one on each machine whose engines ask for them."""
    num_encoders: Positive
    gpus_per_encoder: Annotated[float, Field(ge=0.0)]
    """Also of a retriever, which encodes the questions."""
    rows_per_block: Positive
    """Abstracts that are handed on and written together."""
    rows_in_flight: Positive
    """Abstracts that an engine works on at once: what a crash of it can cost, about twice."""
    gpu_hour_price: Annotated[float, Field(ge=0.0)] | None
    """Money for a GPU and hour; null leaves money out of the summary."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FetchConfig:
    """``python -m kailin_ray fetch``."""

    assets: tuple[str, ...]
    to: LocalPath


WebAddress = Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]
"""Of a server, without a user, a password or a query."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DownloadConfig:
    """``python -m kailin_ray download``."""

    to: LocalPath
    what: Annotated[tuple[Literal["baseline", "updatefiles"], ...], Field(min_length=1)]
    """NLM's folders of PubMed files."""
    names: tuple[str, ...] | str
    """Globs of the names that are wanted."""
    limit: Positive | None
    """The first so many of them only."""
    connections: Annotated[int, Field(ge=1, le=8)]
    """Files that are fetched at once."""
    base_url: WebAddress
    """Of the folders: NLM's, or a mirror's."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BundleConfig:
    """``python -m kailin_ray bundle``."""

    out: LocalPath
    target: Literal["cpu", "gpu"]
    """Which build of vLLM and PyTorch."""
    python: Annotated[str, BeforeValidator(str), Field(pattern=r"^3\.\d{1,2}$")]
    """Of the machines without internet; Hydra reads 3.12 as a number."""
    models: tuple[str, ...]
    """Local directories, and hub ids as owner/name@revision."""
    assets: tuple[str, ...]
    assets_in: LocalPath
    part_mib: Annotated[int, Field(ge=16)]
    """The most that a file of the bundle takes."""
    lock: LocalPath | None
    """Pins instead of this project's own."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PubmedXml:
    """Documents from PubMed's own files."""

    kind: Literal["pubmed_xml"]
    path: tuple[str, ...] | str
    """A file, a directory, a glob, or a list of these."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PubmedQuery:
    """Documents that PubMed finds for a query, from NCBI's E-utilities."""

    kind: Literal["pubmed_query"]
    query: Annotated[str, Field(min_length=1)]
    """In PubMed's own language: ``metformin AND 2020[dp]``."""
    max_results: Annotated[int, Field(ge=1, le=9_999)] | None
    """The first so many; null for all. NCBI gives the first 9,999 of a query's results only."""
    email: str | None
    """Whom NCBI writes to before it blocks an address."""
    base_url: WebAddress


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Pmids:
    """Documents by their PMIDs, from NCBI's E-utilities."""

    kind: Literal["pmids"]
    path: LocalPath
    """A text file, one PMID a line; or a CSV file."""
    column: str | None
    """Of the CSV file; null for a text file."""
    email: str | None
    base_url: WebAddress


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Columns:
    """Of a table: which column holds a field, null for none; see ``corpus/tables.py`` for what cells may be."""

    pmid: str
    title: str | None
    abstract: str | None
    labels: str | None
    """Of the abstract's sections, where it is a list of texts."""
    year: str | None
    journal: str | None
    language: str | None
    mesh: str | None
    keywords: str | None
    publication_types: str | None
    doi: str | None
    pmcid: str | None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Table:
    """Documents from the rows of files: JSON, JSON lines, CSV, Parquet."""

    kind: Literal["table"]
    path: tuple[str, ...] | str
    columns: Columns


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class HuggingFace:
    """Documents from the rows of a dataset of the Hugging Face hub, or of a local dataset folder."""

    kind: Literal["huggingface"]
    path: str
    """``owner/name``, or a folder."""
    name: str | None
    """Of the dataset's configuration."""
    split: str
    revision: str | None
    """Of the hub, best a commit."""
    columns: Columns


Source = Annotated[PubmedXml | PubmedQuery | Pmids | Table | HuggingFace, Field(discriminator="kind")]
"""Where documents come from."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class IngestConfig:
    """``python -m kailin_ray ingest``."""

    source: Source
    out: LocalPath
    tolerate: bool
    """Exit 0 although a file was damaged; its loss is counted and shown either way."""
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Filters:
    """What a document must be; see ``corpus/filters.py``."""

    require_mesh: bool
    min_words: NotNegative
    """Of the abstract; without one no document stays."""
    languages: tuple[str, ...]
    """MEDLINE's codes, such as eng, of which the article must have one; empty for any."""
    drop_retracted: bool
    exclude_types: tuple[str, ...]
    """Publication types that do not stay."""
    year_from: int | None
    year_to: int | None
    """Both counted in; an unknown year is outside."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Duplicates:
    """Abstracts that are there twice; the lowest PMID stays."""

    jaccard: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """How alike two abstracts are that count as one, by their sets of five words in a row; 1 for those with the same
    words only; null to keep all."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Sample:
    """Which documents of those that stay are taken; see ``mesh/sampling.py``."""

    num: Positive | None
    """How many; null for all."""
    seed: NotNegative
    by: Literal["letters", "categories"] | None
    """Strata by MeSH's first level (C, Diseases) or second (C04, Neoplasms); null for none."""
    period: Literal["year", "decade"] | None
    """Strata by time."""
    major: bool
    """Only major headings count, what a document is about."""
    power: Fraction
    """1: as the corpus is; 0: equally from all strata; between them rare strata are lifted and common ones lowered."""
    max_share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Of the sample, that one stratum may have."""
    min_per_stratum: NotNegative


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SelectConfig:
    """``python -m kailin_ray select``."""

    corpus: LocalPath
    out: LocalPath
    mesh: LocalPath | None
    tolerate_orphans: bool
    filters: Filters
    benchmarks: tuple[LocalPath, ...]
    """Files of benchmarks whose abstracts, texts and questions must not be learned from."""
    duplicates: Duplicates
    subtree: tuple[str, ...]
    """Descriptors (UI, name or tree number): a document must have one that is one of them or under one; [] for any."""
    subtree_major: bool
    """Only major headings count for it."""
    sample: Sample
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class IndexConfig:
    """``python -m kailin_ray index``."""

    documents: LocalPath
    out: LocalPath
    limit: Positive | None
    structure: Literal["auto", "exact", "ivf_pq", "hnsw"]
    """What is searched; see ``retrieval/ann.py``."""
    target_recall: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Of the four passages that exact search finds, the share that is to be found."""
    lexical: bool
    """Index the words of the passages too, for ``retrieval.lexical_weight``."""
    encoder: Encoder
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Agents:
    """The agents, and where their engines run."""

    model: Model
    retrieval: Retrieval
    evaluation: Evaluation
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Layout(Agents):
    """What a plan is made from."""

    from_run: Annotated[Folder | None, Field(validation_alias=AliasChoices("from", "from_run"))]
    """A complete run whose records are begun again at the first of ``stages``; ``from`` on the command line."""
    stages: tuple[Step, ...]
    """What is done: all steps, or with ``from_run`` the later ones."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DistillConfig(Layout):
    """``python -m kailin_ray distill``."""

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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PlanConfig(Layout):
    """``python -m kailin_ray plan``: takes ``distill``'s keys, so that the same line serves, and needs few of them."""

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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ReplayConfig:
    """``python -m kailin_ray replay``."""

    run: Folder
    reason: tuple[str, ...] | str
    """Of the rows to do again: of ``schema.REASONS``, or their last words."""
    overrides: tuple[str, ...]
    """What is to be different from the run's own configuration, as on the command line."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PublishConfig:
    """``python -m kailin_ray publish``."""

    run: Folder
    out: Folder
    judge_min_margin: Annotated[float, Field(ge=0.0)]
    """The rule's margin from which on its preference trains the judge."""
    benchmarks: tuple[LocalPath, ...] | None
    """Files of benchmarks of which no question, answer or context may have a text; null for those that the run's
    documents were cleaned of."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class CompareConfig(Agents):
    """``python -m kailin_ray compare``; of the agents only the judge works."""

    old: Folder
    new: Folder
    out: LocalPath
    held_out: bool
    """Only abstracts that nothing was trained on."""
    judge: bool
    """Ask the judge which question is better."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ReportConfig:
    """``python -m kailin_ray report``."""

    run: Folder
    examples: NotNegative
    """Triples to show."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class StatusConfig:
    """``python -m kailin_ray status``."""

    run: Folder
    json: bool
    """For programs."""


Task = Literal["question", "judge", "dpo", "pretrain", "sft"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrlRows:
    """Training data in TRL's columns: what ``publish`` makes, or any dataset like it."""

    kind: Literal["trl"]
    path: str
    """A dataset folder, a file (JSON, JSON lines, CSV, Parquet), or a hub id."""
    name: str | None
    """Of the dataset's configuration."""
    revision: str | None
    """Of the hub, best a commit."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class QuestionColumns:
    """Which column holds a field; null for none."""

    pmid: str | None
    title: str | None
    abstract: str
    question: str


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class QuestionRows:
    """Abstracts with a question each, in columns of any name."""

    kind: Literal["columns"]
    path: str
    name: str | None
    split: str
    revision: str | None
    columns: QuestionColumns


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PubMedQaFile:
    """PubMedQA's own JSON (``ori_pqal.json``), or JSON lines with its fields."""

    kind: Literal["pubmedqa"]
    path: LocalPath


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class BioAsqFile:
    """BioASQ's training JSON; its abstracts are looked up by PMID."""

    kind: Literal["bioasq"]
    path: LocalPath
    documents: LocalPath
    """A folder that ``ingest`` or ``select`` made."""


TrainingData = Annotated[TrlRows | QuestionRows | PubMedQaFile | BioAsqFile, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Lora:
    """The adapter, in PEFT's names."""

    r: Positive
    lora_alpha: Positive
    lora_dropout: Fraction
    target_modules: Literal["all-linear"] | tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Dpo:
    """Which preferences are learned from, and how."""

    beta: Annotated[float, Field(gt=0.0)]
    min_margin: Annotated[float, Field(ge=0.0)]
    """Of a pair: preferences by less are left out."""
    max_length_ratio: Annotated[float, Field(ge=1.0)] | None
    """Pairs of which one side has more than so many times the other's words are left out; null keeps them."""
    weight_by_margin: bool
    """Pairs are drawn, with replacement, by their margins; else each is seen once an epoch."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Workers:
    """Of Ray Train: processes that train one model together."""

    num: Positive
    cpus: Annotated[float, Field(gt=0.0)]
    """Of each; on CPUs also its threads."""
    gpus: Annotated[int, Field(ge=0, le=1)]
    max_failures: NotNegative
    """A worker that is lost is begun again from the last checkpoint so many times."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainConfig:
    """``python -m kailin_ray train``."""

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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RefineConfig:
    """``python -m kailin_ray refine``; lists hold keys of the commands that it runs, as on the command line."""

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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Job:
    """A command as a job of a Ray cluster; the names are Ray's."""

    address: str | None
    """Of the cluster's dashboard; null: the environment variable RAY_API_SERVER_ADDRESS, or this machine's."""
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None
    """Null: one that Ray makes."""
    follow: bool
    """Show its output until it ends, and end with its exit code."""
    ship: bool
    """This code travels; false: the cluster's machines have it installed."""
    python: str
    """The interpreter on the cluster's machines."""
    num_cpus: Annotated[float, Field(ge=0)]
    """That the driver holds; with 0 it runs on the head."""
    memory_gib: Annotated[float, Field(ge=0)]
    resources: dict[str, Annotated[float, Field(gt=0)]]
    """Others that it holds, such as those that only some machines have."""
    env: dict[str, str]
    """Environment variables of the driver and its workers; no secrets."""
    stop_seconds: Positive
    """That `ray job stop` waits for a run to drain, before it kills it."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class SubmitConfig:
    """``python -m kailin_ray submit <command>``."""

    command: str
    job: Job
    keys: tuple[str, ...]
    """Of the command, as on its command line."""


T = TypeVar("T")


def conf_dir() -> Path:
    """The folder of Hydra's configuration: beside the package in a checkout, inside it when installed."""
    beside = Path(__file__).resolve().parent.parent / "conf"
    return beside if beside.is_dir() else Path(__file__).resolve().parent / "conf"


def check(kind: type[T], composed: DictConfig) -> T:
    """Turn a composed Hydra configuration into ``kind``.

    Raises ``ConfigError`` with one line for the first wrong key.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]}: missing; give it as {missing[0]}=…")
    try:
        return TypeAdapter(kind).validate_python(OmegaConf.to_container(composed, resolve=True))
    except ValidationError as error:
        first = error.errors()[0]
        where = _key(first["loc"])
        found = "" if first["type"] in ("missing", SECRET) else f" (was {without_secrets(first['input'], where)!r})"
        more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise ConfigError(f"{where}: {first['msg']}{found}{more}") from error


def _key(place: tuple[int | str, ...]) -> str:
    """The configuration's key of what pydantic complains about, which puts a source's kind in its way."""
    parts = [str(part) for part in place]
    return ".".join(parts[:1] + parts[2:] if parts[:1] == ["source"] else parts)


def settings(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values, for a manifest; what is secret in it is left out."""
    values: dict[str, Any] = without_secrets(TypeAdapter(type(config)).dump_python(config, mode="json"))
    return values


def overridden(saved: dict[str, Any], overrides: Sequence[str]) -> "DistillConfig":
    """A configuration that ``settings`` gave, with Hydra's ``key=value`` over it. Raises ``ConfigError``."""
    config = OmegaConf.create(saved)
    OmegaConf.set_struct(config, True)
    for text in overrides:
        parsed = OverridesParser.create().parse_override(text)
        try:
            OmegaConf.update(config, parsed.key_or_group, parsed.value(), force_add=parsed.is_add())
        except OmegaConfBaseException as error:
            raise ConfigError(f"{parsed.key_or_group}: not a key of distill's configuration") from error
    return check(DistillConfig, config)


# Such as hf_token, aws_secret_access_key, api_key; not max_tokens, pad_token_id or monkey.
_SECRET = re.compile(
    r"(^|[._-])(\w*token|\w*secret\w*|pass(word|wd|phrase)?|key|credentials?)$|key_?id$", re.IGNORECASE
)

_PASSWORD = re.compile(r"://[^/@\s]+@")


def without_secrets(value: Any, name: str = "") -> Any:
    """The same values, but for the texts whose names say that they are secret, and passwords inside URLs."""
    if isinstance(value, dict):
        return {key: without_secrets(part, str(key)) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(part, name) for part in value]
    if isinstance(value, str):
        return "(secret)" if value and _SECRET.search(name) else _PASSWORD.sub("://(secret)@", value)
    return value
