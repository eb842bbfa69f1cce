"""``select``: the documents of a corpus that are worked on: filtered, without doubles and benchmarks' texts, sampled.

::

    documents/
      part-<bucket>.parquet ...          as updates.py says, with what the last update changed
      removed/part-<bucket>.parquet      every other document of the corpus: pmid, reason, detail
      descriptors.json                   the corpus' own: what is rare, and informative, the corpus says
      sampling.png                       of a sample: the branches of MeSH before and after

Each document is judged by itself, doubles are found (of a benchmark's abstract, too), a sample is drawn, and what stays
is written: each a pass of tasks (``tasks.py``) of which one has a part, or a range of buckets, in its memory. The same
corpus and settings always give the same documents.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import ray

from kailin_ray import __version__
from kailin_ray.config import SelectConfig, settings
from kailin_ray.corpus.changes import told_update
from kailin_ray.corpus.documents import Manifest, noted
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.corpus.selection.sampling import Design
from kailin_ray.corpus.selection.tasks import (
    draw_sample,
    judge_part,
    pair_range,
    settle_doubles,
    sketch_part,
    write_part_of,
)
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import sha256, updating, write_json
from kailin_ray.io.terminal import progress_bar
from kailin_ray.mesh.headings import subtree
from kailin_ray.mesh.load import load_mesh
from kailin_ray.runtime.tasks import each
from kailin_ray.schema import REMOVED

DOCUMENTS_PER_RANGE = 500_000
"""Documents whose buckets are compared by one task, in about 1 GB of memory; of more, ranges of buckets are."""

Paths = dict[str, str]


def made_from(config: SelectConfig, corpus: Manifest) -> dict[str, Any]:
    """What a selection is made from: which corpus, at which update, and every setting that says what is chosen."""
    chosen = settings(config)
    asked = ("filters", "duplicates", "subtree", "subtree_major", "sample", "tolerate_orphans")
    return {
        "corpus": corpus["id"],
        "corpus_updates": len(corpus["updates"]),
        "mesh": sha256(config.mesh) if config.mesh else None,
        "benchmarks": [sha256(path) for path in config.benchmarks],
        **{name: chosen[name] for name in asked},
    }


def up_to_date(config: SelectConfig, corpus: Manifest, made: Manifest | None) -> bool:
    """Whether ``out``, with the manifest ``made``, holds what is asked for already.

    Raises ``ConfigError`` where it holds a selection from another corpus or with other settings, for files that are not
    there, and for settings that want a MeSH hierarchy without one.
    """
    if config.corpus.resolve() == config.out.resolve():
        raise ConfigError(f"out: {config.out} is the corpus itself; choose another")
    if config.mesh is None and (config.subtree or config.sample.num is not None):
        key = "subtree" if config.subtree else "sample.num"
        raise ConfigError(f"mesh: missing; {key} needs the hierarchy: give it as mesh=…")
    for key, path in (("mesh", config.mesh), *(("benchmarks", path) for path in config.benchmarks)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{key}: {path} does not exist")
    if made is None:
        return False
    before, now = made["made_from"], made_from(config, corpus)
    changed = [name for name in now if name != "corpus_updates" and before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"out: {config.out} was selected with another {changed[0]} ({before.get(changed[0])!r}, now "
            f"{now[changed[0]]!r}); choose another out="
        )
    return bool(before == now)


def select(config: SelectConfig, corpus: Manifest, made: Manifest | None, terminal: TextIO) -> Manifest:
    """Make the folder of selected documents, or what of it is to change; return its manifest. Needs a Ray session.

    Raises ``ConfigError`` for a benchmark or hierarchy that cannot be read, and where nothing is left; the folder is
    then as it was.
    """
    started = time.monotonic()
    out = config.out.absolute()
    scratch = out.with_name(f".{out.name}.select")
    shutil.rmtree(scratch, ignore_errors=True)
    parts = sorted({part.name for place in (".", "removed") for part in (config.corpus / place).glob("part-*.parquet")})
    paths = {"corpus": str(config.corpus.absolute()), "scratch": str(scratch)}
    try:
        benchmarks = Benchmarks.load(config.benchmarks) if config.benchmarks else None
        mesh = _mesh(config)
        keys = {**paths, "config": config, "mesh": mesh, "benchmarks": ray.put(benchmarks)}
        num_staying = sum(one["staying"] for one in _shown(judge_part, parts, keys, "judged", terminal))
        if config.duplicates.jaccard is not None and num_staying:
            _find_doubles(parts, num_staying, str(scratch), config.duplicates.jaccard, terminal)
        sample = _draw(config, parts, paths, mesh) if config.sample.num is not None and num_staying else None
        with updating(out) as folder:
            written = _write(parts, paths | {"out": str(out), "folder": str(folder)}, made, terminal)
            if not written["documents"]:
                left_out = ", ".join(f"{number:,} {name}" for name, number in written["removed"].items())
                raise ConfigError(f"corpus: no document of {config.corpus} is left: {left_out}")
            shutil.copyfile(config.corpus / "descriptors.json", folder / "descriptors.json")
            if sample:
                _picture(sample, folder)
            seconds = round(time.monotonic() - started, 1)
            manifest = _manifest(config, corpus, made, written, seconds) | {"sample": sample}
            write_json(folder / "manifest.json", manifest)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def summary(out: Path, manifest: Manifest) -> str:
    """What a selection holds and what it left out, as a person reads it."""
    lines = [
        f"{out}: {manifest['num_documents']:,} documents ({manifest['num_with_mesh']:,} with MeSH headings) of "
        f"{manifest['num_considered']:,}"
    ]
    lines += [
        f"  {manifest['num_removed'][name]:>10,}  {name}: {meaning}"
        for name, meaning in REMOVED.items()
        if manifest["num_removed"].get(name)
    ]
    if manifest["sample"]:
        level = manifest["sample"]["categories"]
        lines.append(
            f"sample      reaches {level['num_reached']} of {level['num_in_corpus']} second-level MeSH branches"
        )
        largest = level["largest_share"]
        lines[-1] += f"; the largest has {largest['after']:.1%} of its documents, before {largest['before']:.1%}"
    if len(manifest["updates"]) > 1:
        lines.append(told_update(manifest))
    return "\n".join(lines)


def _mesh(config: SelectConfig) -> Any:
    """A reference to the hierarchy and which of its descriptors are in the subtree, each None where not asked for."""
    if config.mesh is None:
        return ray.put((None, None))
    hierarchy, _ = load_mesh(config.mesh, config.tolerate_orphans, config.corpus)
    return ray.put((hierarchy, subtree(hierarchy, config.subtree) if config.subtree else None))


def _shown(task: Any, items: list[Any], keys: dict[str, Any], done: str, terminal: TextIO) -> Iterator[dict[str, Any]]:
    with progress_bar(terminal, f"select: {done}", len(items), unit=" parts") as bar:
        for report in each(task, items, keys):
            bar.update()
            yield report


def _find_doubles(parts: list[str], num_staying: int, scratch: str, jaccard: float, terminal: TextIO) -> None:
    num_ranges = math.ceil(num_staying / DOCUMENTS_PER_RANGE)
    keys = {"scratch": scratch, "parts": parts, "num_ranges": num_ranges}
    for _ in _shown(pair_range, list(range(num_ranges)), keys, "compared", terminal):
        pass
    ray.get(settle_doubles.remote(scratch, parts, jaccard))


def _draw(config: SelectConfig, parts: list[str], paths: Paths, mesh: Any) -> dict[str, Any]:
    asked = dict(vars(config.sample))
    design = Design(budget=asked.pop("num"), **asked)
    sketches = [sketch_part.remote(part, paths["corpus"], paths["scratch"], mesh, design) for part in parts]
    report: dict[str, Any] = ray.get(draw_sample.remote(paths["scratch"], sketches, mesh, design))
    return report


def _write(parts: list[str], paths: Paths, made: Manifest | None, terminal: TextIO) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = {"removed": Counter(), "changes": Counter()}
    keys = {**paths, "number": len(made["updates"]) + 1 if made else 1}
    for one in _shown(write_part_of, parts, keys, "written", terminal):
        counts.update({name: one[name] for name in ("documents", "with_mesh", "written")})
        for name, counter in by_kind.items():
            counter.update(one[name])
    return {**counts, **{name: dict(sorted(counter.items())) for name, counter in by_kind.items()}}


def _manifest(
    config: SelectConfig, corpus: Manifest, made: Manifest | None, written: dict[str, Any], seconds: float
) -> Manifest:
    update = {"parts": written["written"], "seconds": seconds, "changes": written["changes"]}
    return {
        **noted("select", made, update),
        "made_from": made_from(config, corpus),
        "num_documents": written["documents"],
        "num_with_mesh": written["with_mesh"],
        "num_considered": written["documents"] + sum(written["removed"].values()),
        "num_removed": written["removed"],
        # Also those that the corpus was cleaned of before.
        "benchmarks": {
            **corpus.get("benchmarks", {}),
            **{sha256(path): str(path.absolute()) for path in config.benchmarks},
        },
        **{name: corpus[name] for name in ("num_citations", "num_left_out", "num_skipped")},
        "files": corpus["files"],
        "versions": {"kailin_ray": __version__, "ray": ray.__version__},
        "config": settings(config),
    }


def _picture(sample: dict[str, Any], folder: Path) -> None:
    from kailin_ray.mesh.plots import draw_sampling

    by = sample["design"]["by"] or sample["design"]["period"]
    draw_sampling({f"stratified by {by}" if by else "uniform": sample}, folder / "sampling.png")
