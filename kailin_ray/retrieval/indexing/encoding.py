"""Encode documents as passages with vectors: a Ray Data actor pool, resumable by row.

Encoded rows are written to small Parquet parts next to the index that is being built. A part is complete or absent, and
the parts of a killed job are reused.
"""

import hashlib
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
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
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import atomic_file, read_json, write_json
from kailin_ray.io.pmids import PMIDS, READERS, among, read_pmids
from kailin_ray.io.terminal import progress_bar
from kailin_ray.retrieval.encoder import EncodeDocuments
from kailin_ray.retrieval.search.folder import Encoding, IndexInputs
from kailin_ray.runtime.session import encoder_environment
from kailin_ray.runtime.tasks import select_rows
from kailin_ray.schema import Json

logger = logging.getLogger(__name__)

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
    previous = _read_note(note)
    identity = asdict(inputs) | {"limit": config.limit}
    if previous.get("made_from") != identity:
        shutil.rmtree(scratch, ignore_errors=True)
    else:
        changed = find_changes(documents, previous["num_updates"], FIELDS)
        for part in list_encoded_parts(scratch):
            if _is_damaged(part) or among(read_pmids(part), changed).any():
                part.unlink()
    scratch.mkdir(exist_ok=True)
    write_json(note, {"made_from": identity, "num_updates": len(documents.manifest.updates)})
    return scratch


def _read_note(note: Path) -> Json:
    """Return what the parts were made from; empty if there are none, or if nobody can tell."""
    try:
        values = read_json(note) if note.exists() else {}
    except ValueError:  # cut off by a power failure
        return {}
    return values if isinstance(values, dict) and "num_updates" in values else {}


def _is_damaged(part: Path) -> bool:
    try:
        read_pmids(part)
    except ConfigError as error:
        logger.warning("%s; it is removed, and its abstracts are encoded again", error)
        return True
    return False


def drop_parts(scratch: Path, work: Work) -> None:
    """Remove parts with rows that are not wanted (any more), or that the index or an earlier part already has.

    They are encoded again. A job that was killed in its very last step leaves its parts although the index has them. A
    task of a killed job may have written a part after the next job had encoded the same rows.
    """
    parts = list_encoded_parts(scratch)
    columns = [read_pmids(part) for part in parts]
    pmids = np.concatenate([work.kept[:0], *columns])
    repeated = np.ones(len(pmids), dtype=bool)
    repeated[np.unique(pmids, return_index=True)[1]] = False  # all but the first of each
    ends = np.cumsum([len(column) for column in columns])
    for part, column, again in zip(parts, columns, np.split(repeated, ends[:-1]) if parts else [], strict=True):
        is_stale = among(column, work.kept).any() or (work.wanted is not None and not among(column, work.wanted).all())
        if is_stale or again.any():
            part.unlink()


def check_parts(work: Work, scratch: Path) -> None:
    """Raise ``CommandFailedError`` unless the parts have each abstract that the index needs exactly once."""
    parts = [read_pmids(part) for part in list_encoded_parts(scratch)]
    pmids, counts = np.unique(np.concatenate([work.kept, *parts]), return_counts=True)
    with ThreadPoolExecutor(READERS) as pool:
        missing = np.concatenate(
            [np.zeros(0, np.int64), *pool.map(lambda file: _find_missing(file, work.wanted, pmids), work.files)]
        )
    for problem, found in (("have no vector", missing), ("have several vectors", pmids[counts > 1])):
        if len(found):
            some = ", ".join(map(str, found[:5].tolist())) + (", ..." if len(found) > 5 else "")
            raise CommandFailedError(
                f"{scratch}: {len(found):,} abstracts {problem} (PMID {some}): parts were lost or written twice while "
                "the index was made; the same command encodes them again"
            )


def _find_missing(file: Path, wanted: PMIDS | None, done: PMIDS) -> PMIDS:
    """Return the PMIDs of a file's wanted documents that have an abstract but are not ``done``."""
    pmids = read_pmids(file)
    missing = ~among(pmids, done)
    if wanted is not None:
        missing &= among(pmids, wanted)
    if not missing.any():  # the usual case, for which the abstracts are not read
        return pmids[:0]
    with pq.ParquetFile(file) as opened:
        lengths = pc.utf8_length(opened.read(columns=["abstract"])["abstract"])
    return pmids[missing & pc.fill_null(pc.greater(lengths, 0), False).to_numpy()]


def list_encoded_parts(scratch: Path) -> list[Path]:
    """Return the complete parts, in order."""
    return sorted(scratch.glob("[!.]*.parquet"))  # a PMID of documents made by hand may be negative


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
        # Named by its content, so that a task that Ray runs again overwrites its earlier part, and no other part.
        pmids = np.sort(block["pmid"].to_numpy())
        digest = hashlib.sha256(pmids.tobytes()).hexdigest()[:16]
        with atomic_file(Path(scratch, f"{pmids[0]:09}-{digest}.parquet")) as partial:
            pq.write_table(block.drop_columns("seconds"), partial)
    return pa.table({"abstracts": [block.num_rows], "seconds": [seconds]})
