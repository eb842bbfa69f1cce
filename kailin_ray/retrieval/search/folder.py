"""The folder of an index: its manifest, and where its files are."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from kailin_ray.io.manifests import Manifest, read_manifest
from kailin_ray.schema import Json

FORMAT = 4
"""Of the files of an index; to be raised with them."""

EncoderIdentity = dict[str, str | int | bool | None]
"""All that an encoder's vectors depend on: its models' identities and each setting but the batch size, by name."""


@dataclass(frozen=True, kw_only=True)
class IndexInputs:
    """What an index stays: which documents' it is, by which encoder."""

    documents: str
    """Their id."""
    encoder: EncoderIdentity
    format: int


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Of the passages that exact search finds, the share that is found, with the half-width of its 95 % interval."""

    num_queries: int
    recall_at_4: float
    recall_at_4_ci95: float
    recall_at_10: float
    recall_at_10_ci95: float


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What is searched: its kind and, unless it is exact, its parameters and what it finds."""

    kind: Literal["exact", "ivf_pq", "hnsw"]
    made_for: int | None = None
    """Passages that there were when it was made; None of an exact one, as all that follows."""
    nprobe: int | None = None
    """Of ``ivf_pq``."""
    ef_search: int | None = None
    """Of ``hnsw``."""
    num_candidates: int | None = None
    target_recall_at_4: float | None = None
    recall: Recall | None = None


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """A shard."""

    name: str
    """Its folder in that of the index."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What the encoding of an update took."""

    num_encoders: int
    device: Literal["cpu", "gpu"]
    num_taken_over: int
    """Abstracts that a killed job had encoded."""
    num_encoded: int
    abstracts_per_second_per_encoder: float | None


@dataclass(frozen=True, kw_only=True)
class IndexUpdate:
    """One run of ``index``."""

    added: int
    deleted: int
    encoding: Encoding
    seconds: float


@dataclass(frozen=True, kw_only=True)
class IndexManifest(Manifest):
    """What an index holds."""

    COMMAND: ClassVar[str] = "index"

    kind: Literal["index"] = "index"
    id: str
    """The index's own; it stays the same through all updates."""
    made_from: IndexInputs
    documents_updates: int
    """How many updates of the documents it has seen."""
    limit: int | None
    structure: Literal["auto", "exact", "ivf_pq", "hnsw"]
    """What was asked for; see ``search`` for what it is."""
    target_recall: float
    lexical: bool
    benchmarks: dict[str, str]
    """Paths of the benchmarks that its documents were cleaned of, by checksum."""
    updates: tuple[IndexUpdate, ...]
    num_passages: int
    dimension: int
    shards: tuple[ShardFolder, ...]
    search: Structure
    files: dict[str, int]
    """Bytes of each file, by its name in the folder."""
    config: Json


@dataclass(frozen=True)
class Index:
    """An index with its manifest."""

    path: Path
    manifest: IndexManifest

    @classmethod
    def open(cls, path: Path, key: str = "index") -> Self:
        """Open a folder; ``key`` is the configuration's name for it. Raises ``ConfigError``."""
        return cls(path, read_manifest(path, IndexManifest, key))

    def shards(self) -> list[tuple[Path, int]]:
        """The folders of the shards with their numbers of rows, as ``Store`` takes them."""
        return [(self.path / shard.name, shard.rows) for shard in self.manifest.shards]
