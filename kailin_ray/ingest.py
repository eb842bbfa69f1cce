"""PubMed XML to ``documents/*.parquet``, as two streaming Ray Data passes; and again, with files that came since.

First a task a file parses it (``deal.py``); then a task a bucket of PMIDs takes what is known of them, and what the new
files say, to the documents (``merge.py``). A bucket is all that is ever in memory; the driver sees counts only. Buckets
of which the new files say nothing are not touched.

The new parts are made beside the folder and take their places when all of them are whole: until then the folder is as
it was. A job that is killed goes on with the files that were parsed.
"""

import json
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, TextIO

import ray

from kailin_ray import __version__
from kailin_ray.config import ConfigError, IngestConfig, settings
from kailin_ray.deal import deal_file
from kailin_ray.files import atomic_folder, read_json, write_json
from kailin_ray.merge import merge_bucket
from kailin_ray.progress import progress_bar
from kailin_ray.sources import reading

FORMAT = 4
"""Of the folder that is made; to be raised with it."""

Manifest = dict[str, Any]


def made_documents(out: Path) -> Manifest | None:
    """The manifest of the documents that are in ``out``, None where there are none yet.

    An update that was stopped while its parts took their places is finished. Raises ``ConfigError`` if ``out`` holds
    something else.
    """
    _finish(out)
    if (out / "manifest.json").exists():
        manifest: Manifest = read_json(out / "manifest.json")
        if manifest.get("kind") != "documents":
            raise ConfigError(f"out: {out} holds {manifest.get('kind')}, not documents; choose another")
        if manifest.get("format") != FORMAT:
            raise ConfigError(f"out: {out} was made by another version of kailin_ray; remove it, or choose another")
        return manifest
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out: {out} exists and is not a folder of documents; choose another")
    return None


def new_files(files: list[Path], made: Manifest | None) -> list[Path]:
    """Those of ``files`` that the documents do not know yet, by name.

    Raises ``ConfigError`` for one that has changed since it was taken.
    """
    taken = {file["name"]: file["bytes"] for file in made["files"]} if made else {}
    for file in files:
        if taken.get(file.name, file.stat().st_size) != file.stat().st_size:
            raise ConfigError(
                f"source.path: {file} has {file.stat().st_size:,} bytes, and had {taken[file.name]:,} when it was "
                "taken; to read it anew, make the documents anew"
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
    reports = _deal(files, reading(config.source), dealt, terminal)
    damaged = [str(report["damaged"]) for report in reports if report["damaged"]]
    reports = [report for report in reports if not report["damaged"]]
    try:
        if not reports:
            raise ConfigError(f"source.path: no file could be read: {damaged[0]}")
        if not made and not any(report["buckets"] for report in reports):
            raise ConfigError(f"source.path: no citation in {len(files)} files, the first of them {files[0]}")
        with atomic_folder(_update(out)) as folder:
            number = len(made["updates"]) + 1 if made else 1
            total, changes, num_parts = _merge(reports, dealt, out, folder, number, made, terminal)
            if not total["documents"]:
                raise ConfigError(f"source.path: no document is left of {total['citations']:,} citations")
            update = {"files": len(reports), "parts": num_parts, "seconds": round(time.monotonic() - started, 1)}
            manifest = {
                "kind": "documents",
                "format": FORMAT,
                "num_documents": total["documents"],
                "num_with_mesh": total["with_mesh"],
                "num_citations": total["citations"],
                "num_left_out": {
                    "superseded": total["citations"] - total["documents"] - total["deleted"],
                    "deleted": total["deleted"],
                },
                "num_skipped": dict(sum((Counter(report["skipped"]) for report in reports), _skipped(made))),
                "damaged": damaged,
                "updates": [*(made["updates"] if made else []), update | {"changes": changes}],
                "files": [
                    *(made["files"] if made else []),
                    *({key: report[key] for key in ("name", "bytes", "sha256")} for report in reports),
                ],
                "versions": {"kailin_ray": __version__, "ray": ray.__version__},
                "config": settings(config),
            }
            write_json(folder / "manifest.json", manifest)
    finally:
        if not damaged or not reports:
            shutil.rmtree(dealt, ignore_errors=True)
    _finish(out)
    shutil.rmtree(dealt, ignore_errors=True)
    return manifest


def _update(out: Path) -> Path:
    return out.with_name(f".{out.name}.update")


def _finish(out: Path) -> None:
    """Let the parts of a whole update take their places, the manifest last: without it the folder counts for nothing.

    Stopped between two of them, it goes on with the others.
    """
    update = _update(out.absolute())
    if not update.is_dir():
        return
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        update.replace(out)
        return
    (out / "manifest.json").unlink(missing_ok=True)
    files = [file for file in update.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: file.name == "manifest.json"):
        target = out / file.relative_to(update)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(update)


def _skipped(made: Manifest | None) -> Counter[str]:
    return Counter(made["num_skipped"]) if made else Counter()


def _deal(files: list[Path], read: dict[str, Any], dealt: Path, terminal: TextIO) -> list[dict[str, Any]]:
    items = [{"item": json.dumps({"path": str(file)} | read)} for file in files]
    parsed = ray.data.from_items(items, override_num_blocks=len(items)).map(_dealt, fn_kwargs={"dealt": str(dealt)})
    reports = []
    with progress_bar(terminal, "ingest: read", sum(file.stat().st_size for file in files), unit="B") as bar:
        for row in parsed.iter_rows():
            report = json.loads(row["report"])
            bar.update(report["bytes"])
            reports.append(report)
    return sorted(reports, key=lambda report: str(report["name"]))


def _dealt(item: dict[str, str], dealt: str) -> dict[str, str]:
    # As text: rows of one column's dicts would have to agree on their keys.
    return {"report": json.dumps(deal_file(json.loads(item["item"]), dealt))}


def _merge(
    reports: list[dict[str, Any]],
    dealt: Path,
    out: Path,
    folder: Path,
    number: int,
    made: Manifest | None,
    terminal: TextIO,
) -> tuple[Counter[str], dict[str, int], int]:
    """Counts of all documents, how many changed in which way, and how many parts were made anew."""
    files: dict[int, list[str]] = defaultdict(list)
    for report in reports:
        for bucket in report["buckets"]:
            files[bucket].append(str(dealt / f"{report['name']}.parquet"))
    items = [{"item": json.dumps({"bucket": bucket, "dealt": files[bucket]})} for bucket in sorted(files)]
    total: Counter[str] = Counter(citations=sum(report["citations"] for report in reports))
    descriptors: dict[str, dict[str, Any]] = {}
    if made:
        total.update({"documents": made["num_documents"], "with_mesh": made["num_with_mesh"]})
        total.update({"citations": made["num_citations"], "deleted": made["num_left_out"]["deleted"]})
        descriptors = read_json(out / "descriptors.json")
    changes: Counter[str] = Counter()
    if items:
        keys = {"out": str(out), "folder": str(folder), "number": number}
        merged = ray.data.from_items(items, override_num_blocks=len(items)).map(_merged, fn_kwargs=keys)
        with progress_bar(terminal, "ingest: written", len(items), unit=" parts") as bar:
            for row in merged.iter_rows():
                report = json.loads(row["report"])
                total.update(report["counts"])
                changes.update(report["changes"])
                for one in report["descriptors"]:
                    entry = descriptors.setdefault(one["ui"], {"name": one["name"], "documents": 0})
                    entry |= {
                        "name": max(entry["name"], one["name"]),
                        "documents": entry["documents"] + one["documents"],
                    }
                bar.update()
    kept = {ui: entry for ui, entry in sorted(descriptors.items()) if entry["documents"]}
    write_json(folder / "descriptors.json", kept)
    return total, dict(changes), len(items)


def _merged(item: dict[str, str], out: str, folder: str, number: int) -> dict[str, str]:
    return {"report": json.dumps(merge_bucket(json.loads(item["item"]), out, folder, number))}
