"""A run's folder and its manifest. ``distill`` writes them, and publish, report, compare and replay open them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self

from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from kailin_ray.agents.evaluation import Agreement, PositionBias
from kailin_ray.config.renamed import complete_settings
from kailin_ray.corpus.documents import Documents, SourceFile
from kailin_ray.dataset.counts import AgentTokens
from kailin_ray.dataset.variety import Variety
from kailin_ray.io.manifests import Manifest, read_manifest
from kailin_ray.mesh.figures import Coverage, MeshNote
from kailin_ray.planning.plan import PoolNote
from kailin_ray.schema import Json


@dataclass(frozen=True, kw_only=True)
class UsedModel:
    """The model of an agent, identified independently of its path."""

    name: str
    revision: str | None
    """Revision of a hub model."""
    adapter: str | None
    identity: str
    """What identifies the model and the adapter: checksums, or the hub's revision."""


@dataclass(frozen=True, kw_only=True)
class UsedDocuments:
    """The documents of a run, at the time when the run was completed."""

    id: str
    num_documents: int
    num_citations: int
    num_left_out: dict[str, int]
    num_skipped: dict[str, int]
    files: tuple[SourceFile, ...]
    num_updates: int
    num_removed: dict[str, int] = field(default_factory=dict)
    benchmarks: dict[str, str] = field(default_factory=dict)
    """Paths of the benchmarks that the documents were cleaned of, by checksum."""

    @classmethod
    def of(cls, documents: Documents) -> Self:
        """Return what a run's manifest records about a folder of documents."""
        manifest = documents.manifest
        return cls(
            id=manifest.id,
            num_documents=manifest.num_documents,
            num_citations=manifest.num_citations,
            num_left_out=manifest.num_left_out,
            num_skipped=manifest.num_skipped,
            files=manifest.files,
            num_updates=len(manifest.updates),
            num_removed=manifest.num_removed,
            benchmarks=manifest.benchmarks,
        )


@dataclass(frozen=True, kw_only=True)
class UsedIndex:
    """The index of a run, at the time when the run was completed, and its recall against exact search."""

    id: str
    num_passages: int
    dimension: int
    search: Json
    """The field ``search`` of the index's manifest, as JSON: this layer may not import the index's types."""
    num_updates: int
    encoder: str
    """The identity of the encoder's model."""
    versions: tuple[Json, ...] = ()
    """The versions of the index that records have contexts of, in order: number of updates, and a checksum. More than
    one if the run was resumed, or rows were replayed, after the index was updated. Empty for earlier runs."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A replay: rows of a run that were distilled again."""

    folder: str
    reasons: tuple[str, ...]
    changed: Json
    """The settings that differed from the run's, by dotted key."""
    stages: tuple[str, ...]
    rows: dict[str, int]
    """Number of rows by their new status."""


class EvaluationFigures(TypedDict):
    """How the preferences were decided."""

    preferred_by: dict[str, int]
    agreement: Agreement
    position_bias: PositionBias


class TokenFigures(TypedDict):
    """Tokens of all calls, in total and by agent."""

    prompt: int
    cached: int
    completion: int
    by_agent: dict[str, AgentTokens]


class SessionSeconds(TypedDict):
    """Seconds, summed over all sessions: in total, until the first engine could serve, and after that."""

    total: float
    engine_start: float
    distill: float


class StageFigures(TypedDict):
    """One stage. Seconds are summed over its replicas. Rates are per GPU (or engine) while it could serve."""

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
    """The cost of a run. ``not_accepted``: share of the calls' time that went into rows that were not accepted."""

    unit: Literal["GPU", "engine"]
    hours: float
    accepted_per_hour: float
    hours_per_million_abstracts: float
    price_per_million_abstracts: float | None
    not_accepted: float


@dataclass(frozen=True, kw_only=True)
class RunManifest(Manifest):
    """The results of a run, and its inputs."""

    FORMAT_VERSION: ClassVar[int] = 3
    """Since version 2, ``config`` uses the new key names of ``config.renamed``; since version 3 it has ``answer``."""
    COMMAND: ClassVar[str] = "distill"

    kind: Literal["run"] = "run"
    num_resumed: int
    """Records that existed when the last session began."""
    num_documents: int
    num_by_status: dict[str, int]
    num_by_reason: dict[str, int]
    evaluation: EvaluationFigures
    tokens: TokenFigures
    variety: Variety | None = None
    """Decisions, agents and openings of the accepted rows; None for a run that an earlier version completed."""
    plan: list[list[PoolNote]] | None
    """The plan of the last session, as ``planning.plan.as_json`` returns it; None for a run without a session."""
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
    """The models, by agent."""
    sha256: dict[str, str]
    """Checksum of the file ``mesh``."""
    documents: UsedDocuments
    index: UsedIndex
    versions: dict[str, str]
    replays_of_source: tuple[Replay, ...] = ()
    """Replays of the run whose records were taken over. Such records may have been made with other settings than that
    run's."""
    replays: tuple[Replay, ...] = ()

    @classmethod
    def upgrade(cls, values: Json) -> Json:
        """Convert the JSON of an earlier version to the current one."""
        return values | {"config": complete_settings(values.get("config"))}


@dataclass(frozen=True)
class Run:
    """A complete run."""

    path: Path
    manifest: RunManifest

    @classmethod
    def open(cls, path: Path, key: str = "run") -> Self:
        """Open a folder; ``key`` is the configuration's name for it. Raises ``ConfigError`` for an incomplete run."""
        return cls(path, read_manifest(path, RunManifest, key))

    @property
    def records(self) -> Path:
        """The folder of the records."""
        return self.path / "records"
