"""The folder of an index: its manifest and the location of its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from kailin_ray.io.manifests import Manifest, read_manifest
from kailin_ray.schema import Json

FORMAT = 4
"""Version of the files of an index; raise it when they change."""

EncoderIdentity = dict[str, str | int | bool | None]
"""What an encoder's vectors depend on, by name: its models' identities and all settings except the batch size."""


@dataclass(frozen=True, kw_only=True)
class IndexInputs:
    """The inputs of an index that never change: its documents and its encoder."""

    documents: str
    """Id of the documents."""
    encoder: EncoderIdentity
    format: int


@dataclass(frozen=True, kw_only=True)
class Recall:
    """The share of the passages from exact search that is found, with the half-width of its 95 % interval."""

    num_queries: int
    recall_at_4: float
    recall_at_4_ci95: float
    recall_at_10: float
    recall_at_10_ci95: float


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What is searched: its kind and, unless it is exact, its parameters and its recall."""

    kind: Literal["exact", "ivf_pq", "hnsw"]
    made_for: int | None = None
    """Number of passages when it was built; None if exact, like all fields below."""
    nprobe: int | None = None
    """For ``ivf_pq``."""
    ef_search: int | None = None
    """For ``hnsw``."""
    num_candidates: int | None = None
    target_recall_at_4: float | None = None
    recall: Recall | None = None


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """The folder and size of a shard."""

    name: str
    """Its folder within the index."""
    rows: int


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Cost of the encoding of an update."""

    num_encoders: int
    device: Literal["cpu", "gpu"]
    num_taken_over: int
    """Abstracts that a killed job had encoded already."""
    num_encoded: int
    abstracts_per_second_per_encoder: float | None


@dataclass(frozen=True, kw_only=True)
class IndexUpdate:
    """One execution of ``index``."""

    added: int
    deleted: int
    encoding: Encoding
    seconds: float


@dataclass(frozen=True, kw_only=True)
class IndexManifest(Manifest):
    """The manifest of an index."""

    COMMAND: ClassVar[str] = "index"

    kind: Literal["index"] = "index"
    id: str
    """Id of the index; updates do not change it."""
    made_from: IndexInputs
    documents_updates: int
    """Number of updates of the documents that the index includes."""
    limit: int | None
    structure: Literal["auto", "exact", "ivf_pq", "hnsw"]
    """The configured value; ``search`` has the actual structure."""
    target_recall: float
    lexical: bool
    benchmarks: dict[str, str]
    """Benchmarks that were removed from its documents: paths by checksum."""
    updates: tuple[IndexUpdate, ...]
    num_passages: int
    dimension: int
    shards: tuple[ShardFolder, ...]
    search: Structure
    files: dict[str, int]
    """Bytes of each file, by its name within the folder."""
    config: Json


@dataclass(frozen=True)
class Index:
    """An index with its manifest."""

    path: Path
    manifest: IndexManifest

    @classmethod
    def open(cls, path: Path, key: str = "index") -> Self:
        """Open a folder; ``key`` is the configuration key for it. Raises ``ConfigError``."""
        return cls(path, read_manifest(path, IndexManifest, key))

    def shards(self) -> list[tuple[Path, int]]:
        """Return the folder and the number of rows of each shard, as ``Store`` takes them."""
        return [(self.path / shard.name, shard.rows) for shard in self.manifest.shards]
