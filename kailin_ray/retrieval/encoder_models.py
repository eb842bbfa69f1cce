"""Find, check and pin the encoder that a configuration names."""

from dataclasses import replace

from kailin_ray.config import Encoder, QueryModel
from kailin_ray.engines.models import check_files, model_json, resolve_model
from kailin_ray.errors import ConfigError
from kailin_ray.retrieval.encoder import check_length


def resolve_encoder(encoder: Encoder) -> Encoder:
    """Return the encoder with its models checked and pinned. Raises ``ConfigError``, also if the two do not match."""
    encoder = resolve_model(encoder, "encoder.path")
    check_files("encoder.path", encoder.path)
    if encoder.query:
        encoder = replace(encoder, query=resolve_model(encoder.query, "encoder.query.path"))
    query_model = encoder.query or encoder
    check_files("encoder.query.path" if encoder.query else "encoder.path", query_model.path)
    dimension = _dimension(encoder, encoder, "encoder.max_length", encoder.max_length)
    query_dimension = _dimension(encoder, query_model, "encoder.query_max_length", encoder.query_max_length)
    if dimension and query_dimension and dimension != query_dimension:
        raise ConfigError(
            f"encoder.query.path: {query_model.path} produces vectors of {query_dimension} dimensions, "
            f"encoder.path {encoder.path} of {dimension}; they are compared, so both must be of one model pair"
        )
    return encoder


def _dimension(encoder: Encoder, model: Encoder | QueryModel, key: str, length: int) -> int | None:
    """Return the dimension of a model's vectors, None if unknown. Raises ``ConfigError`` for an impossible setting."""
    config = model_json(model.path, model.revision, "config.json")
    check_length(key, length, model.path, config)
    if encoder.pooling is None:
        modules = model_json(model.path, model.revision, "modules.json")
        if modules is None:
            raise ConfigError(
                f"encoder.pooling: null, but {model.path} has no modules.json that defines it; give mean or cls"
            )
        if {str(module.get("type")).rpartition(".")[2] for module in modules} - {"Transformer", "Pooling", "Normalize"}:
            return None
    return next((config[name] for name in ("hidden_size", "d_model", "dim") if name in config), None)
