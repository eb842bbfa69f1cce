"""The job that makes an index, and brings it up to date with its documents.

::

    index/
      shards/<number>/   passages, their vectors and, if asked for, words; an update adds shards (store.py, lexical.py)
      search.faiss       the structure that is searched; an update adds to it (ann.py, build.py)
      deleted.npy        rows of passages that an update replaced or took out
      descriptors.json   each descriptor's name and number of documents, of the documents
      manifest.json      last: ``id`` stays the index's own, ``updates`` has an entry each

New files are made beside the folder and take their places when all of them are whole: until then it is as it was.
"""

import dataclasses
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from kailin_ray.config import Encoder, IndexConfig, settings
from kailin_ray.corpus.changes import changed_since
from kailin_ray.corpus.documents import first_documents
from kailin_ray.engines.models import model_identity
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import finish, read_json, updating, write_json
from kailin_ray.io.pmids import PMIDS, READERS, among, read_pmids
from kailin_ray.io.terminal import progress_bar
from kailin_ray.retrieval.indexing.encoding import FIELDS, Work, drop_parts, encode, encoded_parts, open_parts
from kailin_ray.retrieval.indexing.structure import Shards, make_search
from kailin_ray.retrieval.search.ann import chosen_kind
from kailin_ray.retrieval.search.index import load_deleted, shard_folders
from kailin_ray.retrieval.search.lexical import build_lexical
from kailin_ray.retrieval.search.store import SHARD_ROWS, Rows, Store, write_shard
from kailin_ray.runtime.tasks import each

FORMAT = 4
"""Of the folder that is made; to be raised with it."""
SHARD_BYTES = 1 << 30
"""Of the parts of a shard, unpacked: what its task holds in memory, about twice."""

Manifest = dict[str, Any]


def opened_index(config: IndexConfig) -> Manifest | None:
    """The manifest of the index in ``out``, None where there is none yet.

    An update that was stopped while its files took their places is finished first. Raises ``ConfigError`` if ``out``
    holds something else, or an index of other documents or of another encoder.
    """
    finish(config.out.absolute())
    if (config.out / "manifest.json").exists():
        manifest: Manifest = read_json(config.out / "manifest.json")
        if differing := _differences(manifest.get("made_from"), made_from(config)):
            raise ConfigError(
                f"out: {config.out} holds an index made from other input ({differing}); remove it or choose another"
            )
        return manifest
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not an index; choose another")
    return None


def up_to_date(config: IndexConfig, made: Manifest | None) -> bool:
    """Whether the index with the manifest ``made`` is what is asked for already."""
    return made is not None and _asked(config) == {name: made[name] for name in _asked(config)}


def _asked(config: IndexConfig) -> dict[str, Any]:
    """What an index is brought up to date with."""
    return {
        "documents_updates": len(read_json(config.documents / "manifest.json")["updates"]),
        "limit": config.limit,
        "structure": config.structure,
        "target_recall": config.target_recall,
        "lexical": config.lexical,
    }


def made_from(config: IndexConfig) -> dict[str, Any]:
    """What an index stays: which documents' it is, by which encoder."""
    return {
        "documents": read_json(config.documents / "manifest.json")["id"],
        "encoder": encoder_identity(config.encoder),
        "format": FORMAT,
    }


def encoder_identity(encoder: Encoder) -> dict[str, Any]:
    """All that an encoder's vectors depend on: its models and each setting but the batch size."""
    others = dataclasses.asdict(encoder)
    for name in ("path", "revision", "query", "batch_size"):
        del others[name]
    query = model_identity(encoder.query.path, encoder.query.revision) if encoder.query else None
    return {"model": model_identity(encoder.path, encoder.revision), "query": query, **others}


def recorded_encoder(index: Manifest) -> Encoder:
    """The encoder that an index was made with, from the index's manifest. Raises ``ConfigError``."""
    try:
        return TypeAdapter(Encoder).validate_python(index["config"]["encoder"])
    except ValidationError as error:
        raise ConfigError("index: made by an older version, which did not record its encoder so; index anew") from error


def _differences(made: Any, asked: dict[str, Any]) -> str:
    """The names of what an index was not made from, such as ``documents, encoder.pooling``."""
    made = made if isinstance(made, dict) else {}
    encoder, encoder_asked = made.get("encoder", {}), asked["encoder"]
    names = [name for name in asked if name != "encoder" and made.get(name) != asked[name]]
    names += [
        f"encoder.{name}" for name in encoder_asked if name not in encoder or encoder[name] != encoder_asked[name]
    ]
    return ", ".join(names)


def make_index(config: IndexConfig, made: Manifest | None, terminal: TextIO) -> Manifest:
    """Make the index, or what of it is to change; return its manifest. Needs a Ray session.

    Raises ``ConfigError`` where there is nothing to index, or too little for the structure; ``out`` is then as it was.
    """
    started = time.monotonic()
    out = config.out.absolute()
    documents = read_json(config.documents / "manifest.json")
    asked = _asked(config)
    # Now: at the end of a long job documents may be on their way to their next update.
    identity = made_from(config)
    scratch = open_parts(config, identity | {"limit": config.limit}, asked["documents_updates"])
    work, gone = _find_work(config, made)
    drop_parts(scratch, work)
    encoding = encode(config, work, scratch, terminal)
    with updating(out) as folder:
        shards, added = _all_shards(config, made, gone, scratch, folder, terminal)
        if config.lexical:
            _write_lexical(shards, folder, len(made["shards"]) if made and made["lexical"] else 0, terminal)
        search = _search(config, made, shards, folder, terminal)
        shutil.copyfile(config.documents / "descriptors.json", folder / "descriptors.json")
        update = {
            "added": sum(one["rows"] for one in added),
            "deleted": len(gone),
            "encoding": encoding,
            "seconds": round(time.monotonic() - started, 1),
        }
        manifest = {
            "kind": "index",
            "id": made["id"] if made else uuid.uuid4().hex,
            "made_from": identity,
            **asked,
            "benchmarks": documents.get("benchmarks", {}),
            "updates": [*(made["updates"] if made else []), update],
            "num_passages": shards.num_live(),
            "dimension": shards.dimension,
            "shards": [*(made["shards"] if made else []), *added],
            "search": search,
            "files": (made["files"] if made else {}) | _sizes(folder),
            "config": settings(config),
        }
        write_json(folder / "manifest.json", manifest)
    shutil.rmtree(scratch)
    return manifest


def _all_shards(
    config: IndexConfig, made: Manifest | None, gone: Rows, scratch: Path, folder: Path, terminal: TextIO
) -> tuple[Shards, list[dict[str, Any]]]:
    """Write what was encoded as new shards; return all shards of the index, and of the new ones name and rows."""
    out = config.out.absolute()
    before = shard_folders(out, made) if made else []
    fresh = _write_shards(encoded_parts(scratch), folder, len(before), terminal)
    added = [{"name": one["name"], "rows": one["rows"]} for one in fresh]
    folders = [*before, *((folder / one["name"], one["rows"]) for one in added)]
    deleted = np.union1d(load_deleted(out), gone)
    if sum(rows for _, rows in folders) == len(deleted):
        raise ConfigError(f"documents: {config.documents} has no document with an abstract to index")
    np.save(folder / "deleted.npy", deleted)
    dimension = made["dimension"] if made else fresh[0]["dimension"]
    return Shards(tuple((str(path), rows) for path, rows in folders), dimension, deleted), added


def _search(
    config: IndexConfig, made: Manifest | None, shards: Shards, folder: Path, terminal: TextIO
) -> dict[str, Any]:
    before = (config.out.absolute() / "search.faiss", made["search"]) if made else None
    try:
        kind = chosen_kind(config.structure, shards.num_live())
    except ValueError as error:
        raise ConfigError(f"structure: {error}") from error
    return make_search(shards, kind, config.target_recall, config.encoder, folder, before, terminal)


def summary(out: Path, manifest: Manifest) -> str:
    """What an index holds and how it is searched, as a person reads it."""
    search, last = manifest["search"], manifest["updates"][-1]
    lines = [f"{out}: {manifest['num_passages']:,} passages of {manifest['dimension']} dimensions, {_told(search)}"]
    if len(manifest["updates"]) > 1:
        number = len(manifest["updates"])
        lines.append(f"update {number}: {last['added']:,} passages added, {last['deleted']:,} taken out")
    encoding = last["encoding"]
    if encoding["num_encoded"]:
        rate, where = encoding["abstracts_per_second_per_encoder"], encoding["device"].upper()
        lines.append(f"encoded     {encoding['num_encoded']:,} abstracts, {rate:,.1f}/s each encoder ({where})")
    return "\n".join(lines)


def _told(search: dict[str, Any]) -> str:
    if "recall" not in search:
        return f"searched exactly ({search['kind']})"
    recall, target = search["recall"], search["target_recall_at_4"]
    found = f"recall@4 {recall['recall_at_4']:.3f} ± {recall['recall_at_4_ci95']:.3f}, @10 {recall['recall_at_10']:.3f}"
    asked = ", ".join(f"{name} {search[name]}" for name in ("nprobe", "ef_search", "num_candidates") if name in search)
    short = "" if recall["recall_at_4"] >= target else f": BELOW the target of {target}"
    return f"{search['kind']} ({asked}): {found} of {recall['num_queries']:,} titles{short}"


def _find_work(config: IndexConfig, made: Manifest | None) -> tuple[Work, Rows]:
    """What is to be encoded, and the rows of the index that count no more."""
    files, total, wanted = first_documents(config.documents, config.limit)
    if made is None:
        return Work(files, total, wanted, np.zeros(0, np.int64)), np.zeros(0, np.int64)
    store = Store(shard_folders(config.out, made), made["dimension"])
    rows = np.setdiff1d(np.arange(len(store)), load_deleted(config.out))
    pmids = store.pmids(rows)
    stale = among(pmids, changed_since(config.documents, made["documents_updates"], FIELDS))
    stale |= ~among(pmids, wanted if wanted is not None else _all_pmids(files))
    return Work(files, total, wanted, np.sort(pmids[~stale])), rows[stale]


def _all_pmids(files: list[Path]) -> PMIDS:
    with ThreadPoolExecutor(READERS) as pool:
        return np.sort(np.concatenate(list(pool.map(read_pmids, files))))


def _write_shards(parts: list[Path], folder: Path, first: int, terminal: TextIO) -> list[dict[str, Any]]:
    """Write the parts as shards, numbered from ``first``; return the name, rows and dimension of each."""
    items = [
        {"name": f"shards/{number:05}", "parts": [str(part) for part in group]}
        for number, group in enumerate(_grouped(parts), start=first)
    ]
    with progress_bar(terminal, "index: written", len(items), unit=" shards") as bar:
        made = []
        for one in each(_write_shard, items, {"folder": str(folder)}):
            bar.update()
            made.append(one)
    return sorted(made, key=lambda one: str(one["name"]))


def _write_shard(item: dict[str, Any], folder: str) -> dict[str, Any]:
    return {"name": item["name"], **write_shard([Path(part) for part in item["parts"]], Path(folder, item["name"]))}


def _write_lexical(shards: Shards, folder: Path, first: int, terminal: TextIO) -> None:
    """Index the words of the shards from the number ``first`` on; what is written takes its place with the rest."""
    items = list(range(first, len(shards.folders)))
    with progress_bar(terminal, "index: words", len(items), unit=" shards") as bar:
        for _ in each(_write_words, items, {"shards": shards.folders, "folder": str(folder)}):
            bar.update()


def _write_words(number: int, shards: Sequence[tuple[str, int]], folder: str) -> dict[str, Any]:
    with pa.memory_map(str(Path(shards[number][0], "passages.arrow"))) as source:
        passages = pa.ipc.open_file(source).read_all()
    build_lexical([passages], Path(folder, "shards", f"{number:05}", "lexical"))
    return {}


def _grouped(parts: list[Path]) -> Iterator[list[Path]]:
    """Parts that make a shard together."""
    group: list[Path] = []
    rows = size = 0
    with ThreadPoolExecutor(READERS) as pool:
        for part, (more, bytes_more) in zip(parts, pool.map(_size, parts), strict=True):
            if group and (rows + more > SHARD_ROWS or size + bytes_more > SHARD_BYTES):
                yield group
                group, rows, size = [], 0, 0
            group.append(part)
            rows, size = rows + more, size + bytes_more
    if group:
        yield group


def _size(part: Path) -> tuple[int, int]:
    """Rows, and bytes unpacked."""
    metadata = pq.read_metadata(part)
    return metadata.num_rows, sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a folder, by its name in it."""
    # Without tantivy's locks and the like.
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in sorted(files)}
