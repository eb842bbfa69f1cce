"""A run's folder and its manifest: what ``distill`` leaves, and what publish, report, compare and replay open."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self

from typing_extensions import TypedDict  # of typing's own, pydantic takes none before Python 3.12

from kailin_ray.agents.evaluation import Agreement, PositionBias
from kailin_ray.corpus.documents import Documents, SourceFile
from kailin_ray.dataset.counts import AgentTokens
from kailin_ray.io.manifests import Manifest, read_manifest
from kailin_ray.mesh.figures import Coverage, MeshNote
from kailin_ray.planning.plan import PoolNote
from kailin_ray.schema import Json


@dataclass(frozen=True, kw_only=True)
class UsedModel:
    """The model of an agent, wherever it lay."""

    name: str
    revision: str | None
    """Of a hub model."""
    adapter: str | None
    identity: str
    """Which model and adapter it is: checksums, or the hub's revision."""


@dataclass(frozen=True, kw_only=True)
class UsedDocuments:
    """What a run's documents were when it became complete."""

    id: str
    num_documents: int
    num_citations: int
    num_left_out: dict[str, int]
    num_skipped: dict[str, int]
    files: tuple[SourceFile, ...]
    num_updates: int
    num_removed: dict[str, int] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Paths of the benchmarks that they were cleaned of, by checksum."""

    @classmethod
    def of(cls, documents: Documents) -> Self:
        """What is noted of a folder of documents."""
        made = documents.manifest
        return cls(
            id=made.id,
            num_documents=made.num_documents,
            num_citations=made.num_citations,
            num_left_out=made.num_left_out,
            num_skipped=made.num_skipped,
            files=made.files,
            num_updates=len(made.updates),
            num_removed=made.num_removed,
            benchmarks=made.benchmarks,
        )


@dataclass(frozen=True, kw_only=True)
class UsedIndex:
    """What a run's index was when it became complete, and what it finds of what exact search finds."""

    id: str
    num_passages: int
    dimension: int
    search: Json
    """As the manifest of the index says it: this package's layer knows no index."""
    num_updates: int
    encoder: str
    """The identity of its encoder's model."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Rows of a run that were done again."""

    folder: str
    reasons: tuple[str, ...]
    changed: Json
    """The settings that were different, by their dotted names."""
    stages: tuple[str, ...]
    rows: dict[str, int]
    """By status."""


class EvaluationFigures(TypedDict):
    """How candidates were preferred."""

    preferred_by: dict[str, int]
    agreement: Agreement
    position_bias: PositionBias


class TokenFigures(TypedDict):
    """Tokens of all calls, and by agent."""

    prompt: int
    cached: int
    completion: int
    by_agent: dict[str, AgentTokens]


class SessionSeconds(TypedDict):
    """Seconds of all sessions: from start to end, until the first engine could serve, and since."""

    total: float
    engine_start: float
    distill: float


class StageFigures(TypedDict):
    """One stage: seconds are summed over its replicas, rates are per GPU (or engine) while it could serve."""

    replicas: int
    gpus: float
    starts: int
    restarts: int
    seconds: float
    gpu_seconds: float
    start_share: float
    busy_share: float
    retrieval_share: float
    idle_share: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    searches_retried: int
    calls_at_once: float
    output_tokens_per_second: float
    abstracts_per_second: float


class Cost(TypedDict):
    """What a run cost; ``not_accepted`` is the share of the calls' time that rows took which were not accepted."""

    unit: Literal["GPU", "engine"]
    hours: float
    accepted_per_hour: float
    hours_per_million_abstracts: float
    price_per_million_abstracts: float | None
    not_accepted: float


@dataclass(frozen=True, kw_only=True)
class RunManifest(Manifest):
    """What a run gave, and from what."""

    COMMAND: ClassVar[str] = "distill"

    kind: Literal["run"] = "run"
    num_resumed: int
    """Records that earlier sessions had made when the last one began."""
    num_documents: int
    num_by_status: dict[str, int]
    num_by_reason: dict[str, int]
    evaluation: EvaluationFigures
    tokens: TokenFigures
    plan: list[list[PoolNote]] | None
    """Of the last session, as ``planning.plan.as_json`` gives it; None of a run without a session."""
    sessions: int
    restarts: int
    seconds: SessionSeconds
    abstracts_per_second: float
    engines: dict[str, StageFigures]
    cost: Cost
    coverage: Coverage
    mesh: MeshNote
    config: Json
    models: dict[str, UsedModel]
    """By agent."""
    sha256: dict[str, str]
    """Of the file ``mesh``."""
    documents: UsedDocuments
    index: UsedIndex
    versions: dict[str, str]
    replays_of_source: tuple[Replay, ...] = ()
    """Of the run that records were taken over from: they may have been made with other settings than its own."""
    replays: tuple[Replay, ...] = ()


@dataclass(frozen=True)
class Run:
    """A complete run."""

    path: Path
    manifest: RunManifest

    @classmethod
    def open(cls, path: Path, key: str = "run") -> Self:
        """Open a folder; ``key`` is the configuration's name for it. Raises ``ConfigError``."""
        return cls(path, read_manifest(path, RunManifest, key))

    @property
    def records(self) -> Path:
        """The folder of its records."""
        return self.path / "records"
