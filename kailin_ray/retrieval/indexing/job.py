"""The job that builds an index and keeps it up to date with its documents.

::

    index/
      shards/<number>/   passages, vectors, a lexical index if configured; an update adds shards (store.py, lexical.py)
      search.faiss       the structure that is searched; an update adds to it (ann.py, structure.py)
      deleted.npy        rows of passages that an update replaced or removed
      descriptors.json   each descriptor's name and number of documents, from the documents
      its manifest       last: ``id`` never changes, ``updates`` has an entry for each update

New files are built next to the folder and moved into it when all are complete; until then it stays as it was.
"""

import dataclasses
import logging
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from pydantic import TypeAdapter, ValidationError

from kailin_ray.config import Encoder, IndexConfig, settings
from kailin_ray.corpus.changes import find_changes
from kailin_ray.corpus.documents import Documents, first_documents
from kailin_ray.engines.models import model_identity
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import finish, updating
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import has_manifest, write_manifest
from kailin_ray.io.pmids import PMIDS, READERS, among, read_pmids
from kailin_ray.io.storage import log_file
from kailin_ray.retrieval.encoder_models import resolve_encoder
from kailin_ray.retrieval.indexing.encoding import (
    FIELDS,
    Work,
    check_parts,
    drop_parts,
    encode,
    list_encoded_parts,
    open_parts,
)
from kailin_ray.retrieval.indexing.shards import write_lexical, write_shards
from kailin_ray.retrieval.indexing.structure import Shards, make_search
from kailin_ray.retrieval.search.ann import chosen_kind
from kailin_ray.retrieval.search.folder import (
    FORMAT,
    EncoderIdentity,
    Index,
    IndexInputs,
    IndexManifest,
    IndexUpdate,
    ShardFolder,
    Structure,
)
from kailin_ray.retrieval.search.index import load_deleted
from kailin_ray.retrieval.search.store import Rows, Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IndexResult:
    """The result of ``index``."""

    index: Index
    made_already: bool


def build_index(config: IndexConfig) -> IndexResult:
    """Build an index of documents, or update an existing one.

    Raises ``ConfigError`` for unreadable input and if there is nothing to index; ``out`` then stays as it was. Raises
    ``CommandFailedError`` if Ray fails.
    """
    documents = Documents.open(config.documents)
    config = replace(config, encoder=resolve_encoder(config.encoder))
    with hold_lock(config.out):
        existing = resume_index(config, documents)
        if existing and up_to_date(config, documents, existing):
            return IndexResult(index=existing, made_already=True)
        work, stale_rows = find_work(config, documents, existing)
        from kailin_ray.runtime.faults import one_line_faults
        from kailin_ray.runtime.nodes import alive_nodes, check_encoders
        from kailin_ray.runtime.session import ray_session

        log = log_file(config.out)
        with one_line_faults(log), ray_session(config.cluster, log) as terminal:
            check_encoders(config.cluster, alive_nodes())
            return IndexResult(
                index=make_index(config, documents, existing, work, stale_rows, terminal), made_already=False
            )


def resume_index(config: IndexConfig, documents: Documents) -> Index | None:
    """Open the index in ``out``; return None if there is none yet.

    An update that was interrupted while its files were moved is finished first. Raises ``ConfigError`` if ``out`` holds
    something else, or an index of other documents or of another encoder.
    """
    finish(config.out.absolute())
    if has_manifest(config.out):
        index = Index.open(config.out, "out")
        if differing := _differences(index.manifest.made_from, index_inputs(config, documents)):
            raise ConfigError(
                f"out: {config.out} holds an index made from other input ({differing}); remove it or choose another"
            )
        return index
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not an index; choose another")
    return None


def up_to_date(config: IndexConfig, documents: Documents, made: Index) -> bool:
    """Return whether the index ``made`` already matches the configuration and the documents."""
    expected = (
        len(documents.manifest.updates),
        config.limit,
        config.structure,
        config.target_recall,
        config.lexical,
    )
    manifest = made.manifest
    return expected == (
        manifest.documents_updates,
        manifest.limit,
        manifest.structure,
        manifest.target_recall,
        manifest.lexical,
    )


def index_inputs(config: IndexConfig, documents: Documents) -> IndexInputs:
    """Return the inputs of an index that never change: its documents and its encoder."""
    return IndexInputs(documents=documents.manifest.id, encoder=encoder_identity(config.encoder), format=FORMAT)


def encoder_identity(encoder: Encoder) -> EncoderIdentity:
    """Return what an encoder's vectors depend on: its models and all settings except the batch size."""
    other_settings = dataclasses.asdict(encoder)
    for name in ("path", "revision", "query", "batch_size"):
        del other_settings[name]
    query = model_identity(encoder.query.path, encoder.query.revision) if encoder.query else None
    return {"model": model_identity(encoder.path, encoder.revision), "query": query, **other_settings}


def resolve_recorded_encoder(index: Index) -> Encoder:
    """Return the encoder that an index was built with, from its manifest. Raises ``ConfigError``."""
    try:
        return TypeAdapter(Encoder).validate_python(index.manifest.config.get("encoder"))
    except ValidationError as error:
        raise ConfigError(
            "index: made by an older version, which recorded its encoder differently; build it again"
        ) from error


def _differences(recorded: IndexInputs, configured: IndexInputs) -> str:
    """Return the names of the inputs that differ, such as ``documents, encoder.pooling``."""
    names = [name for name in ("documents", "format") if getattr(recorded, name) != getattr(configured, name)]
    names += [
        f"encoder.{name}" for name, value in configured.encoder.items() if recorded.encoder.get(name, ...) != value
    ]
    return ", ".join(names)


def make_index(
    config: IndexConfig, documents: Documents, made: Index | None, work: Work, gone: Rows, shown: TextIO
) -> Index:
    """Encode ``work`` and build or update the index, without the rows ``gone``. Needs a Ray session.

    Raises ``ConfigError`` if there is nothing to index, or too little for the structure; ``out`` then stays as it was.
    """
    started = time.monotonic()
    out = config.out.absolute()
    inputs = index_inputs(config, documents)
    scratch = open_parts(config, documents, inputs)
    drop_parts(scratch, work)
    encoding = encode(config, work, scratch, shown)
    check_parts(work, scratch)
    logger.info("%s: %d abstracts encoded, %d rows removed", config.out, encoding.num_encoded, len(gone))
    with updating(out) as folder:
        shards, added = _all_shards(config, made, gone, scratch, folder, shown)
        previous = made.manifest if made else None
        if config.lexical:
            write_lexical(shards, folder, len(previous.shards) if previous and previous.lexical else 0, shown)
        search = _search(config, made, shards, folder, shown)
        shutil.copyfile(config.documents / "descriptors.json", folder / "descriptors.json")
        update = IndexUpdate(
            added=sum(shard.rows for shard in added),
            deleted=len(gone),
            encoding=encoding,
            seconds=round(time.monotonic() - started, 1),
        )
        manifest = IndexManifest(
            id=previous.id if previous else uuid.uuid4().hex,
            made_from=inputs,
            documents_updates=len(documents.manifest.updates),
            limit=config.limit,
            structure=config.structure,
            target_recall=config.target_recall,
            lexical=config.lexical,
            benchmarks=documents.manifest.benchmarks,
            updates=(*(previous.updates if previous else ()), update),
            num_passages=shards.num_live(),
            dimension=shards.dimension,
            shards=(*(previous.shards if previous else ()), *added),
            search=search,
            files=(previous.files if previous else {}) | _sizes(folder),
            config=settings(config),
        )
        write_manifest(folder, manifest)
    shutil.rmtree(scratch)
    return Index(config.out, manifest)


def _all_shards(
    config: IndexConfig, existing: Index | None, stale_rows: Rows, scratch: Path, folder: Path, terminal: TextIO
) -> tuple[Shards, list[ShardFolder]]:
    """Write the encoded parts as new shards; return all shards of the index, and the new shards' names and rows."""
    out = config.out.absolute()
    old_folders = Index(out, existing.manifest).shards() if existing else []
    reports = write_shards(list_encoded_parts(scratch), folder, len(old_folders), terminal)
    added = [ShardFolder(name=report["name"], rows=report["rows"]) for report in reports]
    folders = [*old_folders, *((folder / shard.name, shard.rows) for shard in added)]
    deleted = np.union1d(load_deleted(out), stale_rows)
    if sum(rows for _, rows in folders) == len(deleted):
        raise ConfigError(f"documents: {config.documents} has no document with an abstract to index")
    np.save(folder / "deleted.npy", deleted)
    dimension = existing.manifest.dimension if existing else reports[0]["dimension"]
    return Shards(tuple((str(path), rows) for path, rows in folders), dimension, deleted), added


def _search(config: IndexConfig, existing: Index | None, shards: Shards, folder: Path, terminal: TextIO) -> Structure:
    previous = (config.out.absolute() / "search.faiss", existing.manifest.search) if existing else None
    try:
        kind = chosen_kind(config.structure, shards.num_live())
    except ValueError as error:
        raise ConfigError(f"structure: {error}") from error
    return make_search(shards, kind, config.target_recall, config.encoder, folder, previous, terminal)


def format_index(result: IndexResult) -> str:
    """Describe what an index holds and how it is searched, for a person."""
    out, manifest = result.index.path, result.index.manifest
    last, number = manifest.updates[-1], len(manifest.updates)
    lines = [f"{out}: made already"] if result.made_already else []
    lines.append(
        f"{out}: {manifest.num_passages:,} passages of {manifest.dimension} dimensions, "
        f"{_format_search(manifest.search)}"
    )
    if number > 1:
        lines.append(f"update {number}: {last.added:,} passages added, {last.deleted:,} removed")
    encoding = last.encoding
    if encoding.num_encoded:
        rate, device = encoding.abstracts_per_second_per_encoder, encoding.device.upper()
        lines.append(f"encoded     {encoding.num_encoded:,} abstracts, {rate:,.1f}/s each encoder ({device})")
    return "\n".join(lines)


def _format_search(search: Structure) -> str:
    recall, target = search.recall, search.target_recall_at_4
    if recall is None or target is None:
        return f"searched exactly ({search.kind})"
    figures = f"recall@4 {recall.recall_at_4:.3f} ± {recall.recall_at_4_ci95:.3f}, @10 {recall.recall_at_10:.3f}"
    values = {"nprobe": search.nprobe, "ef_search": search.ef_search, "num_candidates": search.num_candidates}
    parameters = ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
    warning = "" if recall.recall_at_4 >= target else f": BELOW the target of {target}"
    return f"{search.kind} ({parameters}): {figures} of {recall.num_queries:,} titles{warning}"


def find_work(config: IndexConfig, documents: Documents, made: Index | None) -> tuple[Work, Rows]:
    """Return what to encode, and the rows of the index that no longer count.

    Raises ``ConfigError`` that names a file of documents that cannot be read.
    """
    files, total, selected = first_documents(documents, config.limit)
    if made is None:
        return Work(files, total, selected, np.zeros(0, np.int64)), np.zeros(0, np.int64)
    store = Store(made.shards(), made.manifest.dimension)
    rows = np.setdiff1d(np.arange(len(store)), load_deleted(config.out))
    pmids = store.pmids(rows)
    stale = among(pmids, find_changes(documents, made.manifest.documents_updates, FIELDS))
    stale |= ~among(pmids, selected if selected is not None else _all_pmids(files))
    return Work(files, total, selected, np.sort(pmids[~stale])), rows[stale]


def _all_pmids(files: list[Path]) -> PMIDS:
    with ThreadPoolExecutor(READERS) as pool:
        return np.sort(np.concatenate(list(pool.map(read_pmids, files))))


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each file in a folder, by its name within the folder."""
    # Without hidden files, such as tantivy's locks.
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(files)}
