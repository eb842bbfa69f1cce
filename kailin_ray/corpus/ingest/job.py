"""PubMed XML to a folder of documents, as two streaming Ray Data passes; and again, with files that came since.

First a task a file parses it (``parse.py``); then a task a bucket of PMIDs takes what is known of them, and what the
new files say, to the documents (``merge.py``). A bucket is all that is ever in memory; the driver sees counts only.
Buckets of which the new files say nothing are not touched. A job that is killed goes on with the files that were
parsed.
"""

import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, TextIO

import ray

from kailin_ray import __version__
from kailin_ray.config import IngestConfig, settings
from kailin_ray.corpus.documents import Descriptors, Manifest, add_descriptors, noted, write_descriptors
from kailin_ray.corpus.ingest.merge import merge_bucket
from kailin_ray.corpus.ingest.parse import BUCKET_BITS, deal_file
from kailin_ray.corpus.sources.resolve import reading
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, updating, write_json
from kailin_ray.io.terminal import progress_bar
from kailin_ray.runtime.tasks import each

ROWS_PER_BUCKET = 1 << 14
"""Citations of a bucket, at least on average: of a small corpus from all over PubMed a bucket is a wider range."""
MAX_ROWS_PER_BUCKET = 1 << 17
"""More would fill the memory: 131,072 citations take about 1.7 GB to merge (measured: 72,000 in 0.95 GB)."""


def new_files(files: list[Path], read: dict[str, Any], made: Manifest | None) -> list[Path]:
    """Those of ``files`` that the documents do not know yet, by name. ``read``: how, as ``resolve.reading`` says.

    Raises ``ConfigError`` for one that has changed since it was taken, or was read in another way.
    """
    taken = {file["name"]: file for file in made["files"]} if made else {}
    for file in files:
        if file.name not in taken:
            continue
        before = taken[file.name]
        if before["bytes"] != file.stat().st_size:
            raise ConfigError(
                f"source.path: {file} has {file.stat().st_size:,} bytes, and had {before['bytes']:,} when it was "
                "taken; to read it anew, make the documents anew"
            )
        if before.get("columns") != read.get("columns"):
            raise ConfigError(
                f"source.columns: {file} was taken with other columns ({before.get('columns')}); to read it anew, make "
                "the documents anew"
            )
    return [file for file in files if file.name not in taken]


def make_documents(config: IngestConfig, files: list[Path], made: Manifest | None, terminal: TextIO) -> Manifest:
    """Take new files into the folder of documents; return its manifest. Needs a Ray session.

    Raises ``ConfigError`` where no file could be read or no document is left; the folder is then as it was.
    """
    started = time.monotonic()
    out = config.out.absolute()
    dealt = out.with_name(f".{out.name}.dealt")
    dealt.mkdir(parents=True, exist_ok=True)
    try:
        reports = _deal(files, reading(config.source), dealt, terminal)
        damaged = [str(report["damaged"]) for report in reports if report["damaged"]]
        reports = [report for report in reports if not report["damaged"]]
        if not reports and made:
            shutil.rmtree(dealt)
            return made | {"damaged": damaged}
        if not reports:
            raise ConfigError(f"source.path: no file could be read: {damaged[0]}")
        if not made and not any(report["buckets"] for report in reports):
            raise ConfigError(f"source.path: no citation in {len(files)} files, the first of them {files[0]}")
        bits = made["bucket_bits"] if made else _bucket_bits(reports)
        _check_size(out, reports, bits, made)
        with updating(out) as folder:
            merged = _merge(reports, dealt, out, folder, bits, made, terminal)
            manifest = _manifest(reports, made, merged, round(time.monotonic() - started, 1))
            manifest |= {"damaged": damaged, "bucket_bits": bits, "config": settings(config)}
            write_json(folder / "manifest.json", manifest)
    except ConfigError:
        shutil.rmtree(dealt)
        raise
    shutil.rmtree(dealt)
    return manifest


def _manifest(
    reports: list[dict[str, Any]], made: Manifest | None, merged: dict[str, Any], seconds: float
) -> dict[str, Any]:
    total = merged["counts"]
    if not total["documents"]:
        raise ConfigError(f"source.path: no document is left of {total['citations']:,} citations")
    skipped: Counter[str] = Counter(made["num_skipped"] if made else {})
    for report in reports:
        skipped.update(report["skipped"])
    kept = ("name", "bytes", "sha256", "columns")
    files = [{key: report[key] for key in kept if report[key] is not None} for report in reports]
    update = {"files": len(files), "parts": merged["parts"], "seconds": seconds, "changes": merged["changes"]}
    return {
        **noted("ingest", made, update),
        "num_documents": total["documents"],
        "num_with_mesh": total["with_mesh"],
        "num_citations": total["citations"],
        "num_left_out": {
            "superseded": total["citations"] - total["documents"] - total["deleted"],
            "deleted": total["deleted"],
        },
        "num_skipped": dict(skipped),
        "files": [*(made["files"] if made else []), *files],
        "versions": {"kailin_ray": __version__, "ray": ray.__version__},
    }


def _bucket_bits(reports: list[dict[str, Any]]) -> int:
    """How many bits of a PMID a bucket of a new corpus holds; it stays so for good."""
    at_most = max(1, sum(report["citations"] for report in reports) // ROWS_PER_BUCKET)
    buckets = {bucket for report in reports for bucket in report["buckets"]}
    bits = BUCKET_BITS
    while len(buckets) > at_most and bits < 62:
        buckets = {bucket >> 1 for bucket in buckets}
        bits += 1
    return bits


def _check_size(out: Path, reports: list[dict[str, Any]], bits: int, made: Manifest | None) -> None:
    """Raise ``ConfigError`` where a corpus that was made small is to become too large for its buckets."""
    buckets = {bucket >> (bits - BUCKET_BITS) for report in reports for bucket in report["buckets"]}
    buckets |= {int(part.stem.removeprefix("part-")) for part in out.glob("part-*.parquet")}
    rows = sum(report["citations"] for report in reports) + (made["num_documents"] if made else 0)
    if bits > BUCKET_BITS and rows > MAX_ROWS_PER_BUCKET * len(buckets):
        raise ConfigError(
            f"out: {out} was made for few documents, in parts of {1 << bits:,} PMIDs each; for {rows:,} make another, "
            "from all files at once"
        )


def _deal(files: list[Path], read: dict[str, Any], dealt: Path, terminal: TextIO) -> list[dict[str, Any]]:
    reports = []
    with progress_bar(terminal, "ingest: read", sum(file.stat().st_size for file in files), unit="B") as bar:
        for report in each(deal_file, [{"path": str(file)} | read for file in files], {"dealt": str(dealt)}):
            bar.update(report["bytes"])
            reports.append(report)
    return sorted(reports, key=lambda report: str(report["name"]))


def _merge(
    reports: list[dict[str, Any]],
    dealt: Path,
    out: Path,
    folder: Path,
    bits: int,
    made: Manifest | None,
    terminal: TextIO,
) -> dict[str, Any]:
    """``counts`` of all documents, ``changes``, and how many ``parts`` were made anew."""
    files: dict[int, list[str]] = defaultdict(list)
    for report in reports:
        for bucket in {bucket >> (bits - BUCKET_BITS) for bucket in report["buckets"]}:
            files[bucket].append(str(dealt / f"{report['name']}.parquet"))
    items = [{"bucket": one, "bits": bits, "dealt": files[one]} for one in sorted(files)]
    counts: Counter[str] = Counter(citations=sum(report["citations"] for report in reports))
    descriptors: Descriptors = {}
    if made:
        counts.update({"documents": made["num_documents"], "with_mesh": made["num_with_mesh"]})
        counts.update({"citations": made["num_citations"], "deleted": made["num_left_out"]["deleted"]})
        descriptors = read_json(out / "descriptors.json")
    changes: Counter[str] = Counter()
    keys = {"out": str(out), "folder": str(folder), "number": len(made["updates"]) + 1 if made else 1}
    with progress_bar(terminal, "ingest: written", len(items), unit=" parts") as bar:
        for report in each(merge_bucket, items, keys):
            counts.update(report["counts"])
            changes.update(report["changes"])
            add_descriptors(descriptors, report["descriptors"])
            bar.update()
    write_descriptors(folder, descriptors)
    return {"counts": counts, "changes": dict(changes), "parts": len(items)}
