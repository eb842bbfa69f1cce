"""``select``: select the documents of a corpus to distil: filter them, remove duplicates and benchmark texts, sample.

::

    documents/
      part-<bucket>.parquet ...          as in documents.py, with the changes of each update
      removed/part-<bucket>.parquet      all other documents of the corpus: pmid, reason, detail
      descriptors.json                   a copy of the corpus's: rarity and information content refer to the corpus
      sampling.png                       only for a sample: the branches of MeSH before and after

There are four passes: judge each document by itself, find duplicates (also of benchmark abstracts), draw a sample, and
write the selected documents. Each pass consists of tasks (``tasks.py``). A task holds one part, or one range of hash
buckets, in memory. The same corpus and settings always select the same documents.
"""

import logging
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

import numpy as np
import numpy.typing as npt

from kailin_ray import __version__
from kailin_ray.config import SelectConfig, settings
from kailin_ray.corpus.changes import format_update
from kailin_ray.corpus.documents import (
    Documents,
    DocumentsManifest,
    DocumentsUpdate,
    SelectionInputs,
    new_identity,
    resume_documents,
)
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.corpus.selection.sampling import Design
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import sha256, updating
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import write_manifest
from kailin_ray.io.pmids import READERS, num_rows
from kailin_ray.io.storage import log_file
from kailin_ray.io.terminal import progress_bar
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.figures import SampleFigures
from kailin_ray.mesh.headings import subtree
from kailin_ray.mesh.load import load_mesh
from kailin_ray.schema import REMOVED

DOCUMENTS_PER_RANGE = 500_000
"""Number of documents whose buckets one task compares, in about 1 GB of memory. The buckets of more documents are split
into ranges."""

Paths = dict[str, str]
R = TypeVar("R", bound=Mapping[str, object])

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelectResult:
    """The result of ``select``."""

    documents: Documents
    made_already: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """The data by which documents are judged; read before Ray starts."""

    benchmarks: Benchmarks | None
    hierarchy: MeshHierarchy | None
    subtree: npt.NDArray[np.bool_] | None
    """Which descriptors are in the subtree."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """The result of the last pass."""

    documents: int
    with_mesh: int
    parts: int
    removed: dict[str, int]
    changes: dict[str, int]


def select(config: SelectConfig) -> SelectResult:
    """Create or update the folder of selected documents.

    Raises ``ConfigError`` if an input cannot be read or no document is left; the folder then does not change. Raises
    ``CommandFailedError`` if Ray fails.
    """
    corpus = Documents.open(config.corpus, "corpus")
    with hold_lock(config.out):
        existing = resume_documents(config.out, "select")
        _check_paths(config)
        if existing and up_to_date(config, corpus, existing):
            return SelectResult(documents=existing, made_already=True)
        references = _read_references(config)
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(num_rows, corpus.parts()):  # refuses an unreadable file before Ray starts
                pass
        from kailin_ray.runtime.faults import one_line_faults
        from kailin_ray.runtime.session import ray_session

        log = log_file(config.out)
        with one_line_faults(log), ray_session(config.cluster, log) as shown:
            return SelectResult(documents=_select(config, corpus, existing, references, shown), made_already=False)


def selection_inputs(config: SelectConfig, corpus: Documents) -> SelectionInputs:
    """Return the inputs of a selection: the corpus, its update, and all settings that decide what is selected."""
    values = settings(config)
    return SelectionInputs(
        corpus=corpus.manifest.id,
        corpus_updates=len(corpus.manifest.updates),
        mesh=sha256(config.mesh) if config.mesh else None,
        benchmarks=tuple(sha256(path) for path in config.benchmarks),
        filters=values["filters"],
        dedup_threshold=config.dedup_threshold,
        subtree=config.subtree,
        subtree_major_only=config.subtree_major_only,
        sample=values["sample"],
        tolerate_orphans=config.tolerate_orphans,
    )


def _check_paths(config: SelectConfig) -> None:
    if config.corpus.resolve() == config.out.resolve():
        raise ConfigError(f"out: {config.out} is the corpus itself; choose another")
    if config.mesh is None and (config.subtree or config.sample.size is not None):
        key = "subtree" if config.subtree else "sample.size"
        raise ConfigError(f"mesh: missing; {key} needs the hierarchy: give it as mesh=…")
    for key, path in (("mesh", config.mesh), *(("benchmarks", path) for path in config.benchmarks)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{key}: {path} does not exist")


def up_to_date(config: SelectConfig, corpus: Documents, made: Documents) -> bool:
    """Return whether ``made`` is already the requested selection.

    Raises ``ConfigError`` if it was made from another corpus or with other settings.
    """
    now, before = selection_inputs(config, corpus), made.manifest.made_from
    assert before
    if before == now:
        return True
    changed = [name for name in vars(now) if name != "corpus_updates" and vars(before)[name] != vars(now)[name]]
    if changed:
        raise ConfigError(
            f"out: {config.out} was selected with another {changed[0]} ({vars(before)[changed[0]]!r}, now "
            f"{vars(now)[changed[0]]!r}); choose another out="
        )
    return False


def _read_references(config: SelectConfig) -> References:
    hierarchy = load_mesh(config.mesh, config.tolerate_orphans, config.corpus)[0] if config.mesh else None
    return References(
        benchmarks=Benchmarks.load(config.benchmarks) if config.benchmarks else None,
        hierarchy=hierarchy,
        subtree=subtree(hierarchy, config.subtree) if hierarchy and config.subtree else None,
    )


def _select(
    config: SelectConfig, corpus: Documents, existing: Documents | None, references: References, shown: TextIO
) -> Documents:
    import ray

    from kailin_ray.corpus.selection.tasks import judge_part

    started = time.monotonic()
    out = config.out.absolute()
    scratch = out.with_name(f".{out.name}.select")
    shutil.rmtree(scratch, ignore_errors=True)
    parts = sorted({part.name for place in (".", "removed") for part in (config.corpus / place).glob("part-*.parquet")})
    paths = {"corpus": str(config.corpus.absolute()), "scratch": str(scratch)}
    try:
        mesh = ray.put((references.hierarchy, references.subtree))
        keys = {**paths, "config": config, "mesh": mesh, "benchmarks": ray.put(references.benchmarks)}
        num_staying = sum(report["staying"] for report in _run_tasks(judge_part, parts, keys, "judged", shown))
        logger.info("%s: %d documents stay so far", config.out, num_staying)
        if config.dedup_threshold is not None and num_staying:
            _find_doubles(parts, num_staying, str(scratch), config.dedup_threshold, shown)
        sample = _draw(config, parts, paths, mesh) if config.sample.size is not None and num_staying else None
        with updating(out) as folder:
            written = _write(parts, paths | {"out": str(out), "folder": str(folder)}, existing, shown)
            if not written.documents:
                left_out = ", ".join(f"{number:,} {name}" for name, number in written.removed.items())
                raise ConfigError(f"corpus: no document of {config.corpus} is left: {left_out}")
            shutil.copyfile(config.corpus / "descriptors.json", folder / "descriptors.json")
            if sample:
                _draw_sample(sample, folder)
            seconds = round(time.monotonic() - started, 1)
            manifest = _manifest(config, corpus, existing, written, sample, seconds)
            write_manifest(folder, manifest)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Documents(config.out, manifest)


def format_selection(result: SelectResult) -> str:
    """Return a summary for people: the selected documents, and the documents left out by reason."""
    out, manifest = result.documents.path, result.documents.manifest
    lines = [f"{out}: made already"] if result.made_already else []
    lines.append(
        f"{out}: {manifest.num_documents:,} documents ({manifest.num_with_mesh:,} with MeSH headings) of "
        f"{manifest.num_considered:,}"
    )
    lines += [
        f"  {manifest.num_removed[name]:>10,}  {name}: {meaning}"
        for name, meaning in REMOVED.items()
        if manifest.num_removed.get(name)
    ]
    if manifest.sample:
        level = manifest.sample["categories"]
        largest = level["largest_share"]
        lines.append(
            f"sample      reaches {level['num_reached']} of {level['num_in_corpus']} second-level MeSH branches"
            f"; the largest has {largest['after']:.1%} of its documents, before sampling {largest['before']:.1%}"
        )
    if len(manifest.updates) > 1:
        lines.append(format_update(manifest))
    return "\n".join(lines)


def _run_tasks(
    task: Callable[..., R], items: Sequence[Any], keys: Mapping[str, Any], done: str, shown: TextIO
) -> Iterator[R]:
    from kailin_ray.runtime.tasks import each

    with progress_bar(shown, f"select: {done}", len(items), unit=" parts") as bar:
        for report in each(task, items, keys):
            bar.update()
            yield report


def _find_doubles(parts: list[str], num_staying: int, scratch: str, jaccard: float, shown: TextIO) -> None:
    import ray

    from kailin_ray.corpus.selection.tasks import pair_range, settle_doubles

    num_ranges = math.ceil(num_staying / DOCUMENTS_PER_RANGE)
    keys = {"scratch": scratch, "parts": parts, "num_ranges": num_ranges}
    for _ in _run_tasks(pair_range, list(range(num_ranges)), keys, "compared", shown):
        pass
    num_duplicates = ray.get(settle_doubles.remote(scratch, parts, jaccard))
    logger.info("%d documents are duplicates of others", num_duplicates)


def _draw(config: SelectConfig, parts: list[str], paths: Paths, mesh: Any) -> SampleFigures:
    import ray

    from kailin_ray.corpus.selection.tasks import draw_sample, sketch_part

    design = Design(**vars(config.sample))
    sketches = [sketch_part.remote(part, paths["corpus"], paths["scratch"], mesh, design) for part in parts]
    sample: SampleFigures = ray.get(draw_sample.remote(paths["scratch"], sketches, mesh, design))
    return sample


def _write(parts: list[str], paths: Paths, existing: Documents | None, shown: TextIO) -> Written:
    from kailin_ray.corpus.selection.tasks import write_part_of

    counts: Counter[str] = Counter()
    removed: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    keys = {**paths, "number": len(existing.manifest.updates) + 1 if existing else 1}
    for report in _run_tasks(write_part_of, parts, keys, "written", shown):
        counts.update(documents=report["documents"], with_mesh=report["with_mesh"], parts=report["written"])
        removed.update(report["removed"])
        changes.update(report["changes"])
    return Written(
        documents=counts["documents"],
        with_mesh=counts["with_mesh"],
        parts=counts["parts"],
        removed=dict(sorted(removed.items())),
        changes=dict(sorted(changes.items())),
    )


def _manifest(
    config: SelectConfig,
    corpus: Documents,
    existing: Documents | None,
    written: Written,
    sample: SampleFigures | None,
    seconds: float,
) -> DocumentsManifest:
    import ray

    source, before = corpus.manifest, existing.manifest if existing else None
    update = DocumentsUpdate(parts=written.parts, seconds=seconds, changes=written.changes)
    return DocumentsManifest(
        maker="select",
        id=before.id if before else new_identity(),
        updates=(*(before.updates if before else ()), update),
        made_from=selection_inputs(config, corpus),
        num_documents=written.documents,
        num_with_mesh=written.with_mesh,
        num_considered=written.documents + sum(written.removed.values()),
        num_removed=written.removed,
        # Includes the benchmarks whose texts were removed from the corpus before.
        benchmarks=source.benchmarks | {sha256(path): str(path.absolute()) for path in config.benchmarks},
        num_citations=source.num_citations,
        num_left_out=source.num_left_out,
        num_skipped=source.num_skipped,
        num_unescaped=source.num_unescaped,
        files=source.files,
        versions={"kailin_ray": __version__, "ray": ray.__version__},
        config=settings(config),
        sample=sample,
    )


def _draw_sample(sample: SampleFigures, folder: Path) -> None:
    from kailin_ray.mesh.plots import draw_sampling

    by = sample["design"]["stratify_by"] or sample["design"]["period"]
    draw_sampling({f"stratified by {by}" if by else "uniform": sample}, folder / "sampling.png")
