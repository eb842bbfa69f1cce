"""Which documents are distilled: a seeded sample, uniform or stratified over MeSH's branches and time, in one pass.

Every document has a key, a hash of seed and PMID; of each stratum those with the lowest keys are taken. So a sample is
the same in whatever files, order and machines the documents come. Of each part of the corpus a ``Sketch`` is made
(the exact counts, and the documents that may yet be drawn), sketches are merged, and from the last one is drawn::

    design = Design(budget=2000, seed=7, by="categories", major=True)
    whole = merge((sketch(part, mesh, design) for part in parts), design)
    chosen = draw(whole, design)["pmid"]

By branch a document belongs to one stratum, the rarest of its branches in the corpus. The rate at which a stratum is
drawn from falls with the documents of its *branch* (``frequency^(power-1)``), not with the stratum's own size: strata
of rarest branches are nearly of one size, so by that the rare ones would hardly be lifted.
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
"""A stratum's number is ``branch * PERIODS + period``; the period is a year, or a decade by its first year."""
ROWS_AT_ONCE = 1 << 18
"""Candidates that are gathered before they are thinned out."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a sample is drawn; without ``by`` and ``period`` it is uniform."""

    budget: int
    """Documents to choose; all of them where there are fewer."""
    seed: int
    by: Literal["letters", "categories"] | None = None
    """Strata by MeSH's first level (``C`` Diseases) or second (``C04`` Neoplasms)."""
    period: Literal["year", "decade"] | None = None
    """Strata by time; with ``by`` too, each branch and period is a stratum."""
    major: bool = False
    """Only major headings count, what a document is about; for the strata and for the counts by branch."""
    power: float = 0.5
    """1: all strata are drawn from at one rate; 0: the rate is inverse to the frequency."""
    max_share: float = 1.0
    min_per_stratum: int = 0
    """As in ``allocate``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """What is known of some documents: how many, and which of them may be drawn, however many more come."""

    num_documents: int
    strata: Counts
    sizes: Counts
    """(K,) the numbers of the strata that have documents, rising, and how many each has."""
    documents: Counts
    headings: Counts
    """(C+L,) documents with a heading in each branch, and headings there; see ``coverage.branches``."""
    candidates: pa.Table
    """``pmid``, ``stratum``, and ``branches``, those of each heading one after another; by stratum, then key. Of each
    stratum at most ``largest_quota``, about 40 bytes each."""


def keys(pmids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """(n,) a hash of seed and PMID; different for different PMIDs."""
    start = _mix_state(np.array([seed % (1 << 64)], dtype=np.uint64))
    return _mix_state(pmids.astype(np.uint64) + start)


def _mix_state(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195), a bijection."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def sketch(documents: pa.Table, mesh: MeshHierarchy, design: Design) -> Sketch:
    """The sketch of some documents, each PMID once: of the columns ``pmid``, ``mesh`` and ``year``.

    Takes a byte for each document and branch (4 MB for 32,768 documents). Raises ``ValueError`` for strata by branch
    where ``mesh`` has no counts of the corpus: they say which branch is rare.
    """
    levels = branches(mesh)
    rows, places = _places(documents["mesh"], mesh, levels, design.major)
    there = np.zeros((len(documents), len(levels.labels)), dtype=bool)
    there[rows, places] = True
    stratum = np.zeros(len(documents), dtype=np.int64)
    if design.by:
        stratum += PERIODS * _rarest(there, mesh, levels, design.by)
    if design.period:
        stratum += _periods(documents["year"], design.period)
    strata, sizes = np.unique(stratum, return_counts=True)
    ends = np.append(0, np.cumsum(np.bincount(rows, minlength=len(documents))))
    return _thin_sketch(
        Sketch(
            num_documents=len(documents),
            strata=strata,
            sizes=sizes,
            documents=there.sum(axis=0),
            headings=np.bincount(places, minlength=len(levels.labels)),
            candidates=_table(documents["pmid"].to_numpy(), stratum, ends, places, len(levels.labels)),
        ),
        design,
    )


def merge(sketches: Iterable[Sketch], design: Design) -> Sketch:
    """The sketch of all that the ``sketches`` are of; the same in whatever order, and merged in whatever groups.

    Holds at most twice the candidates that stay, and ``ROWS_AT_ONCE``. Raises ``ValueError`` for none at all.
    """
    held: list[Sketch] = []
    enough = ROWS_AT_ONCE
    for one in sketches:
        held.append(one)
        if sum(len(each.candidates) for each in held) > enough:
            held = [_join_sketches(held, design)]
            enough = max(ROWS_AT_ONCE, 2 * len(held[0].candidates))
    if not held:
        raise ValueError("no sketches to merge")
    return _join_sketches(held, design)


def draw(whole: Sketch, design: Design) -> pa.Table:
    """The chosen candidates, sorted by PMID: exactly ``budget`` of them, or all."""
    quotas = allocate(
        whole.sizes,
        design.budget,
        power=design.power,
        max_share=design.max_share,
        min_per_stratum=design.min_per_stratum,
        frequency=frequency(whole, design),
    )
    return _lowest(whole.candidates, whole.strata, quotas, design.seed).sort_by("pmid")


def frequency(whole: Sketch, design: Design) -> npt.NDArray[np.float64]:
    """(K,) documents that share each stratum's branch; if there are periods, times those that share its period.

    A stratum without a branch is as frequent as its documents are.
    """
    found = np.ones(len(whole.strata))
    branch, period = np.divmod(whole.strata, PERIODS)
    if design.by:
        nowhere = whole.sizes[branch == len(whole.documents)].sum()
        found *= np.append(whole.documents, nowhere)[branch]
    if design.period:
        _, group = np.unique(period, return_inverse=True)
        found *= np.bincount(group, whole.sizes)[group]
    return found


def _places(
    column: pa.ChunkedArray, mesh: MeshHierarchy, levels: Branches, major: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Row and branch for each branch of each heading; the rows rising."""
    found = read_headings(column, mesh, major)
    begin, end = levels.offsets[found.descriptors], levels.offsets[found.descriptors + 1]
    sizes = end - begin
    before = np.cumsum(sizes) - sizes
    at = np.repeat(begin - before, sizes) + np.arange(sizes.sum())
    return np.repeat(found.rows, sizes), levels.places[at]


def _rarest(there: npt.NDArray[np.bool_], mesh: MeshHierarchy, levels: Branches, by: str) -> Counts:
    """(n,) of each row of (n, C+L) the branch with the fewest headings in the corpus; C+L where it has none."""
    if not mesh.counts.any():
        raise ValueError("strata by branch need a hierarchy with the corpus' counts; see with_counts")
    at = levels.levels[by]
    descriptors = np.repeat(np.arange(len(mesh.uis)), np.diff(levels.offsets))
    headings = np.bincount(levels.places, mesh.counts[descriptors], minlength=len(levels.labels))[at]
    order = np.argsort(headings, kind="stable")
    ranked = there[:, at][:, order]
    return np.where(ranked.any(axis=1), at.start + order[ranked.argmax(axis=1)], len(levels.labels))


def _periods(column: pa.ChunkedArray, period: str) -> Counts:
    years: Counts = np.asarray(column.fill_null(NO_YEAR).to_numpy(), dtype=np.int64)
    years = np.maximum(years, NO_YEAR)
    return years if period == "year" else years // 10 * 10


def _table(pmids: Counts, stratum: Counts, ends: Counts, places: Counts, num_branches: int) -> pa.Table:
    small = np.min_scalar_type(num_branches)  # MeSH's 131 fit a byte
    lists = pa.ListArray.from_arrays(ends.astype(np.int32), places.astype(small))
    return pa.table({"pmid": pmids, "stratum": stratum.astype(np.int32), "branches": lists})


def _join_sketches(held: list[Sketch], design: Design) -> Sketch:
    strata, group = np.unique(np.concatenate([one.strata for one in held]), return_inverse=True)
    sizes = np.zeros(len(strata), dtype=np.int64)
    np.add.at(sizes, group, np.concatenate([one.sizes for one in held]))
    return _thin_sketch(
        Sketch(
            num_documents=sum(one.num_documents for one in held),
            strata=strata,
            sizes=sizes,
            documents=np.sum([one.documents for one in held], axis=0),
            headings=np.sum([one.headings for one in held], axis=0),
            candidates=pa.concat_tables([one.candidates for one in held]),
        ),
        design,
    )


def _thin_sketch(whole: Sketch, design: Design) -> Sketch:
    most = np.full(len(whole.strata), largest_quota(whole.sizes, design.budget, design.max_share))
    return replace(whole, candidates=_lowest(whole.candidates, whole.strata, most, design.seed))


def _lowest(candidates: pa.Table, strata: Counts, most: Counts, seed: int) -> pa.Table:
    """Of each stratum those with the lowest keys, at most as many as ``most`` (K,) says; by stratum, then key."""
    stratum = candidates["stratum"].to_numpy()
    order = np.lexsort((keys(candidates["pmid"].to_numpy(), seed), stratum))
    ordered = stratum[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = order[rank < most[np.searchsorted(strata, ordered)]]
    return candidates.combine_chunks().take(pa.array(kept))
