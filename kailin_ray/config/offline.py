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
    to: LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BundleConfig:
    """``kailin-ray bundle``."""

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
