"""Ingest citation files into a folder of documents, or update the folder with new files, in two streaming passes.

First, one task per file parses it (``parse.py``). Then, one task per bucket of PMIDs merges the bucket's documents with
the new rows (``merge.py``). No task holds more than one bucket in memory, and the driver sees only counts. Buckets
without new rows are not touched. After a job was killed, the same command reuses the files that were parsed.
"""

import json
import logging
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from kailin_ray import __version__
from kailin_ray.config import IngestConfig, settings
from kailin_ray.corpus.changes import format_update
from kailin_ray.corpus.documents import (
    Descriptors,
    Documents,
    DocumentsManifest,
    DocumentsUpdate,
    SourceFile,
    add_descriptors,
    new_identity,
    resume_documents,
    write_descriptors,
)
from kailin_ray.corpus.ingest.merge import BucketItem, merge_bucket
from kailin_ray.corpus.ingest.parse import BUCKET_BITS, FileItem, FileReport, deal_file, find_damage
from kailin_ray.corpus.readers.pubmed_xml import UNESCAPED
from kailin_ray.corpus.sources.resolve import source_files, table_columns
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, updating
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import write_manifest
from kailin_ray.io.storage import log_file
from kailin_ray.io.terminal import progress_bar, terminal

logger = logging.getLogger(__name__)

ROWS_PER_BUCKET = 1 << 14
"""Minimum average number of citations per bucket. If a small corpus is spread over PubMed, its buckets cover wider
ranges."""
MAX_ROWS_PER_BUCKET = 1 << 17
"""Maximum average. More would fill the memory: 131,072 citations take about 1.7 GB to merge (measured: 72,000 in 0.95
GB)."""


@dataclass(frozen=True, kw_only=True)
class IngestResult:
    """The result of ``ingest``."""

    documents: Documents
    num_known: int | None
    """Number of files in the documents but not in the source, if there was no new file; else None."""
    updated: bool
    """Whether existing documents were updated."""
    damaged: tuple[str, ...]
    """Why files were left out, one message per file."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The result of the second pass."""

    counts: Counter[str]
    """Totals including existing documents: documents, with_mesh, citations, deleted."""
    changes: dict[str, int]
    parts: int


def ingest(config: IngestConfig) -> IngestResult:
    """Ingest a source into new or existing documents.

    Raises ``ConfigError`` if no file could be read or no document is left; the folder then does not change. Raises
    ``CommandFailedError`` if Ray fails.
    """
    with hold_lock(config.out):
        existing = resume_documents(config.out, "ingest")
        files = source_files(config.source, config.out, terminal())
        columns = table_columns(config.source)
        known = existing.manifest.files if existing else ()
        fresh = new_files(files, columns, known)
        if existing and not fresh:
            return IngestResult(documents=existing, num_known=len(known) - len(files), updated=False, damaged=())
        damaged = _find_all_damaged(fresh, columns)
        if damaged and existing:
            return IngestResult(documents=existing, num_known=None, updated=False, damaged=damaged)
        if damaged:
            raise ConfigError(f"source.path: no file could be read: {damaged[0]}")
        from kailin_ray.runtime.faults import one_line_faults
        from kailin_ray.runtime.session import ray_session

        log = log_file(config.out)
        with one_line_faults(log), ray_session(config.cluster, log) as shown:
            return make_documents(config, fresh, existing, shown)


def format_ingest(result: IngestResult) -> str:
    """Return a summary of the documents for people."""
    documents, manifest = result.documents, result.documents.manifest
    lines = []
    if result.num_known is not None:
        lines.append(f"{documents.path}: made already, from these files and {result.num_known} others")
    left_out = ", ".join(f"{number:,} {name}" for name, number in manifest.num_left_out.items() if number)
    lines.append(
        f"{documents.path}: {manifest.num_documents:,} documents ({manifest.num_with_mesh:,} with MeSH headings) of "
        f"{manifest.num_citations:,} citations" + (f"; left out: {left_out}" if left_out else "")
    )
    if result.updated:
        lines.append(format_update(manifest))
    if manifest.num_skipped:
        lines.append("records that are not citations: " + json.dumps(manifest.num_skipped))
    if manifest.num_unescaped:
        lines.append(f"citations whose texts were escaped twice, and are unescaped: {manifest.num_unescaped:,}")
    return "\n".join(lines)


def new_files(files: list[Path], columns: dict[str, str] | None, known: Sequence[SourceFile]) -> list[Path]:
    """Return the ``files`` that the documents do not have yet, compared by name. ``columns`` are those of tables.

    Raises ``ConfigError`` for a file that has changed since it was ingested, or was read with other columns.
    """
    ingested = {file.name: file for file in known}
    for file in files:
        if file.name not in ingested:
            continue
        before = ingested[file.name]
        if before.bytes != file.stat().st_size:
            raise ConfigError(
                f"source.path: {file} has {file.stat().st_size:,} bytes, but had {before.bytes:,} when it was "
                "ingested; to read it again, create the documents from scratch"
            )
        if before.columns != columns:
            raise ConfigError(
                f"source.columns: {file} was ingested with other columns ({before.columns}); to read it again, create "
                "the documents from scratch"
            )
    return [file for file in files if file.name not in ingested]


def _find_all_damaged(files: list[Path], columns: dict[str, str] | None) -> tuple[str, ...]:
    """Return why each file cannot be read. Return nothing if one of them can be read, since the job then has work."""
    messages = []
    for file in files:
        message = find_damage(file, columns)
        if not message:
            return ()
        messages.append(message)
    return tuple(messages)


def make_documents(config: IngestConfig, files: list[Path], made: Documents | None, shown: TextIO) -> IngestResult:
    """Ingest new files into the folder of documents. Needs a Ray session. Raises the same errors as ``ingest``."""
    started = time.monotonic()
    out = config.out.absolute()
    dealt = out.with_name(f".{out.name}.dealt")
    dealt.mkdir(parents=True, exist_ok=True)
    try:
        reports = _deal(files, table_columns(config.source), dealt, shown)
        damaged = tuple(report["damaged"] for report in reports if report["damaged"])
        reports = [report for report in reports if not report["damaged"]]
        logger.info("%s: %d files parsed, %d damaged", config.out, len(reports), len(damaged))
        if not reports and made:
            shutil.rmtree(dealt)
            return IngestResult(documents=made, num_known=None, updated=False, damaged=damaged)
        if not reports:
            raise ConfigError(f"source.path: no file could be read: {damaged[0]}")
        if not made and not any(report["buckets"] for report in reports):
            raise ConfigError(f"source.path: no citation in {len(files)} files, the first of them {files[0]}")
        bits = (made.manifest.bucket_bits if made else None) or _bucket_bits(reports)
        _check_size(out, reports, bits, made.manifest.num_documents if made else 0)
        with updating(out) as folder:
            merged = _merge(reports, dealt, out, folder, bits, made, shown)
            seconds = round(time.monotonic() - started, 1)
            manifest = _manifest(config, reports, made, merged, bits, damaged, seconds)
            write_manifest(folder, manifest)
    except ConfigError:
        shutil.rmtree(dealt)
        raise
    shutil.rmtree(dealt)
    documents = Documents(config.out, manifest)
    return IngestResult(documents=documents, num_known=None, updated=made is not None, damaged=damaged)


def _manifest(
    config: IngestConfig,
    reports: list[FileReport],
    existing: Documents | None,
    merged: Merged,
    bits: int,
    damaged: tuple[str, ...],
    seconds: float,
) -> DocumentsManifest:
    import ray

    total, before = merged.counts, existing.manifest if existing else None
    if not total["documents"]:
        raise ConfigError(f"source.path: none of {total['citations']:,} citations became a document")
    skipped: Counter[str] = Counter(before.num_skipped if before else {})
    for report in reports:
        skipped.update(report["skipped"])
    num_unescaped = skipped.pop(UNESCAPED, 0) + (before.num_unescaped if before else 0)
    files = [
        SourceFile(name=report["name"], bytes=report["bytes"], sha256=report["sha256"], columns=report["columns"])
        for report in reports
    ]
    update = DocumentsUpdate(files=len(files), parts=merged.parts, seconds=seconds, changes=merged.changes)
    return DocumentsManifest(
        maker="ingest",
        id=before.id if before else new_identity(),
        updates=(*(before.updates if before else ()), update),
        num_documents=total["documents"],
        num_with_mesh=total["with_mesh"],
        num_citations=total["citations"],
        num_left_out={
            "superseded": total["citations"] - total["documents"] - total["deleted"],
            "deleted": total["deleted"],
        },
        num_skipped=dict(skipped),
        num_unescaped=num_unescaped,
        files=(*(before.files if before else ()), *files),
        versions={"kailin_ray": __version__, "ray": ray.__version__},
        damaged=damaged,
        bucket_bits=bits,
        config=settings(config),
    )


def _bucket_bits(reports: Sequence[FileReport]) -> int:
    """Return the bits of a bucket of a new corpus, which then never change: a bucket covers ``2**bits`` PMIDs."""
    max_buckets = max(1, sum(report["citations"] for report in reports) // ROWS_PER_BUCKET)
    buckets = {bucket for report in reports for bucket in report["buckets"]}
    bits = BUCKET_BITS
    while len(buckets) > max_buckets and bits < 62:
        buckets = {bucket >> 1 for bucket in buckets}
        bits += 1
    return bits


def _check_size(out: Path, reports: Sequence[FileReport], bits: int, num_before: int) -> None:
    """Raise ``ConfigError`` if a corpus that began small would become too large for its buckets."""
    buckets = {bucket >> (bits - BUCKET_BITS) for report in reports for bucket in report["buckets"]}
    buckets |= {int(part.stem.removeprefix("part-")) for part in out.glob("part-*.parquet")}
    rows = sum(report["citations"] for report in reports) + num_before
    if bits > BUCKET_BITS and rows > MAX_ROWS_PER_BUCKET * len(buckets):
        raise ConfigError(
            f"out: {out} was made for few documents, in parts of {1 << bits:,} PMIDs each; for {rows:,}, create a new "
            "folder from all files at once"
        )


def _deal(files: list[Path], columns: dict[str, str] | None, dealt: Path, shown: TextIO) -> list[FileReport]:
    from kailin_ray.runtime.tasks import each

    reports = []
    items: list[FileItem] = [{"path": str(file)} for file in files]
    if columns is not None:
        items = [{"path": str(file), "columns": columns} for file in files]
    with progress_bar(shown, "ingest: read", sum(file.stat().st_size for file in files), unit="B") as bar:
        for report in each(deal_file, items, {"dealt": str(dealt)}):
            bar.update(report["bytes"])
            reports.append(report)
    return sorted(reports, key=lambda report: report["name"])


def _merge(
    reports: list[FileReport],
    dealt: Path,
    out: Path,
    folder: Path,
    bits: int,
    existing: Documents | None,
    shown: TextIO,
) -> Merged:
    from kailin_ray.runtime.tasks import each

    files: dict[int, list[str]] = defaultdict(list)
    for report in reports:
        for bucket in {bucket >> (bits - BUCKET_BITS) for bucket in report["buckets"]}:
            files[bucket].append(str(dealt / f"{report['name']}.parquet"))
    items: list[BucketItem] = [{"bucket": bucket, "bits": bits, "dealt": files[bucket]} for bucket in sorted(files)]
    counts: Counter[str] = Counter(citations=sum(report["citations"] for report in reports))
    descriptors: Descriptors = {}
    if existing:
        before = existing.manifest
        counts.update({"documents": before.num_documents, "with_mesh": before.num_with_mesh})
        counts.update({"citations": before.num_citations, "deleted": before.num_left_out["deleted"]})
        descriptors = read_json(out / "descriptors.json")
    changes: Counter[str] = Counter()
    number = len(existing.manifest.updates) + 1 if existing else 1
    keys = {"out": str(out), "folder": str(folder), "number": number}
    with progress_bar(shown, "ingest: written", len(items), unit=" parts") as bar:
        for bucket_report in each(merge_bucket, items, keys):
            counts.update(bucket_report["counts"])
            changes.update(bucket_report["changes"])
            add_descriptors(descriptors, bucket_report["descriptors"])
            bar.update()
    write_descriptors(folder, descriptors)
    return Merged(counts=counts, changes=dict(changes), parts=len(items))
