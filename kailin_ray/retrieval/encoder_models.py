"""An encoder that a configuration names: found, checked and pinned."""

from dataclasses import replace

from kailin_ray.config import Encoder, QueryModel
from kailin_ray.engines.models import check_files, model_json, resolve_model
from kailin_ray.errors import ConfigError
from kailin_ray.retrieval.encoder import check_length


def resolve_encoder(encoder: Encoder) -> Encoder:
    """The same encoder, its models checked and pinned. Raises ``ConfigError``, also if the two do not fit together."""
    encoder = resolve_model(encoder, "encoder.path")
    check_files("encoder.path", encoder.path)
    if encoder.query:
        encoder = replace(encoder, query=resolve_model(encoder.query, "encoder.query.path"))
    asked = encoder.query or encoder
    check_files("encoder.query.path" if encoder.query else "encoder.path", asked.path)
    dimension = _dimension(encoder, encoder, "encoder.max_length", encoder.max_length)
    others = _dimension(encoder, asked, "encoder.query_max_length", encoder.query_max_length)
    if dimension and others and dimension != others:
        raise ConfigError(
            f"encoder.query.path: {asked.path} gives vectors of {others} dimensions, encoder.path {encoder.path} of "
            f"{dimension}; they are compared, so they must be of one model pair"
        )
    return encoder


def _dimension(encoder: Encoder, model: Encoder | QueryModel, key: str, length: int) -> int | None:
    """Of a model's vectors; None where its files do not say. Raises ``ConfigError`` for what it cannot do."""
    config = model_json(model, "config.json")
    check_length(key, length, model.path, config)
    if encoder.pooling is None:
        modules = model_json(model, "modules.json")
        if modules is None:
            raise ConfigError(
                f"encoder.pooling: null, but {model.path} has no modules.json that says how; give mean or cls"
            )
        if {str(module.get("type")).rpartition(".")[2] for module in modules} - {"Transformer", "Pooling", "Normalize"}:
            return None
    return next((config[name] for name in ("hidden_size", "d_model", "dim") if name in config), None)
