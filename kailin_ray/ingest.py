"""PubMed XML to ``documents/*.parquet``, as two streaming Ray Data passes.

First, a task a file parses it and deals its citations out over buckets by PMID, as Parquet. Then a task a bucket keeps
the latest version of each PMID, honours the deletions, filters, and writes the bucket sorted by PMID. A bucket is all
that is ever in memory; the driver sees counts only.
"""

import glob
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from kailin_ray import __version__
from kailin_ray.config import ConfigError, IngestConfig, settings
from kailin_ray.corpus.citation import Citation
from kailin_ray.corpus.pubmed_xml import DamagedFileError, read_citations
from kailin_ray.files import atomic_file, atomic_folder, read_json, sha256, write_json
from kailin_ray.schema import DOCUMENTS
from kailin_ray.watch import progress_bar

ROWS_AT_ONCE = 2_000
CHARACTERS_AT_ONCE = 64 << 20
"""Of titles and abstracts: 2,000 rows hold about 3 million, but a hostile one alone may hold 10."""
ROW_GROUP = 2_000
BUCKET_BYTES = 64 << 20
"""Compressed XML a bucket stands for: about 400 MB of memory in the second pass."""

FORMAT = 3
"""Of the folder that is made; to be raised with it."""

_KEYS = [("file", pa.int32()), ("place", pa.int32()), ("deleted", pa.bool_())]
DEALT = pa.schema([*DOCUMENTS, *_KEYS])


def find_files(paths: tuple[str, ...] | str) -> list[Path]:
    """The XML files that ``paths`` (files, directories, globs) name, in the order of their names: NLM numbers them.

    Raises ``ConfigError`` for a path that names none.
    """
    found: dict[Path, Path] = {}
    for path in (paths,) if isinstance(paths, str) else paths:
        if Path(path).is_dir():
            matches = [p for p in Path(path).iterdir() if p.name.endswith((".xml", ".xml.gz"))]
            fault = "no .xml or .xml.gz file in this directory"
        else:
            matches = [Path(p) for p in glob.glob(path)]  # noqa: PTH207 - the pattern may be absolute
            fault = "matches no file" if glob.has_magic(path) else "does not exist"
        if not matches:
            raise ConfigError(f"source.path: {path}: {fault}")
        for match in matches:
            if any("\ud800" <= character <= "\udfff" for character in str(match)):
                raise ConfigError(f"source.path: {str(match)!a}: a name that is not UTF-8; rename it")
        # One file by two ways counts once; it keeps the name it was given by, which says its place in the order.
        found |= {p.resolve(): p.absolute() for p in matches}
    if not found:
        raise ConfigError("source.path: an empty list; name at least one file")
    return sorted(found.values(), key=lambda p: (p.name, str(p)))


def made_documents(config: IngestConfig, files: list[Path]) -> dict[str, Any] | None:
    """The manifest of the documents that ``config`` asks for if they are there already, else None.

    Raises ``ConfigError`` if ``out`` holds something else.
    """
    if (config.out / "manifest.json").exists():
        manifest: dict[str, Any] = read_json(config.out / "manifest.json")
        if manifest.get("made_from") != _made_from(config, files):
            raise ConfigError(f"out: {config.out} holds documents made from other input; remove it or choose another")
        return manifest
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not a folder of documents; choose another")
    return None


def _made_from(config: IngestConfig, files: list[Path]) -> dict[str, Any]:
    return {
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in files],
        "require": list(config.require),
        "format": FORMAT,
    }


def make_documents(config: IngestConfig, files: list[Path], terminal: TextIO) -> dict[str, Any]:
    """Make the folder of documents; return its manifest. Needs a Ray session.

    Raises ``ConfigError`` where no file could be read or no document is left.
    """
    started = time.monotonic()
    with atomic_folder(config.out.absolute()) as folder:
        reports = _deal(files, folder / "dealt", terminal)
        damaged = [str(report["damaged"]) for report in reports if report["damaged"]]
        if len(damaged) == len(files):
            raise ConfigError(f"source.path: no file could be read: {damaged[0]}")
        if not any((folder / "dealt").rglob("*.parquet")):
            raise ConfigError(f"source.path: no citation in {len(files)} files, the first of them {files[0]}")
        counts, descriptors = _merge(folder, config.require, terminal)
        if not counts["documents"]:
            raise ConfigError(f"source.path: no document is left of {counts['citations']:,} citations: {dict(counts)}")
        write_json(folder / "descriptors.json", dict(sorted(descriptors.items())))
        left_out = ("superseded", "deleted", *(f"no_{name}" for name in config.require))
        manifest = {
            "kind": "documents",
            "made_from": _made_from(config, files),
            "num_documents": counts["documents"],
            "num_with_mesh": counts["with_mesh"],
            "num_citations": counts["citations"],
            "num_left_out": {name: counts[name] for name in left_out},
            "num_skipped": dict(sum((Counter(report["skipped"]) for report in reports), Counter())),
            "damaged": damaged,
            "sha256": {report["name"]: report["sha256"] for report in reports},
            "seconds": round(time.monotonic() - started, 1),
            "versions": {"kailin_ray": __version__, "ray": ray.__version__},
            "config": settings(config),
        }
        write_json(folder / "manifest.json", manifest)
    return manifest


def _deal(files: list[Path], dealt: Path, terminal: TextIO) -> list[dict[str, Any]]:
    size = sum(file.stat().st_size * (1 if file.suffix == ".gz" else 0.2) for file in files)
    num_buckets = max(1, round(size / BUCKET_BYTES))
    items = [{"path": str(file), "number": number} for number, file in enumerate(files)]
    parsed = ray.data.from_items(items, override_num_blocks=len(items)).map(
        deal_file, fn_kwargs={"dealt": str(dealt), "num_buckets": num_buckets}
    )
    reports = []
    with progress_bar(terminal, "ingest: read", sum(file.stat().st_size for file in files), unit="B") as bar:
        for row in parsed.iter_rows():
            bar.update(row["bytes"])
            reports.append(row)
    return sorted(reports, key=lambda row: str(row["name"]))


def deal_file(item: dict[str, Any], dealt: str, num_buckets: int) -> dict[str, Any]:
    """Parse one file into ``dealt/<bucket>/<number>.parquet``; all of the file or, if it is damaged, nothing."""
    path, number = Path(item["path"]), int(item["number"])
    skipped: Counter[str] = Counter()
    report = {"name": path.name, "sha256": "", "bytes": 0, "damaged": ""}
    targets = [Path(dealt, f"{bucket:05}", f"{number:06}.parquet") for bucket in range(num_buckets)]
    writers: list[pq.ParquetWriter | None] = [None] * num_buckets
    try:
        report |= {"sha256": sha256(path), "bytes": path.stat().st_size}
        for rows in chunks(read_citations(path, skipped), path.name, number):
            table = pa.Table.from_pylist(rows, DEALT)
            buckets = table["pmid"].to_numpy() % num_buckets
            for bucket in np.unique(buckets):
                if writers[bucket] is None:
                    targets[bucket].parent.mkdir(parents=True, exist_ok=True)
                    writers[bucket] = pq.ParquetWriter(f"{targets[bucket]}.partial", DEALT, compression="zstd")
                writers[bucket].write_table(table.filter(pa.array(buckets == bucket)))
    except (DamagedFileError, OSError) as error:
        report["damaged"] = str(error)
    for writer, target in zip(writers, targets, strict=True):
        if writer is not None:
            writer.close()
            partial = Path(f"{target}.partial")
            if report["damaged"]:
                partial.unlink()
            else:
                partial.replace(target)
    return report | {"skipped": dict(skipped)}


def chunks(citations: Iterator[Citation], source: str, number: int) -> Iterator[list[Citation]]:
    """Rows of ``DEALT`` in lists that fit the memory. ``number``: the file's place in the order of all."""
    chunk: list[Citation] = []
    characters = 0
    for place, citation in enumerate(citations):
        chunk.append(citation | {"source_file": source, "file": number, "place": place})
        characters += len(citation.get("title", "")) + 2 * len(citation.get("abstract", ""))  # as text and as sections
        if len(chunk) == ROWS_AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _merge(folder: Path, require: tuple[str, ...], terminal: TextIO) -> tuple[Counter[str], dict[str, dict[str, Any]]]:
    """Counts, and of each descriptor, by its UI, the name and the number of documents that have it."""
    buckets = [{"bucket": str(path)} for path in sorted((folder / "dealt").iterdir()) if any(path.iterdir())]
    merged = ray.data.from_items(buckets, override_num_blocks=len(buckets)).map(
        merge_bucket, fn_kwargs={"folder": str(folder), "require": list(require)}
    )
    counts: Counter[str] = Counter()
    descriptors: dict[str, dict[str, Any]] = {}
    with progress_bar(terminal, "ingest: written", len(buckets), unit=" parts") as bar:
        for row in merged.iter_rows():
            bar.update()
            counts.update({key: value or 0 for key, value in row["counts"].items()})
            for ui, name, number in zip(row["uis"], row["names"], row["documents"], strict=True):
                entry = descriptors.setdefault(ui, {"name": name, "documents": 0})
                entry |= {"name": max(entry["name"], name), "documents": entry["documents"] + number}
    shutil.rmtree(folder / "dealt")
    return counts, descriptors


def merge_bucket(item: dict[str, Any], folder: str, require: list[str]) -> dict[str, Any]:
    """Write one bucket's documents: latest version of each PMID, not deleted, filtered, sorted by PMID."""
    bucket = Path(item["bucket"])
    table = pa.concat_tables([pq.read_table(part, schema=DEALT) for part in sorted(bucket.glob("*.parquet"))])
    kept_rows, num_deleted = latest_rows(table)
    documents = table.take(pa.array(kept_rows))
    num_citations = table.num_rows - (pc.sum(table["deleted"]).as_py() or 0)
    counts = {
        "citations": num_citations,
        "deleted": num_deleted,
        "superseded": num_citations - num_deleted - documents.num_rows,
    }
    for name in require:
        kept = documents.filter(_has(documents, name))
        counts[f"no_{name}"] = documents.num_rows - kept.num_rows
        documents = kept
    counts["documents"] = documents.num_rows
    counts["with_mesh"] = pc.sum(_has(documents, "mesh")).as_py() or 0
    if documents.num_rows:
        with atomic_file(Path(folder, f"part-{bucket.name}.parquet")) as partial:
            pq.write_table(documents.select(DOCUMENTS.names), partial, compression="zstd", row_group_size=ROW_GROUP)
    headings = pa.Table.from_struct_array(pc.list_flatten(documents["mesh"].combine_chunks()))
    descriptors = headings.group_by("ui").aggregate([("ui", "count"), ("name", "max")])
    columns = {"uis": "ui", "names": "name_max", "documents": "ui_count"}
    return {"counts": counts, **{key: descriptors[column].to_pylist() for key, column in columns.items()}}


def latest_rows(table: pa.Table) -> tuple[np.ndarray, int]:
    """The rows to keep, sorted by PMID, and how many citations a ``DeleteCitation`` removed.

    Of one version of a PMID the later file and place wins, also a deletion over what came before it; of several
    versions that are left the highest wins.
    """
    pmid, version, file, place = (table[name].to_numpy() for name in ("pmid", "version", "file", "place"))
    order = np.lexsort((place, file, version, pmid))
    pmid, version, deleted = pmid[order], version[order], table["deleted"].to_numpy()[order]
    last_of_version = np.append((pmid[1:] != pmid[:-1]) | (version[1:] != version[:-1]), True)
    group = np.concatenate([[0], np.cumsum(last_of_version)[:-1]])
    group_deleted = deleted[last_of_version]
    num_deleted = int((group_deleted[group] & ~deleted).sum())
    alive = np.flatnonzero(last_of_version)[~group_deleted]
    highest = np.append(pmid[alive][1:] != pmid[alive][:-1], True) if len(alive) else np.zeros(0, dtype=bool)
    return order[alive[highest]], num_deleted


def _has(documents: pa.Table, name: str) -> pa.Array:
    lengths = pc.list_value_length(documents["mesh"]) if name == "mesh" else pc.utf8_length(documents["abstract"])
    return pc.fill_null(pc.greater(lengths, 0), False)
