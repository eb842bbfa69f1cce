"""A published dataset's folder and its manifest: what ``publish`` leaves, and what training opens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from huggingface_hub import DatasetCard

from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import Manifest, has_manifest, read_manifest
from kailin_ray.io.pmids import num_rows

CARD = "README.md"
Rows = dict[str, dict[str, int]]
"""Numbers of rows by config and split."""


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """The run that a dataset was made from."""

    name: str
    """Of its folder."""
    checksum: str
    """Of its manifest."""
    documents: str
    """The id of its documents."""


@dataclass(frozen=True, kw_only=True)
class DatasetManifest(Manifest):
    """What a dataset holds, and of what it was made."""

    COMMAND: ClassVar[str] = "publish"

    kind: Literal["dataset"] = "dataset"
    made: str | None
    """When, as ISO 8601 writes it; None of one that was made before datasets had manifests, as what follows."""
    rows: Rows
    run: PublishedRun | None
    kailin_ray: str | None
    """The version that made it."""
    benchmarks: tuple[str, ...] | None
    """Names of the files of the benchmarks that it was looked through for."""
    leaks: dict[str, int]
    """Accepted rows that had something of a benchmark and were left out, by reason."""
    judge_min_margin: float | None


@dataclass(frozen=True)
class Dataset:
    """A published dataset."""

    path: Path
    manifest: DatasetManifest

    @classmethod
    def open(cls, path: Path, key: str = "dataset") -> Self:
        """Open a folder; ``key`` is the configuration's name for it. Raises ``ConfigError``.

        One of before datasets had manifests is read from its card.
        """
        if path.is_dir() and not has_manifest(path) and (path / CARD).is_file():
            return cls(path, _from_card(path, key))
        return cls(path, read_manifest(path, DatasetManifest, key))

    def files(self, config: str, split: str = "train") -> list[Path]:
        """The Parquet files of a split; none where it has no row."""
        return sorted((self.path / config).glob(f"{split}-*.parquet"))

    @property
    def num_rows(self) -> dict[str, int]:
        """Rows of each config."""
        return {name: sum(splits.values()) for name, splits in self.manifest.rows.items()}


def _from_card(path: Path, key: str) -> DatasetManifest:
    """The manifest of a dataset that has none."""
    try:
        configs: list[Any] = DatasetCard.load(path / CARD).data.to_dict().get("configs") or []
        rows: Rows = {one["config_name"]: {files["split"]: 0 for files in one["data_files"]} for one in configs}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{key}: {path / CARD} is not the card of a dataset: {error}") from error
    if not rows:
        raise ConfigError(f"{key}: {path} is not a dataset's folder: not made by `publish`, or not to its end")
    for name, splits in rows.items():
        for split in splits:
            splits[split] = sum(map(num_rows, (path / name).glob(f"{split}-*.parquet")))
    return DatasetManifest(
        made=None, rows=rows, run=None, kailin_ray=None, benchmarks=None, leaks={}, judge_min_margin=None
    )
