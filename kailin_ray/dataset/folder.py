"""The folder of a published dataset and its manifest. ``publish`` writes it, and training opens it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from huggingface_hub import DatasetCard

from kailin_ray.dataset.variety import Variety
from kailin_ray.dataset.writers import file_pattern
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import Manifest, has_manifest, read_manifest
from kailin_ray.io.pmids import num_rows

CARD = "README.md"
Rows = dict[str, dict[str, int]]
"""Number of rows by config and split."""


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """The run that a dataset was made from."""

    name: str
    """Name of the run's folder."""
    checksum: str
    """Checksum of the run's manifest."""
    documents: str
    """Id of the run's documents."""


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(Manifest):
    """The contents of a dataset, and its sources."""

    COMMAND: ClassVar[str] = "publish"

    kind: Literal["dataset"] = "dataset"
    made: str | None
    """Time of creation (ISO 8601). If the dataset is older than manifests, all optional fields are None."""
    rows: Rows
    run: PublishedRun | None
    kailin_ray: str | None
    """The version that created it."""
    benchmarks: tuple[str, ...] | None
    """File names of the benchmarks whose text was searched for."""
    leaks: dict[str, int]
    """Accepted rows that were left out because they contained text of a benchmark, by reason."""
    judge_min_margin: float | None
    format: Literal["parquet", "jsonl", "sharegpt", "alpaca"] = "parquet"
    sft: Literal["messages", "text"] = "text"
    """Earlier versions wrote text."""
    dedup_questions: float | None = None
    balance: Literal["decision"] | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    """Accepted rows that ``dedup_questions`` and ``balance`` left out, by reason."""
    variety: Variety | None = None
    """Decisions, agents and openings of the published triples; None for a dataset of an earlier version."""
    num_of_before: int = 0
    """Accepted rows whose records are of a version that did not record ``shown``."""


@dataclass(frozen=True)
class Dataset:
    """A published dataset."""

    path: Path
    manifest: DatasetManifest

    @classmethod
    def open(cls, path: Path, key: str = "dataset") -> Self:
        """Open a folder; ``key`` is the configuration's name for it. Raises ``ConfigError`` if it is not a dataset.

        A dataset that is older than manifests is read from its card.
        """
        if path.is_dir() and not has_manifest(path) and (path / CARD).is_file():
            return cls(path, _from_card(path, key))
        return cls(path, read_manifest(path, DatasetManifest, key))

    def files(self, config: str, split: str = "train") -> list[Path]:
        """Return the files of a split; an empty list if the split has no rows."""
        return sorted(self.path.glob(file_pattern(config, split, self.manifest.format == "parquet")))

    @property
    def num_rows(self) -> dict[str, int]:
        """Number of rows of each config."""
        return {name: sum(splits.values()) for name, splits in self.manifest.rows.items()}


def _from_card(path: Path, key: str) -> DatasetManifest:
    """Return a manifest, made from the card, for a dataset without a manifest."""
    try:
        configs: list[Any] = DatasetCard.load(path / CARD).data.to_dict().get("configs") or []
        rows: Rows = {
            config["config_name"]: {files["split"]: 0 for files in config["data_files"]} for config in configs
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{key}: {path / CARD} is not the card of a dataset: {error}") from error
    if not rows:
        raise ConfigError(f"{key}: {path} is not a dataset's folder: `publish` did not create it, or did not finish")
    for name, splits in rows.items():
        for split in splits:
            splits[split] = sum(map(num_rows, (path / name).glob(f"{split}-*.parquet")))
    return DatasetManifest(
        made=None, rows=rows, run=None, kailin_ray=None, benchmarks=None, leaks={}, judge_min_margin=None
    )
