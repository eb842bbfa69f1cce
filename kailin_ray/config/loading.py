"""From what Hydra composed to a checked configuration, and back to plain values."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from kailin_ray.config.quoting import quote_texts
from kailin_ray.config.renamed import refuse_renamed
from kailin_ray.config.run import DistillConfig
from kailin_ray.config.secrets import without_secrets
from kailin_ray.errors import ConfigError
from kailin_ray.io.storage import SECRET
from kailin_ray.schema import Json
from kailin_ray.versions import CHECKOUT, PACKAGE

T = TypeVar("T")


def conf_dir() -> Path:
    """Return the folder of Hydra's configuration: next to the package in a checkout, inside it when installed."""
    in_checkout = CHECKOUT / "conf"
    return in_checkout if in_checkout.is_dir() else PACKAGE / "conf"


@contextmanager
def composing() -> Iterator[None]:
    """Hydra set up for ``compose``, whatever the caller uses it for. Raises ``ConfigError`` for what it refuses."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        GlobalHydra.instance().hydra = before


def compose(command: str, overrides: Sequence[str], with_help: bool = False) -> DictConfig:
    """The configuration of a command: the defaults of ``conf/``, and Hydra's ``key=value`` over them.

    ``with_help`` keeps the node ``hydra``, which holds the command's help. Raises ``ConfigError``.
    """
    refuse_renamed(overrides)
    with composing():
        return hydra.compose(command, list(overrides), return_hydra_config=with_help)


def check(kind: type[T], composed: DictConfig) -> T:
    """Turn a composed Hydra configuration into ``kind``.

    Raises ``ConfigError`` with one line for the first wrong key.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]}: missing; give it as {missing[0]}=…")
    try:
        values = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return validate(kind, values)


def validate(kind: type[T], values: Any) -> T:
    """Turn plain values into ``kind``. Raises ``ConfigError`` with one line for the first wrong key."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = _key(first["loc"])
        refuse_renamed([where])
        found = "" if first["type"] in ("missing", SECRET) else f" (was {without_secrets(first['input'], where)!r})"
        more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")  # of a check of ours
        raise ConfigError(f"{where}: {message}{found}{more}") from error


def load(kind: type[T], command: str, overrides: Sequence[str] = ()) -> T:
    """The checked configuration of a command, as its library function takes it.

    ::

        config = load(DistillConfig, "distill", ["documents=documents", "index=index", "mesh=mesh.tsv", "out=run"])

    Raises ``ConfigError`` with one line for the first wrong key.
    """
    return check(kind, compose(command, quote_texts(kind, overrides)))


def _key(place: tuple[int | str, ...]) -> str:
    """The configuration's key of what pydantic complains about, which puts a source's kind in its way."""
    parts = [str(part) for part in place]
    return ".".join(parts[:1] + parts[2:] if parts[:1] == ["source"] else parts)


def settings(config: Any) -> Json:
    """A configuration as plain JSON values, for a manifest; what is secret in it is left out."""
    values: Json = without_secrets(TypeAdapter(type(config)).dump_python(config, mode="json"))
    return values


def overridden(saved: Json, overrides: Sequence[str]) -> "DistillConfig":
    """A configuration that ``settings`` gave, with Hydra's ``key=value`` over it. Raises ``ConfigError``."""
    refuse_renamed(overrides)
    values = copy.deepcopy(saved)  # never given to OmegaConf, which would resolve ${...} in what a manifest says
    for text in quote_texts(DistillConfig, overrides):
        try:
            parsed = OverridesParser.create().parse_override(text)
            given = OmegaConf.to_container(OmegaConf.create({"value": parsed.value()}), resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(f"{text}: {' '.join(str(error).split())}") from error
        *groups, last = parsed.key_or_group.split(".")
        holder: Any = values
        for group in groups:
            holder = holder.get(group) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or (last not in holder and not parsed.is_add()):
            raise ConfigError(f"{parsed.key_or_group}: not a key of distill's configuration")
        holder[last] = given["value"]  # type: ignore[index,call-overload]
    return validate(DistillConfig, values)
