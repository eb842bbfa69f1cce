"""The tasks of ``select``. Most process one part of the corpus; tasks pass files on in a folder ``scratch``.

- ``scratch/judged/<part>``: pmid, reason and detail of each document of the part
- ``sketches/<part>/``: pmids, buckets and signatures of the documents that stay so far, and of benchmark abstracts
  (``corpus/overlap/near_duplicates.py``); ``leaked``, the PMIDs of benchmark abstracts
- ``pairs/<range>.npy``: candidate pairs of duplicates
- ``doubles.parquet``: the duplicates to remove
- ``chosen.npy``: PMIDs of the sample
"""

from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from kailin_ray.config import SelectConfig
from kailin_ray.corpus.changes import changes, count_changes
from kailin_ray.corpus.documents import has, read_part, write_part
from kailin_ray.corpus.overlap import near_duplicates
from kailin_ray.corpus.overlap.benchmarks import Match
from kailin_ray.corpus.selection.filters import filter_reasons
from kailin_ray.corpus.selection.sampling import Design, Sketch, draw, merge, sketch
from kailin_ray.io.files import atomic_file
from kailin_ray.io.pmids import among
from kailin_ray.mesh.figures import SampleFigures
from kailin_ray.mesh.headings import documents_with
from kailin_ray.schema import DOCUMENTS

JUDGED = pa.schema([("pmid", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
"""``reason`` is one of ``schema.REMOVED``; null for a document that stays."""
_COLUMNS = ["pmid", "title", "abstract", "year", "language", "languages", "mesh", "publication_types", "retracted"]

Objects = npt.NDArray[np.object_]


class JudgeReport(TypedDict):
    """The number of documents of a part that stay so far."""

    staying: int


class PairReport(TypedDict):
    """The number of pairs that share a bucket in a range of buckets."""

    pairs: int


class WriteReport(TypedDict):
    """The counts of a part that was written."""

    documents: int
    with_mesh: int
    removed: dict[str, int]
    """Number of documents that are not in the part, by reason."""
    changes: dict[str, int]
    written: int
    """1 if the part is new or has changed, else 0."""


def judge_part(part: str, corpus: str, scratch: str, config: SelectConfig, mesh: Any, benchmarks: Any) -> JudgeReport:
    """Judge each document by itself (filters, subtree, benchmarks), and sketch those that stay, to find duplicates.

    ``mesh`` is a Ray reference to the hierarchy and the descriptors of the subtree. ``benchmarks`` is a reference to
    ``Benchmarks`` or None.
    """
    documents = read_part(Path(corpus, part), _schema(_COLUMNS))
    reasons = filter_reasons(documents, **vars(config.filters)).to_numpy(zero_copy_only=False)
    details = np.full(len(documents), None, dtype=object)
    hierarchy, chosen = ray.get(mesh)
    if chosen is not None:
        outside = ~documents_with(documents["mesh"], hierarchy, chosen, config.subtree_major_only)
        reasons[_still(reasons) & outside] = "not_in_subtree"
    loaded = ray.get(benchmarks)
    if loaded is not None:
        rows = np.flatnonzero(_still(reasons))
        staying = documents.take(pa.array(rows))
        texts = pc.binary_join_element_wise(staying["title"], staying["abstract"], "\n", null_handling="skip")
        for row, match in zip(
            rows, _first(loaded.find_pmids(staying["pmid"].to_numpy()), loaded.find(texts)), strict=True
        ):
            if match:
                reasons[row], details[row] = match.reason, str(match)
    columns = [documents["pmid"], pa.array(reasons, pa.string()), pa.array(details, pa.string())]
    _write(pa.table(columns, JUDGED), Path(scratch, "judged", part))
    if config.dedup_threshold is not None:
        # Duplicates of a benchmark's abstract must be removed too, so it is sketched as well, even if it is removed
        # for another reason. (Every document was compared with the benchmark's texts by itself.)
        leaked = np.zeros(len(documents), dtype=bool)
        if loaded is not None:
            leaked = np.isin(documents["pmid"].to_numpy(), loaded.pmids)
        kept = documents.select(["pmid", "abstract"]).filter(pa.array(_still(reasons) | leaked))
        sketches = near_duplicates.sketch(kept["abstract"])
        arrays = {"pmids": kept["pmid"].to_numpy(), "buckets": sketches.buckets, "signatures": sketches.signatures}
        _save(Path(scratch, "sketches", part), arrays | {"leaked": documents["pmid"].to_numpy()[leaked]})
    return {"staying": int(_still(reasons).sum())}


def _save(folder: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _schema(columns: list[str]) -> pa.Schema:
    return pa.schema([DOCUMENTS.field(name) for name in columns])


def _still(reasons: Objects) -> npt.NDArray[np.bool_]:
    """Return which documents have no reason to be removed."""
    return np.array([reason is None for reason in reasons], dtype=bool)


def _first(preferred: list[Match | None], others: list[Match | None]) -> list[Match | None]:
    return [a or b for a, b in zip(preferred, others, strict=True)]


def _write(table: pa.Table, path: Path) -> None:
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def pair_range(number: int, scratch: str, parts: list[str], num_ranges: int) -> PairReport:
    """Write the pairs of documents of all parts that share a bucket in one range of buckets."""
    entries = []
    for part in parts:
        pmids, buckets = _load_sketch(scratch, part, "pmids", "buckets")
        entries.append(near_duplicates.in_range(pmids, buckets, number, num_ranges))
    buckets, pmids = (np.concatenate(arrays) for arrays in zip(*entries, strict=True))
    pairs = near_duplicates.candidate_pairs(buckets, pmids)
    with atomic_file(Path(scratch, "pairs", f"{number:05}.npy")) as partial, partial.open("wb") as sink:
        np.save(sink, pairs, allow_pickle=False)
    return {"pairs": len(pairs)}


def _load_sketch(scratch: str, part: str, *names: str) -> list[Any]:
    return [np.load(Path(scratch, "sketches", part, f"{name}.npy"), mmap_mode="r") for name in names]


@ray.remote
def settle_doubles(scratch: str, parts: list[str], jaccard: float) -> int:
    """Verify all pairs by their signatures, and write the duplicates to remove; return their number."""
    files = sorted(Path(scratch, "pairs").glob("*.npy"))
    pairs = np.unique(np.concatenate([np.load(file) for file in files]), axis=0)
    pair_pmids = np.unique(pairs)
    arrays_of_parts: list[list[Any]] = []
    leaked = []
    for part in parts:
        arrays = _load_sketch(scratch, part, "pmids", "buckets", "signatures")
        rows = np.flatnonzero(among(arrays[0], pair_pmids))
        arrays_of_parts.append([array[rows] for array in arrays])
        leaked += _load_sketch(scratch, part, "leaked")
    pmids, buckets, signatures = (np.concatenate(arrays) for arrays in zip(*arrays_of_parts, strict=True))
    order = np.argsort(pmids)
    pmids, buckets, signatures = pmids[order], buckets[order], signatures[order]
    if jaccard == 1:  # equal signatures do not prove equal words
        first, second = np.searchsorted(pmids, pairs).T
        pairs = pairs[buckets[first, 0] == buckets[second, 0]]
    alike, _ = near_duplicates.verify(pairs, pmids, buckets, signatures, jaccard)
    duplicates = near_duplicates.removals(alike, pmids, buckets, signatures)
    _write(with_leaked_firsts(duplicates, np.unique(np.concatenate(leaked))), Path(scratch, "doubles.parquet"))
    return len(duplicates)


def with_leaked_firsts(gone: pa.Table, leaked: npt.NDArray[np.int64]) -> pa.Table:
    """Add to ``gone`` the kept documents that have a benchmark abstract among their duplicates.

    ``gone`` is the result of ``near_duplicates.removals``.
    """
    benchmarks = gone.filter(pa.array(among(gone["pmid"].to_numpy(), leaked)))
    kept, first = np.unique(benchmarks["kept_pmid"].to_numpy(), return_index=True)
    sources = benchmarks.take(pa.array(first))
    columns = [pa.array(kept), sources["pmid"], sources["jaccard"], sources["reason"]]
    added = pa.table(columns, near_duplicates.REMOVAL).filter(pa.array(~among(kept, leaked)))
    return pa.concat_tables([gone, added]).sort_by("pmid")


@ray.remote
def sketch_part(part: str, corpus: str, scratch: str, mesh: Any, design: Design) -> Sketch:
    """Return the sketch of the documents of a part that stay."""
    documents = read_part(Path(corpus, part), _schema(["pmid", "mesh", "year"]))
    judged = _decide_part(scratch, part)
    return sketch(documents.filter(pc.is_null(judged["reason"])), mesh[0], design)


@ray.remote
def draw_sample(scratch: str, sketches: list[Any], mesh: Any, design: Design) -> SampleFigures:
    """Draw from all sketches, write the PMIDs drawn, and return figures that compare the sample with its source."""
    from kailin_ray.corpus.selection.balance import balance

    whole = merge((ray.get(reference) for reference in sketches), design)
    chosen = draw(whole, design)
    np.save(Path(scratch, "chosen.npy"), chosen["pmid"].to_numpy(), allow_pickle=False)
    return balance(whole, chosen, mesh[0], design)


def _decide_part(scratch: str, part: str) -> pa.Table:
    """Return the judgement of each document of a part, including duplicates."""
    judged = pq.read_table(Path(scratch, "judged", part))
    path = Path(scratch, "doubles.parquet")
    if not len(judged) or not path.exists():
        return judged
    first, last = judged["pmid"][0].as_py(), judged["pmid"][-1].as_py()
    duplicates = pq.read_table(path, filters=[("pmid", ">=", first), ("pmid", "<=", last)])
    rows = np.searchsorted(judged["pmid"].to_numpy(), duplicates["pmid"].to_numpy())
    reasons, details = (judged[name].to_numpy(zero_copy_only=False) for name in ("reason", "detail"))
    for row, pair in zip(rows, duplicates.to_pylist(), strict=True):
        if reasons[row] is None:  # a benchmark's abstract keeps its own reason
            reasons[row], details[row] = pair["reason"], f"PMID {pair['kept_pmid']}, Jaccard {pair['jaccard']:.2f}"
    return pa.table([judged["pmid"], pa.array(reasons, pa.string()), pa.array(details, pa.string())], JUDGED)


def write_part_of(part: str, corpus: str, scratch: str, out: str, folder: str, number: int) -> WriteReport:
    """Write the selected documents of a part, the reasons for all others, and from the second update on the changes.

    If the corpus is itself a selection, the documents that it left out are passed on, so that all documents appear.
    """
    documents = read_part(Path(corpus, part), DOCUMENTS)
    judged = _decide_part(scratch, part)
    reasons = judged["reason"].to_numpy(zero_copy_only=False)
    if Path(scratch, "chosen.npy").exists():
        chosen = among(judged["pmid"].to_numpy(), np.load(Path(scratch, "chosen.npy"), mmap_mode="r"))
        reasons[_still(reasons) & ~chosen] = "not_sampled"
    if not judged["pmid"].equals(documents["pmid"]):
        raise RuntimeError(f"{corpus} was updated while it was being selected from; run the same command again")
    judged = judged.set_column(1, "reason", pa.array(reasons, pa.string()))
    kept = documents.filter(pc.is_null(judged["reason"]))
    before = read_part(Path(out, part), DOCUMENTS)
    changed = changes(before, kept) if number > 1 else None
    if changed is None or not kept.equals(before):
        write_part(kept, Path(folder), Path(out), part)
    if changed is not None:
        write_part(changed, Path(folder), Path(out), f"changes/{number:04}/{part}")
    removed = pa.concat_tables(
        [judged.filter(pc.is_valid(judged["reason"])), read_part(Path(corpus, "removed", part), JUDGED)]
    ).sort_by("pmid")
    write_part(removed, Path(folder), Path(out), f"removed/{part}")
    counted = pc.value_counts(removed["reason"]).to_pylist()
    return {
        "documents": len(kept),
        "with_mesh": pc.sum(has(kept, "mesh")).as_py() or 0,
        "removed": {entry["values"]: entry["counts"] for entry in counted},
        "changes": {} if changed is None else count_changes(changed),
        "written": int(changed is None or not kept.equals(before)),
    }
