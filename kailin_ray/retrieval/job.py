"""The job that makes an index: a Ray Data actor pool encodes the documents, one task builds from what it wrote."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import TypeAdapter, ValidationError

from kailin_ray.config import ConfigError, Encoder, IndexConfig, QueryModel, settings
from kailin_ray.documents import first_documents, select_rows
from kailin_ray.files import atomic_folder, read_json, sha256, write_json
from kailin_ray.progress import progress_bar
from kailin_ray.retrieval.encoder import EncodeDocuments
from kailin_ray.retrieval.index import build
from kailin_ray.session import encoder_environment

ROWS_PER_BLOCK = 64
FORMAT = 3
"""Of the folder that is made; to be raised with it."""


def made_index(config: IndexConfig) -> dict[str, Any] | None:
    """The manifest of the index that ``config`` asks for if it is there already, else None.

    Raises ``ConfigError`` if ``out`` holds something else.
    """
    if (config.out / "manifest.json").exists():
        manifest: dict[str, Any] = read_json(config.out / "manifest.json")
        if differing := _differences(manifest.get("made_from"), _made_from(config)):
            raise ConfigError(
                f"out: {config.out} holds an index made from other input ({differing}); remove it or choose another"
            )
        return manifest
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not an index; choose another")
    return None


def encoder_identity(encoder: Encoder) -> dict[str, Any]:
    """All that an encoder's vectors depend on: its models and each setting but the batch size."""
    others = dataclasses.asdict(encoder)
    for name in ("path", "revision", "query", "batch_size"):
        del others[name]
    query = model_identity(encoder.query) if encoder.query else None
    return {"model": model_identity(encoder), "query": query, **others}


def model_identity(model: Encoder | QueryModel) -> str:
    """Which model it is: the checksum of a local directory, or a hub id with its revision."""
    return sha256(Path(model.path)) if Path(model.path).is_dir() else f"{model.path}@{model.revision}"


def recorded_encoder(index: dict[str, Any]) -> Encoder:
    """The encoder that an index was made with, from the index's manifest. Raises ``ConfigError``."""
    try:
        return TypeAdapter(Encoder).validate_python(index["config"]["encoder"])
    except ValidationError as error:
        raise ConfigError("index: made by an older version, which did not record its encoder so; index anew") from error


def _made_from(config: IndexConfig) -> dict[str, Any]:
    return {
        "documents": sha256(config.documents / "manifest.json"),
        "limit": config.limit,
        "encoder": encoder_identity(config.encoder),
        "format": FORMAT,
    }


def _differences(made: Any, asked: dict[str, Any]) -> str:
    """The names of what an index was not made from, such as ``documents, encoder.pooling``."""
    made = made if isinstance(made, dict) else {}
    encoder, encoder_asked = made.get("encoder", {}), asked["encoder"]
    names = [name for name in asked if name != "encoder" and made.get(name) != asked[name]]
    names += [
        f"encoder.{name}" for name in encoder_asked if name not in encoder or encoder[name] != encoder_asked[name]
    ]
    return ", ".join(names)


def make_index(config: IndexConfig, terminal: TextIO) -> dict[str, Any]:
    """Encode the documents that have an abstract and build the index; return its manifest. Needs a Ray session."""
    started = time.monotonic()
    made_from = _made_from(config)
    benchmarks = read_json(config.documents / "manifest.json").get("benchmarks", {})
    files, total, wanted = first_documents(config.documents, config.limit)
    on_gpu = config.cluster.gpus_per_encoder > 0
    passages = (
        ray.data.read_parquet([str(file) for file in files], columns=["pmid", "title", "abstract", "mesh"])
        .map_batches(
            select_rows,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={"wanted": ray.put(wanted), "done": ray.put(np.zeros(0, dtype=np.int64))},
        )
        .map_batches(_with_text, batch_format="pyarrow", batch_size=None)
        .repartition(target_num_rows_per_block=ROWS_PER_BLOCK)
        .map_batches(
            EncodeDocuments,
            fn_constructor_args=(config.encoder, on_gpu),
            batch_format="pyarrow",
            batch_size=ROWS_PER_BLOCK,  # of actors with GPUs Ray Data wants to be told
            compute=ray.data.ActorPoolStrategy(size=config.cluster.num_encoders),
            num_cpus=1,
            num_gpus=config.cluster.gpus_per_encoder,
            runtime_env={"env_vars": encoder_environment(config.cluster)},
        )
    )
    with atomic_folder(config.out.absolute()) as folder:
        parts = folder / "parts"
        parts.mkdir()
        with progress_bar(terminal, "index: encoded", total) as bar:
            # Rows of counts come to the driver, not the passages.
            for row in passages.map_batches(
                _write_part, batch_format="pyarrow", batch_size=None, fn_kwargs={"folder": str(parts)}
            ).iter_rows():
                bar.update(row["rows"])
        if not any(parts.iterdir()):
            raise ConfigError(f"documents: {config.documents} has no document with an abstract to index")
        counts = ray.get(_build.remote(str(folder)))
        shutil.rmtree(parts)
        if _made_from(config) != made_from:
            raise ConfigError(
                f"documents: {config.documents} was updated while it was indexed; the same command does it"
            )
        # What the passages' headings are called, for a hierarchy that does not know their UIs.
        shutil.copyfile(config.documents / "descriptors.json", folder / "descriptors.json")
        manifest = {
            "kind": "index",
            "made_from": made_from,
            "benchmarks": benchmarks,
            **counts,
            "seconds": round(time.monotonic() - started, 1),
            "config": settings(config),
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def _with_text(block: pa.Table) -> pa.Table:
    return block.filter(pc.greater(pc.utf8_length(block["abstract"]), 0))


def _write_part(block: pa.Table, folder: str) -> pa.Table:
    if block.num_rows:
        first = block["pmid"][0].as_py()
        pq.write_table(block, Path(folder, f"{first:09}.parquet"))
    return pa.table({"rows": [block.num_rows]})


@ray.remote
def _build(folder: str) -> dict[str, Any]:
    return build(sorted(Path(folder, "parts").iterdir()), Path(folder))
