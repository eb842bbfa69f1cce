"""Draw a seeded sample of documents, uniform or stratified by MeSH branch and time, in one pass.

Every document has a key, a hash of the seed and the PMID. From each stratum, the documents with the lowest keys are
taken. So a sample does not depend on files, order or machines. A ``Sketch`` is made of each part of the corpus (the
exact counts, and the documents that may still be drawn). The sketches are merged, and the sample is drawn from the
result::

    design = Design(size=2000, seed=7, stratify_by="categories", major_only=True)
    whole = merge((sketch(part, mesh, design) for part in parts), design)
    chosen = draw(whole, design)["pmid"]

With strata by branch, a document belongs to one stratum: the branch among its branches that is rarest in the corpus.
The sampling rate of a stratum falls with the number of documents of its *branch* (``frequency^(alpha-1)``), instead of
the size of the stratum. Strata by rarest branch have nearly the same size, so their sizes would hardly raise the share
of rare branches.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.corpus.selection.allocation import allocate, largest_quota
from kailin_ray.mesh.coverage import Branches, branches
from kailin_ray.mesh.headings import read_headings
from kailin_ray.mesh.hierarchy import MeshHierarchy

Counts = npt.NDArray[np.int64]

NO_YEAR = 0
"""The period of a document without a year."""
PERIODS = 1 << 16
"""The number of a stratum is ``branch * PERIODS + period``. The period is a year, or the first year of a decade."""
ROWS_AT_ONCE = 1 << 18
"""Number of candidates that are collected before candidates that cannot be drawn are dropped."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """The design of a sample. Without ``stratify_by`` and ``period`` it is uniform."""

    size: int
    """Number of documents to draw; all of them if there are fewer."""
    seed: int
    stratify_by: Literal["letters", "categories"] | None = None
    """Strata by the first level of MeSH (``C`` Diseases) or the second (``C04`` Neoplasms)."""
    period: Literal["year", "decade"] | None = None
    """Strata by time; together with ``stratify_by``, each pair of branch and period is a stratum."""
    major_only: bool = False
    """Count only major headings, which say what a document is about, for strata and for counts by branch."""
    alpha: float = 0.5
    """1: all strata have the same sampling rate; 0: the rate is inversely proportional to the frequency."""
    max_share: float = 1.0
    min_per_stratum: int = 0
    """As in ``allocate``, as is ``max_share``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """Counts of some documents, and the documents that may still be drawn when more documents are added."""

    num_documents: int
    strata: Counts
    sizes: Counts
    """``strata`` (K,): the numbers of the strata that have documents, in ascending order. ``sizes`` (K,): the number of
    documents of each."""
    documents: Counts
    headings: Counts
    """``documents`` (C+L,): the number of documents with a heading in each branch. ``headings`` (C+L,): the number of
    headings in each branch. See ``coverage.branches``."""
    candidates: pa.Table
    """Columns ``pmid``, ``stratum`` and ``branches`` (those of each heading in turn), sorted by stratum, then key. At
    most ``largest_quota`` per stratum, about 40 bytes each."""


def keys(pmids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Return (n,) a hash of the seed and each PMID. Different PMIDs have different hashes."""
    start = _mix_state(np.array([seed % (1 << 64)], dtype=np.uint64))
    return _mix_state(pmids.astype(np.uint64) + start)


def _mix_state(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), a bijection."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def sketch(documents: pa.Table, mesh: MeshHierarchy, design: Design) -> Sketch:
    """Return the sketch of some documents with unique PMIDs, from the columns ``pmid``, ``mesh`` and ``year``.

    Takes one byte per document and branch (4 MB for 32,768 documents). Raises ``ValueError`` for strata by branch if
    ``mesh`` has no counts of the corpus, which show which branch is rare.
    """
    levels = branches(mesh)
    rows, places = _places(documents["mesh"], mesh, levels, design.major_only)
    has_branch = np.zeros((len(documents), len(levels.labels)), dtype=bool)
    has_branch[rows, places] = True
    stratum = np.zeros(len(documents), dtype=np.int64)
    if design.stratify_by:
        stratum += PERIODS * _rarest(has_branch, mesh, levels, design.stratify_by)
    if design.period:
        stratum += _periods(documents["year"], design.period)
    strata, sizes = np.unique(stratum, return_counts=True)
    ends = np.append(0, np.cumsum(np.bincount(rows, minlength=len(documents))))
    return _thin_sketch(
        Sketch(
            num_documents=len(documents),
            strata=strata,
            sizes=sizes,
            documents=has_branch.sum(axis=0),
            headings=np.bincount(places, minlength=len(levels.labels)),
            candidates=_table(documents["pmid"].to_numpy(), stratum, ends, places, len(levels.labels)),
        ),
        design,
    )


def merge(sketches: Iterable[Sketch], design: Design) -> Sketch:
    """Return the sketch of all documents of the ``sketches``. Their order and grouping do not change the result.

    Holds at most twice the candidates that remain, plus ``ROWS_AT_ONCE``. Raises ``ValueError`` if there are no
    sketches.
    """
    pending: list[Sketch] = []
    limit = ROWS_AT_ONCE
    for sketch_of_part in sketches:
        pending.append(sketch_of_part)
        if sum(len(each.candidates) for each in pending) > limit:
            pending = [_join_sketches(pending, design)]
            limit = max(ROWS_AT_ONCE, 2 * len(pending[0].candidates))
    if not pending:
        raise ValueError("no sketches to merge")
    return _join_sketches(pending, design)


def draw(whole: Sketch, design: Design) -> pa.Table:
    """Return the drawn candidates, sorted by PMID: exactly ``size``, or all if there are fewer."""
    quotas = allocate(
        whole.sizes,
        design.size,
        alpha=design.alpha,
        max_share=design.max_share,
        min_per_stratum=design.min_per_stratum,
        frequency=frequency(whole, design),
    )
    return _lowest(whole.candidates, whole.strata, quotas, design.seed).sort_by("pmid")


def frequency(whole: Sketch, design: Design) -> npt.NDArray[np.float64]:
    """Return (K,) the frequency of each stratum: the number of documents that have its branch.

    With periods, this is multiplied by the number of documents of its period. For the stratum without a branch, it is
    the number of documents without a branch.
    """
    frequencies = np.ones(len(whole.strata))
    branch, period = np.divmod(whole.strata, PERIODS)
    if design.stratify_by:
        num_without_branch = whole.sizes[branch == len(whole.documents)].sum()
        frequencies *= np.append(whole.documents, num_without_branch)[branch]
    if design.period:
        _, group = np.unique(period, return_inverse=True)
        frequencies *= np.bincount(group, whole.sizes)[group]
    return frequencies


def _places(
    column: pa.ChunkedArray, mesh: MeshHierarchy, levels: Branches, major: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the row and the branch for each branch of each heading; rows are in ascending order."""
    headings = read_headings(column, mesh, major)
    begin, end = levels.offsets[headings.descriptors], levels.offsets[headings.descriptors + 1]
    sizes = end - begin
    before = np.cumsum(sizes) - sizes
    at = np.repeat(begin - before, sizes) + np.arange(sizes.sum())
    return np.repeat(headings.rows, sizes), levels.places[at]


def _rarest(has_branch: npt.NDArray[np.bool_], mesh: MeshHierarchy, levels: Branches, by: str) -> Counts:
    """Return (n,) the branch of each row of (n, C+L) that has the fewest headings in the corpus; C+L for no branch."""
    if not mesh.counts.any():
        raise ValueError("strata by branch need a hierarchy with the corpus' counts; see with_counts")
    at = levels.levels[by]
    descriptors = np.repeat(np.arange(len(mesh.uis)), np.diff(levels.offsets))
    headings = np.bincount(levels.places, mesh.counts[descriptors], minlength=len(levels.labels))[at]
    order = np.argsort(headings, kind="stable")
    ranked = has_branch[:, at][:, order]
    return np.where(ranked.any(axis=1), at.start + order[ranked.argmax(axis=1)], len(levels.labels))


def _periods(column: pa.ChunkedArray, period: str) -> Counts:
    years: Counts = np.asarray(column.fill_null(NO_YEAR).to_numpy(), dtype=np.int64)
    years = np.maximum(years, NO_YEAR)
    return years if period == "year" else years // 10 * 10


def _table(pmids: Counts, stratum: Counts, ends: Counts, places: Counts, num_branches: int) -> pa.Table:
    dtype = np.min_scalar_type(num_branches)  # one byte for the 131 branches of MeSH
    lists = pa.ListArray.from_arrays(ends.astype(np.int32), places.astype(dtype))
    return pa.table({"pmid": pmids, "stratum": stratum.astype(np.int32), "branches": lists})


def _join_sketches(sketches: list[Sketch], design: Design) -> Sketch:
    strata, group = np.unique(np.concatenate([item.strata for item in sketches]), return_inverse=True)
    sizes = np.zeros(len(strata), dtype=np.int64)
    np.add.at(sizes, group, np.concatenate([item.sizes for item in sketches]))
    return _thin_sketch(
        Sketch(
            num_documents=sum(item.num_documents for item in sketches),
            strata=strata,
            sizes=sizes,
            documents=np.sum([item.documents for item in sketches], axis=0),
            headings=np.sum([item.headings for item in sketches], axis=0),
            candidates=pa.concat_tables([item.candidates for item in sketches]),
        ),
        design,
    )


def _thin_sketch(whole: Sketch, design: Design) -> Sketch:
    most = np.full(len(whole.strata), largest_quota(whole.sizes, design.size, design.max_share))
    return replace(whole, candidates=_lowest(whole.candidates, whole.strata, most, design.seed))


def _lowest(candidates: pa.Table, strata: Counts, most: Counts, seed: int) -> pa.Table:
    """Return the candidates with the lowest keys, at most ``most`` (K,) per stratum, sorted by stratum, then key."""
    stratum = candidates["stratum"].to_numpy()
    order = np.lexsort((keys(candidates["pmid"].to_numpy(), seed), stratum))
    ordered = stratum[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = order[rank < most[np.searchsorted(strata, ordered)]]
    return candidates.combine_chunks().take(pa.array(kept))
