"""Encode documents as passages with vectors: a Ray Data actor pool, resumable by row.

Encoded rows are written to small Parquet parts next to the index that is being built. A part is complete or absent, and
the parts of a killed job are reused.
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from kailin_ray.config import IndexConfig
from kailin_ray.corpus.changes import find_changes
from kailin_ray.corpus.documents import Documents
from kailin_ray.io.files import atomic_file, read_json, write_json
from kailin_ray.io.pmids import PMIDS, among, read_pmids
from kailin_ray.io.terminal import progress_bar
from kailin_ray.retrieval.encoder import EncodeDocuments
from kailin_ray.retrieval.search.folder import Encoding, IndexInputs
from kailin_ray.runtime.session import encoder_environment
from kailin_ray.runtime.tasks import select_rows

FIELDS = ("title", "abstract", "mesh")
"""Fields of a document that its passage has; the document is encoded again if one of them changed."""
BATCHES_A_BLOCK = 8
"""Batches in a block. Texts are sorted by length within a block; a kill costs one block per encoder."""


@dataclass(frozen=True)
class Work:
    """What to encode."""

    files: list[Path]
    """Files of the documents."""
    num_documents: int
    wanted: PMIDS | None
    """PMIDs, sorted; None for all PMIDs in the files."""
    kept: PMIDS
    """PMIDs, sorted, that the index already has."""


def open_parts(config: IndexConfig, documents: Documents, inputs: IndexInputs) -> Path:
    """Return the folder of parts next to ``config.out``; it keeps valid parts of a killed job for the same index."""
    scratch = config.out.absolute().with_name(f".{config.out.name}.encoded")
    note = scratch / "encoded.json"
    previous = read_json(note) if note.exists() else {}
    identity = asdict(inputs) | {"limit": config.limit}
    if previous.get("made_from") != identity:
        shutil.rmtree(scratch, ignore_errors=True)
    else:
        changed = find_changes(documents, previous["num_updates"], FIELDS)
        for part in list_encoded_parts(scratch):
            if among(read_pmids(part), changed).any():
                part.unlink()
    scratch.mkdir(exist_ok=True)
    write_json(note, {"made_from": identity, "num_updates": len(documents.manifest.updates)})
    return scratch


def drop_parts(scratch: Path, work: Work) -> None:
    """Remove parts with rows that the index already has, or that are not wanted (any more); they are encoded again.

    A job that was killed in its very last step leaves its parts although the index has them.
    """
    for part in list_encoded_parts(scratch):
        pmids = read_pmids(part)
        if among(pmids, work.kept).any() or (work.wanted is not None and not among(pmids, work.wanted).all()):
            part.unlink()


def list_encoded_parts(scratch: Path) -> list[Path]:
    """Return the complete parts, in order."""
    return sorted(scratch.glob("[0-9]*.parquet"))


def encode(config: IndexConfig, work: Work, scratch: Path, terminal: TextIO) -> Encoding:
    """Encode what is wanted and neither in the index nor in the parts. Return its cost, for the manifest."""
    part_pmids = [read_pmids(part) for part in list_encoded_parts(scratch)]
    done = np.unique(np.concatenate([work.kept, *part_pmids]))
    num_encoded, seconds = 0, 0.0
    if len(done) < work.num_documents:
        with progress_bar(terminal, "index: encoded", work.num_documents, initial=len(done)) as bar:
            # Only counts come to the driver, not the passages.
            for row in _passages(config, work, done, scratch).iter_rows():
                bar.update(row["abstracts"])
                num_encoded, seconds = num_encoded + row["abstracts"], seconds + row["seconds"]
    return Encoding(
        num_encoders=config.cluster.num_encoders,
        device="gpu" if config.cluster.gpus_per_encoder else "cpu",
        num_taken_over=sum(map(len, part_pmids)),
        num_encoded=num_encoded,
        abstracts_per_second_per_encoder=round(num_encoded / seconds, 2) if seconds else None,
    )


def _passages(config: IndexConfig, work: Work, done: PMIDS, scratch: Path) -> ray.data.Dataset:
    """Return the lazy dataset that encodes: a row per written part, with its abstracts and the encoder's seconds."""
    cluster = config.cluster
    block_rows = BATCHES_A_BLOCK * config.encoder.batch_size
    selected = {"wanted": ray.put(work.wanted), "done": ray.put(done)}
    return (
        ray.data.read_parquet([str(file) for file in work.files], columns=["pmid", *FIELDS])
        .map_batches(select_rows, batch_format="pyarrow", batch_size=None, fn_kwargs=selected)
        .map_batches(_with_text, batch_format="pyarrow", batch_size=None)
        .repartition(target_num_rows_per_block=block_rows)
        .map_batches(
            EncodeDocuments,
            fn_constructor_args=(config.encoder, cluster.gpus_per_encoder > 0),
            batch_format="pyarrow",
            batch_size=block_rows,  # Ray Data requires it for actors with GPUs
            compute=ray.data.ActorPoolStrategy(size=cluster.num_encoders),
            num_cpus=1,
            num_gpus=cluster.gpus_per_encoder,
            runtime_env={"env_vars": encoder_environment(cluster)},
        )
        .map_batches(_write_part, batch_format="pyarrow", batch_size=None, fn_kwargs={"scratch": str(scratch)})
    )


def _with_text(block: pa.Table) -> pa.Table:
    return block.filter(pc.greater(pc.utf8_length(block["abstract"]), 0))


def _write_part(block: pa.Table, scratch: str) -> pa.Table:
    seconds = pc.sum(block["seconds"]).as_py() or 0.0
    if block.num_rows:
        # Named by its content, so that a task that Ray runs again overwrites its earlier part.
        with atomic_file(Path(scratch, f"{block['pmid'][0].as_py():09}.parquet")) as partial:
            pq.write_table(block.drop_columns("seconds"), partial)
    return pa.table({"abstracts": [block.num_rows], "seconds": [seconds]})
