"""What the tasks of ``select`` do, each with one part of the corpus; between them files in a folder ``scratch``.

``scratch/judged/<part>``: pmid, reason, detail of each document of the part; ``sketches/<part>/``: of those that stay
so far pmids, buckets and signatures (``corpus/overlap/near_duplicates.py``); ``pairs/<range>.npy``;
``doubles.parquet``; ``chosen.npy``.
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
"""``reason``: of ``schema.REMOVED``; null for a document that stays."""
_COLUMNS = ["pmid", "title", "abstract", "year", "language", "languages", "mesh", "publication_types", "retracted"]

Objects = npt.NDArray[np.object_]


class JudgeReport(TypedDict):
    """Of a part: the documents that stay so far."""

    staying: int


class PairReport(TypedDict):
    """Of a range of buckets: the pairs that share one."""

    pairs: int


class WriteReport(TypedDict):
    """Of a part that was written."""

    documents: int
    with_mesh: int
    removed: dict[str, int]
    """Documents by the reason why they are not in it."""
    changes: dict[str, int]
    written: int
    """1 if it is another than before."""


def judge_part(part: str, corpus: str, scratch: str, config: SelectConfig, mesh: Any, benchmarks: Any) -> JudgeReport:
    """Each document by itself: filters, subtree, benchmarks. Of those that stay, sketches for finding doubles.

    ``mesh``: a reference to the hierarchy and the descriptors of the subtree; ``benchmarks``: to ``Benchmarks``, or to
    None.
    """
    documents = read_part(Path(corpus, part), _schema(_COLUMNS))
    reasons = filter_reasons(documents, **vars(config.filters)).to_numpy(zero_copy_only=False)
    details = np.full(len(documents), None, dtype=object)
    hierarchy, chosen = ray.get(mesh)
    if chosen is not None:
        outside = ~documents_with(documents["mesh"], hierarchy, chosen, config.subtree_major)
        reasons[_still(reasons) & outside] = "not_in_subtree"
    known = ray.get(benchmarks)
    if known is not None:
        rows = np.flatnonzero(_still(reasons))
        staying = documents.take(pa.array(rows))
        texts = pc.binary_join_element_wise(staying["title"], staying["abstract"], "\n", null_handling="skip")
        for row, match in zip(
            rows, _first(known.find_pmids(staying["pmid"].to_numpy()), known.find(texts)), strict=True
        ):
            if match:
                reasons[row], details[row] = match.reason, str(match)
    columns = [documents["pmid"], pa.array(reasons, pa.string()), pa.array(details, pa.string())]
    _write(pa.table(columns, JUDGED), Path(scratch, "judged", part))
    if config.duplicates.jaccard is not None:
        # A benchmark's abstract goes, and so must its doubles. (By its texts each was looked at itself.)
        # Also one that goes for another reason.
        leaked = np.zeros(len(documents), dtype=bool)
        if known is not None:
            leaked = np.isin(documents["pmid"].to_numpy(), known.pmids)
        kept = documents.select(["pmid", "abstract"]).filter(pa.array(_still(reasons) | leaked))
        made = near_duplicates.sketch(kept["abstract"])
        arrays = {"pmids": kept["pmid"].to_numpy(), "buckets": made.buckets, "signatures": made.signatures}
        _save(Path(scratch, "sketches", part), arrays | {"leaked": documents["pmid"].to_numpy()[leaked]})
    return {"staying": int(_still(reasons).sum())}


def _save(folder: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def _schema(columns: list[str]) -> pa.Schema:
    return pa.schema([DOCUMENTS.field(name) for name in columns])


def _still(reasons: Objects) -> npt.NDArray[np.bool_]:
    """Which documents have no reason to go."""
    return np.array([reason is None for reason in reasons], dtype=bool)


def _first(one: list[Match | None], two: list[Match | None]) -> list[Match | None]:
    return [a or b for a, b in zip(one, two, strict=True)]


def _write(table: pa.Table, path: Path) -> None:
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def pair_range(number: int, scratch: str, parts: list[str], num_ranges: int) -> PairReport:
    """Pairs of documents that share a bucket in one range of buckets, of all parts."""
    found = []
    for part in parts:
        pmids, buckets = _load_sketch(scratch, part, "pmids", "buckets")
        found.append(near_duplicates.in_range(pmids, buckets, number, num_ranges))
    buckets, pmids = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    pairs = near_duplicates.candidate_pairs(buckets, pmids)
    with atomic_file(Path(scratch, "pairs", f"{number:05}.npy")) as partial, partial.open("wb") as sink:
        np.save(sink, pairs, allow_pickle=False)
    return {"pairs": len(pairs)}


def _load_sketch(scratch: str, part: str, *names: str) -> list[Any]:
    return [np.load(Path(scratch, "sketches", part, f"{name}.npy"), mmap_mode="r") for name in names]


@ray.remote
def settle_doubles(scratch: str, parts: list[str], jaccard: float) -> int:
    """Verify all pairs by their signatures, and write who goes; return how many that are."""
    files = sorted(Path(scratch, "pairs").glob("*.npy"))
    pairs = np.unique(np.concatenate([np.load(file) for file in files]), axis=0)
    wanted = np.unique(pairs)
    held: list[list[Any]] = []
    leaked = []
    for part in parts:
        arrays = _load_sketch(scratch, part, "pmids", "buckets", "signatures")
        rows = np.flatnonzero(among(arrays[0], wanted))
        held.append([array[rows] for array in arrays])
        leaked += _load_sketch(scratch, part, "leaked")
    pmids, buckets, signatures = (np.concatenate(arrays) for arrays in zip(*held, strict=True))
    order = np.argsort(pmids)
    pmids, buckets, signatures = pmids[order], buckets[order], signatures[order]
    if jaccard == 1:  # equal signatures are not yet equal words
        one, two = np.searchsorted(pmids, pairs).T
        pairs = pairs[buckets[one, 0] == buckets[two, 0]]
    alike, _ = near_duplicates.verify(pairs, pmids, buckets, signatures, jaccard)
    gone = near_duplicates.removals(alike, pmids, buckets, signatures)
    _write(with_leaked_firsts(gone, np.unique(np.concatenate(leaked))), Path(scratch, "doubles.parquet"))
    return len(gone)


def with_leaked_firsts(gone: pa.Table, leaked: npt.NDArray[np.int64]) -> pa.Table:
    """``near_duplicates.removals``, and those it would keep although one of their doubles is a benchmark's abstract."""
    benchmarks = gone.filter(pa.array(among(gone["pmid"].to_numpy(), leaked)))
    kept, first = np.unique(benchmarks["kept_pmid"].to_numpy(), return_index=True)
    of = benchmarks.take(pa.array(first))
    columns = [pa.array(kept), of["pmid"], of["jaccard"], of["reason"]]
    added = pa.table(columns, near_duplicates.REMOVAL).filter(pa.array(~among(kept, leaked)))
    return pa.concat_tables([gone, added]).sort_by("pmid")


@ray.remote
def sketch_part(part: str, corpus: str, scratch: str, mesh: Any, design: Design) -> Sketch:
    """The sketch of the documents of a part that stay."""
    documents = read_part(Path(corpus, part), _schema(["pmid", "mesh", "year"]))
    judged = _decide_part(scratch, part)
    return sketch(documents.filter(pc.is_null(judged["reason"])), mesh[0], design)


@ray.remote
def draw_sample(scratch: str, sketches: list[Any], mesh: Any, design: Design) -> SampleFigures:
    """Draw from all sketches, write the chosen PMIDs, and return what the sample is like beside what it is from."""
    from kailin_ray.corpus.selection.balance import balance

    whole = merge((ray.get(one) for one in sketches), design)
    chosen = draw(whole, design)
    np.save(Path(scratch, "chosen.npy"), chosen["pmid"].to_numpy(), allow_pickle=False)
    return balance(whole, chosen, mesh[0], design)


def _decide_part(scratch: str, part: str) -> pa.Table:
    """What became of the documents of a part, doubles included."""
    judged = pq.read_table(Path(scratch, "judged", part))
    doubles = Path(scratch, "doubles.parquet")
    if not len(judged) or not doubles.exists():
        return judged
    first, last = judged["pmid"][0].as_py(), judged["pmid"][-1].as_py()
    gone = pq.read_table(doubles, filters=[("pmid", ">=", first), ("pmid", "<=", last)])
    rows = np.searchsorted(judged["pmid"].to_numpy(), gone["pmid"].to_numpy())
    reasons, details = (judged[name].to_numpy(zero_copy_only=False) for name in ("reason", "detail"))
    for row, one in zip(rows, gone.to_pylist(), strict=True):
        if reasons[row] is None:  # a benchmark's abstract has gone for that
            reasons[row], details[row] = one["reason"], f"PMID {one['kept_pmid']}, Jaccard {one['jaccard']:.2f}"
    return pa.table([judged["pmid"], pa.array(reasons, pa.string()), pa.array(details, pa.string())], JUDGED)


def write_part_of(part: str, corpus: str, scratch: str, out: str, folder: str, number: int) -> WriteReport:
    """Write the chosen documents of a part, why the others are not, and from the second update on what changed.

    What the corpus, if it was selected itself, left out is handed on: so every citation's document is in one place.
    """
    documents = read_part(Path(corpus, part), DOCUMENTS)
    judged = _decide_part(scratch, part)
    reasons = judged["reason"].to_numpy(zero_copy_only=False)
    if Path(scratch, "chosen.npy").exists():
        chosen = among(judged["pmid"].to_numpy(), np.load(Path(scratch, "chosen.npy"), mmap_mode="r"))
        reasons[_still(reasons) & ~chosen] = "not_sampled"
    if not judged["pmid"].equals(documents["pmid"]):
        raise RuntimeError(f"{corpus} was updated while it was selected from; the same command begins anew")
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
        "removed": {one["values"]: one["counts"] for one in counted},
        "changes": {} if changed is None else count_changes(changed),
        "written": int(changed is None or not kept.equals(before)),
    }
