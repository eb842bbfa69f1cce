"""What a sample is like beside the corpus it is drawn from: exact counts by stratum and by branch, before and after.

Sample, one branch of ``balance(...)["categories"]["branches"]`` and one of its strata::

    {"branch": "C04", "name": "Neoplasms", "documents_before": 1506, "documents_after": 201,
     "share_before": 0.1015, "share_after": 0.1005, "headings_before": 2433, "headings_after": 330}
    {"stratum": "C04 1978", "name": "Neoplasms", "documents_before": 41, "documents_after": 9,
     "share_before": 0.0028, "share_after": 0.0045}
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import entropy

from kailin_ray.corpus.selection.sampling import NO_YEAR, PERIODS, Design, Sketch
from kailin_ray.mesh.coverage import Branches, branches, divergence
from kailin_ray.mesh.hierarchy import MeshHierarchy

Counts = npt.NDArray[np.int64]
NO_BRANCH = "none"
"""The stratum of documents of whose headings none has a place in MeSH's tree."""


def balance(whole: Sketch, chosen: pa.Table, mesh: MeshHierarchy, design: Design) -> dict[str, Any]:
    """The corpus, that is all documents of the sketch, beside those that ``draw`` chose.

    ``num_documents``, ``strata``, and ``letters`` and ``categories`` by branch. Before is the corpus, after the sample.
    Shares are of all documents, of which one can be in several branches. Of each level: ``num_in_corpus`` and
    ``num_reached``, the branches that the corpus has and those of them that the sample has; ``largest_share``, the
    largest share that one of them has; and of the spread of documents over branches its ``entropy`` in bits, before,
    after, and were it ``even`` over the branches of the corpus, and Jensen-Shannon divergences in bits, 0 to 1:
    ``from_corpus``, the sample's from the corpus', ``from_even_before`` and ``from_even_after``, from that even spread.
    ``strata`` has the first three of these. Only major headings count if the design says so.
    """
    levels = branches(mesh)
    documents, headings = _of_chosen(chosen["branches"].combine_chunks(), len(levels.labels))
    before, after = whole.num_documents, len(chosen)
    numbers = np.searchsorted(whole.strata, chosen["stratum"].to_numpy())
    quotas = np.bincount(numbers, minlength=len(whole.strata))
    found: dict[str, Any] = {
        "design": asdict(design),
        "num_documents": {"before": before, "after": after},
        "strata": {
            **_reached(whole.sizes, quotas, before, after),
            "strata": [
                _label(number, levels, design) | row
                for number, row in zip(whole.strata.tolist(), _rows(whole.sizes, quotas, before, after), strict=True)
            ],
        },
    }
    for level, at in levels.levels.items():
        rows = zip(
            levels.labels[at],
            levels.names[at],
            _rows(whole.documents[at], documents[at], before, after),
            whole.headings[at].tolist(),
            headings[at].tolist(),
            strict=True,
        )
        found[level] = {
            **_reached(whole.documents[at], documents[at], before, after),
            **_spread(whole.documents[at], documents[at]),
            "branches": [
                {"branch": label, "name": name} | row | {"headings_before": all_of_it, "headings_after": drawn}
                for label, name, row, all_of_it, drawn in rows
            ],
        }
    return found


def _of_chosen(lists: pa.ListArray, num_branches: int) -> tuple[Counts, Counts]:
    """(C+L,) documents and headings in each branch."""
    rows, places = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists).to_numpy()
    each_once = np.unique(rows.astype(np.int64) * num_branches + places) % num_branches
    return np.bincount(each_once, minlength=num_branches), np.bincount(places, minlength=num_branches)


def _label(number: int, levels: Branches, design: Design) -> dict[str, Any]:
    branch, period = divmod(number, PERIODS)
    labels, name = [], None
    if design.by:
        known = branch < len(levels.labels)
        labels.append(levels.labels[branch] if known else NO_BRANCH)
        name = levels.names[branch] if known else None
    if design.period:
        year = f"{period}s" if design.period == "decade" else str(period)
        labels.append("no year" if period == NO_YEAR else year)
    return {"stratum": " ".join(labels) or "all", "name": name}


def _rows(corpus: Counts, sample: Counts, before: int, after: int) -> list[dict[str, Any]]:
    return [
        {
            "documents_before": one,
            "documents_after": two,
            "share_before": _share(one, before),
            "share_after": _share(two, after),
        }
        for one, two in zip(corpus.tolist(), sample.tolist(), strict=True)
    ]


def _share(part: int, total: int) -> float:
    return round(part / total, 6) if total else 0.0


def _reached(corpus: Counts, sample: Counts, before: int, after: int) -> dict[str, Any]:
    return {
        "num_in_corpus": int((corpus > 0).sum()),
        "num_reached": int((sample > 0).sum()),
        "largest_share": {
            "before": _share(int(corpus.max(initial=0)), before),
            "after": _share(int(sample.max(initial=0)), after),
        },
    }


def _spread(corpus: Counts, sample: Counts) -> dict[str, Any]:
    even = (corpus > 0).astype(np.int64)
    return {
        "entropy": {
            name: round(float(entropy(counts, base=2)), 4) if counts.sum() else None
            for name, counts in (("before", corpus), ("after", sample), ("even", even))
        },
        "divergence": {
            "from_corpus": divergence(corpus, sample),
            "from_even_before": divergence(corpus, even),
            "from_even_after": divergence(sample, even),
        },
    }
