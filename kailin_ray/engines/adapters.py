"""What ``train`` makes: an adapter or a whole model, as a folder with its manifest.

A LoRA adapter from elsewhere has PEFT's files alone. It is used as it is: ``find_trained`` gives None for it, and there
is no base or task to check.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import TypedDict

from kailin_ray.agents.evaluation import PositionBias
from kailin_ray.config import Task
from kailin_ray.errors import ConfigError
from kailin_ray.io.manifests import Manifest, find_manifest, read_manifest
from kailin_ray.schema import Json


class JudgeAccuracy(TypedDict):
    """How well a judge agrees with the MeSH rule on held-out pairs; see ``training.judge_accuracy``."""

    abstracts: int
    accuracy: float | None
    interval: list[float | None]
    """The lower and upper end of the accuracy's 95 % interval."""
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
"""What was measured on held-out examples, in TRL's names. Of a judge: as it was trained, ``bare``, and with the worked
examples before the prompt."""


class LogRow(TypedDict, total=False):
    """A row of the trainer's log, in TRL's names."""

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
    """How many examples there were."""

    train: int
    test: int = 0
    left_out: dict[str, int]
    """By reason."""


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """What is trained on what: a training that goes on, or a folder that is there, must match it."""

    config: Json
    """The settings of ``train``."""
    base: Base
    adapter: str | None
    """Checksum of the adapter that the training began with."""
    data: str
    """Checksum of local data, or the hub's name and revision."""


@dataclass(frozen=True, kw_only=True)
class AdapterManifest(TrainingInputs, Manifest):
    """The manifest of an adapter, or of a whole model, that ``train`` made."""

    COMMAND: ClassVar[str] = "train"

    kind: Literal["adapter", "model"]
    task: Task
    worked_examples: bool
    """Whether the prompts had the worked examples; see ``model.<agent>.examples``."""
    examples: ExampleCounts
    steps: int
    before: Figures | None
    after: Figures | None
    """None where nothing was held out."""
    log: list[LogRow]
    seconds_of_last_session: float
    versions: dict[str, str]


@dataclass(frozen=True)
class Adapter:
    """A folder that ``train`` made."""

    path: Path
    manifest: AdapterManifest

    @classmethod
    def open(cls, path: Path, key: str = "adapter") -> "Adapter":
        """Read its manifest. Raises ``ConfigError`` that names ``key`` if ``train`` did not make the folder."""
        return cls(path, read_manifest(path, AdapterManifest, key))

    def check_base(self, agent: str, path: str, identity: str) -> None:
        """Raise ``ConfigError`` if it was trained on another model than the agent's, at ``path``."""
        if self.manifest.base.identity != identity:
            raise ConfigError(
                f"model.{agent}.adapter: {self.path} was trained on {self.manifest.base.name}, not on {path} as it is "
                "now"
            )


def find_trained(path: Path, key: str) -> Adapter | None:
    """An adapter that ``train`` made; None for one from elsewhere. Raises ``ConfigError`` for a damaged manifest."""
    manifest = find_manifest(path, AdapterManifest, key)
    return Adapter(path, manifest) if manifest else None
