"""Compare a sample with the corpus that it is drawn from: exact counts by stratum and by branch, before and after.

An example of an entry of ``balance(...)["categories"]["branches"]``, and of a stratum::

    {"branch": "C04", "name": "Neoplasms", "documents_before": 1506, "documents_after": 201,
     "share_before": 0.1015, "share_after": 0.1005, "headings_before": 2433, "headings_after": 330}
    {"stratum": "C04 1978", "name": "Neoplasms", "documents_before": 41, "documents_after": 9,
     "share_before": 0.0028, "share_after": 0.0045}
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import entropy

from kailin_ray.corpus.selection.sampling import NO_YEAR, PERIODS, Design, Sketch
from kailin_ray.mesh.coverage import Branches, branches, divergence
from kailin_ray.mesh.figures import (
    BranchFigures,
    DesignFigures,
    Divergence,
    Entropy,
    LevelFigures,
    SampleFigures,
    Shares,
    StratumFigures,
)
from kailin_ray.mesh.hierarchy import MeshHierarchy

Counts = npt.NDArray[np.int64]
NO_BRANCH = "none"
"""The stratum of documents without a heading that has a place in the MeSH tree."""


def balance(whole: Sketch, chosen: pa.Table, mesh: MeshHierarchy, design: Design) -> SampleFigures:
    """Compare the corpus, which is all documents of the sketch, with the documents that ``draw`` chose.

    Return ``num_documents``, ``strata``, and the levels ``letters`` and ``categories`` by branch. "Before" is the
    corpus and "after" is the sample. Shares are of all documents; a document can be in several branches. Only major
    headings count if the design says so. The figures of each level are:

    - ``num_in_corpus`` and ``num_reached``: the number of branches in the corpus, and of those in the sample
    - ``largest_share``: the largest share of one branch
    - ``entropy``: of the distribution of documents over branches, in bits: before, after, and for an ``even``
      distribution over the branches of the corpus
    - ``divergence``: Jensen-Shannon divergences in bits, 0 to 1: ``from_corpus``, of the sample from the corpus;
      ``from_even_before`` and ``from_even_after``, of corpus and sample from the even distribution

    ``strata`` has only the first three figures.
    """
    levels = branches(mesh)
    documents, headings = _of_chosen(chosen["branches"].combine_chunks(), len(levels.labels))
    before, after = whole.num_documents, len(chosen)
    numbers = np.searchsorted(whole.strata, chosen["stratum"].to_numpy())
    quotas = np.bincount(numbers, minlength=len(whole.strata))
    figures: dict[str, LevelFigures] = {}
    for level, at in levels.levels.items():
        reached = _count_reached(whole.documents[at], documents[at], before, after)
        entropies, divergences = _spread(whole.documents[at], documents[at])
        figures[level] = {
            "num_in_corpus": reached.num_in_corpus,
            "num_reached": reached.num_reached,
            "largest_share": reached.largest_share,
            "entropy": entropies,
            "divergence": divergences,
            "branches": _branch_rows(levels, at, whole, documents[at], headings[at], after),
        }
    reached = _count_reached(whole.sizes, quotas, before, after)
    return {
        "design": _design(design),
        "num_documents": {"before": before, "after": after},
        "strata": {
            "num_in_corpus": reached.num_in_corpus,
            "num_reached": reached.num_reached,
            "largest_share": reached.largest_share,
            "strata": _stratum_rows(levels, whole, quotas, after, design),
        },
        "letters": figures["letters"],
        "categories": figures["categories"],
    }


def _design(design: Design) -> DesignFigures:
    return {
        "size": design.size,
        "seed": design.seed,
        "stratify_by": design.stratify_by,
        "period": design.period,
        "major_only": design.major_only,
        "alpha": design.alpha,
        "max_share": design.max_share,
        "min_per_stratum": design.min_per_stratum,
    }


def _branch_rows(
    levels: Branches, at: slice, whole: Sketch, documents: Counts, headings: Counts, num_chosen: int
) -> list[BranchFigures]:
    rows = zip(
        levels.labels[at],
        levels.names[at],
        whole.documents[at].tolist(),
        documents.tolist(),
        whole.headings[at].tolist(),
        headings.tolist(),
        strict=True,
    )
    return [
        {
            "branch": label,
            "name": name,
            "documents_before": before,
            "documents_after": after,
            "share_before": _share(before, whole.num_documents),
            "share_after": _share(after, num_chosen),
            "headings_before": headings_before,
            "headings_after": headings_after,
        }
        for label, name, before, after, headings_before, headings_after in rows
    ]


def _stratum_rows(
    levels: Branches, whole: Sketch, quotas: Counts, num_chosen: int, design: Design
) -> list[StratumFigures]:
    rows = zip(whole.strata.tolist(), whole.sizes.tolist(), quotas.tolist(), strict=True)
    return [
        {
            "stratum": _label(number, levels, design),
            "name": _branch_name(number, levels, design),
            "documents_before": before,
            "documents_after": after,
            "share_before": _share(before, whole.num_documents),
            "share_after": _share(after, num_chosen),
        }
        for number, before, after in rows
    ]


def _of_chosen(lists: pa.ListArray, num_branches: int) -> tuple[Counts, Counts]:
    """Return (C+L,) the numbers of documents and of headings in each branch."""
    rows, places = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()
    each_once = np.unique(rows.astype(np.int64) * num_branches + places) % num_branches
    return np.bincount(each_once, minlength=num_branches), np.bincount(places, minlength=num_branches)


def _label(number: int, levels: Branches, design: Design) -> str:
    branch, period = divmod(number, PERIODS)
    labels = []
    if design.stratify_by:
        labels.append(levels.labels[branch] if branch < len(levels.labels) else NO_BRANCH)
    if design.period:
        year = f"{period}s" if design.period == "decade" else str(period)
        labels.append("no year" if period == NO_YEAR else year)
    return " ".join(labels) or "all"


def _branch_name(number: int, levels: Branches, design: Design) -> str | None:
    branch = number // PERIODS
    return levels.names[branch] if design.stratify_by and branch < len(levels.labels) else None


def _share(count: int, total: int) -> float:
    return round(count / total, 6) if total else 0.0


class _Reached(NamedTuple):
    num_in_corpus: int
    num_reached: int
    largest_share: Shares


def _count_reached(corpus: Counts, sample: Counts, before: int, after: int) -> _Reached:
    return _Reached(
        num_in_corpus=int((corpus > 0).sum()),
        num_reached=int((sample > 0).sum()),
        largest_share={
            "before": _share(int(corpus.max(initial=0)), before),
            "after": _share(int(sample.max(initial=0)), after),
        },
    )


def _spread(corpus: Counts, sample: Counts) -> tuple[Entropy, Divergence]:
    even = (corpus > 0).astype(np.int64)
    return {
        "before": _entropy(corpus),
        "after": _entropy(sample),
        "even": _entropy(even),
    }, {
        "from_corpus": divergence(corpus, sample),
        "from_even_before": divergence(corpus, even),
        "from_even_after": divergence(sample, even),
    }


def _entropy(counts: Counts) -> float | None:
    return round(float(entropy(counts, base=2)), 4) if counts.sum() else None
