"""Configuration of demo assets and bundles."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.fields import STRICT
from kailin_ray.io.storage import LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FetchConfig:
    """``kailin-ray fetch``."""

    assets: tuple[str, ...]
    """Names of the assets to download."""
    out: LocalPath
    """The folder to put them into."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BundleConfig:
    """``kailin-ray bundle``."""

    out: LocalPath
    """The folder to create. Downloads for it are kept next to it until it is complete."""
    target: Literal["cpu", "gpu"]
    """Which builds of vLLM and PyTorch: for CPUs, or CUDA."""
    # Hydra reads 3.12 as a number.
    python: Annotated[str, BeforeValidator(str), Field(pattern=r"^3\.\d{1,2}$")]
    """Python version of the machines without internet."""
    models: tuple[str, ...]
    """Models to include: local directories, and hub ids as owner/name@revision. Only safetensors weights are taken."""
    assets: tuple[str, ...]
    """Demo assets to include, by the names that `fetch` knows; [] for none."""
    assets_dir: LocalPath
    """Where the assets are, or are downloaded to."""
    part_mib: Annotated[int, Field(ge=16)]
    """The largest size of a file of the bundle."""
    lock: LocalPath | None
    """A complete lock file of your own; null for the one in requirements/ that fits the target."""
