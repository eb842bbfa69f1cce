"""The output of ``train``: an adapter or a whole model, in a folder with a manifest.

A LoRA adapter from elsewhere has only PEFT's files. ``find_trained`` returns None for it, and its base model and task
are not checked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import TypedDict

from kailin_ray.agents.evaluation import PositionBias
from kailin_ray.config import Task
from kailin_ray.config.renamed import rename_keys
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import Manifest, find_manifest, read_manifest
from kailin_ray.schema import Json


class JudgeAccuracy(TypedDict):
    """How well a judge agrees with the MeSH rule on held-out pairs; see ``training.judge_accuracy``."""

    abstracts: int
    accuracy: float | None
    interval: list[float | None]
    """Lower and upper end of the 95 % interval of the accuracy."""
    accuracy_each_order: float | None
    position_bias: PositionBias


Figures = TypedDict(
    "Figures",
    {
        "loss": float,
        "mean_token_accuracy": float,
        "rewards/accuracies": float,
        "rewards/margins": float,
        "bare": JudgeAccuracy,
        "with_examples": JudgeAccuracy,
    },
    total=False,
)
"""Metrics on held-out examples, under TRL's names. A judge is measured twice: without the worked examples before the
prompt, as it was trained (``bare``), and with them (``with_examples``)."""


class LogRow(TypedDict, total=False):
    """A row of the trainer's log, under TRL's names."""

    step: int
    epoch: float
    loss: float
    eval_loss: float
    learning_rate: float
    grad_norm: float


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that was trained."""

    name: str
    identity: str
    """See ``models.model_identity``."""


@dataclass(frozen=True, kw_only=True)
class ExampleCounts:
    """The number of examples."""

    train: int
    test: int = 0
    left_out: dict[str, int]
    """Examples that were left out, by reason."""


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """The inputs of a training. A training that resumes, or an existing folder, must have the same inputs."""

    config: Json
    """The settings of ``train``."""
    base: Base
    adapter: str | None
    """Checksum of the adapter that the training started from."""
    data: str
    """Checksum of local data, or name and revision of data on the hub."""


@dataclass(frozen=True, kw_only=True)
class AdapterManifest(TrainingInputs, Manifest):
    """The manifest of an adapter, or of a whole model, that ``train`` created."""

    FORMAT_VERSION: ClassVar[int] = 2
    """Since version 2, ``config`` uses the new key names of ``config.renamed``."""
    COMMAND: ClassVar[str] = "train"

    kind: Literal["adapter", "model"]
    task: Task
    worked_examples: bool
    """Whether the prompts had the worked examples; see ``model.<agent>.examples``."""
    examples: ExampleCounts
    steps: int
    before: Figures | None
    after: Figures | None
    """Metrics before and after training; None if nothing was held out."""
    log: list[LogRow]
    seconds_of_last_session: float
    versions: dict[str, str]

    @classmethod
    def upgrade(cls, values: Json) -> Json:
        """Convert the JSON of an earlier version to the current one."""
        return values | {"config": rename_keys(values.get("config"))}


@dataclass(frozen=True)
class Adapter:
    """A folder that ``train`` created."""

    path: Path
    manifest: AdapterManifest

    @classmethod
    def open(cls, path: Path, key: str = "adapter") -> "Adapter":
        """Read the manifest. Raises ``ConfigError`` that names ``key`` if ``train`` did not create the folder."""
        return cls(path, read_manifest(path, AdapterManifest, key))

    def check_base(self, agent: str, path: str, identity: str) -> None:
        """Raise ``ConfigError`` if the adapter was trained on another model than the agent's model at ``path``."""
        if self.manifest.base.identity != identity:
            raise ConfigError(
                f"model.{agent}.adapter: {self.path} was trained on {self.manifest.base.name}, not on {path} as it is "
                "now"
            )


def find_trained(path: Path, key: str) -> Adapter | None:
    """Return the adapter if ``train`` created it, else None. Raises ``ConfigError`` for a damaged manifest."""
    manifest = find_manifest(path, AdapterManifest, key)
    return Adapter(path, manifest) if manifest else None
