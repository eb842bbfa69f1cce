"""Information content: everything in a hierarchy that depends on the corpus counts of its descriptors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def compute_information_content(structure: Mapping[str, Any], counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return the fields that depend on the corpus counts; also the ancestors, because their order does."""
    offsets, nodes = structure["ancestor_offsets"], structure["ancestor_nodes"]
    sizes = np.diff(offsets)
    num_nodes = len(structure["uis"]) + len(structure["letters"])
    frequency = np.bincount(nodes, np.repeat(counts + 1, sizes), minlength=num_nodes).astype(np.int64)
    total = int((counts + 1)[sizes > 0].sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        ic = np.abs(-np.log(frequency / total)) if total else np.full(num_nodes, np.inf)
    descriptor_ic = ic[: len(counts)][sizes > 0]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return {
        "counts": counts,
        "frequency": frequency,
        "total": total,
        "information_content": ic,
        "max_information_content": float(descriptor_ic.max()) if len(descriptor_ic) else 0.0,
        "ancestor_nodes": nodes[np.lexsort((nodes, -ic[nodes], rows))],
        **_branches(structure, counts),
    }


def _branches(structure: Mapping[str, Any], counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return ``IC_c(d) = -log10(Σ f_c(x))`` and its maximum in each category c.

    The sum is over d and its descendants x within c; ``f_c(x)`` = count(x) / Σ counts in c.
    """
    branch_offsets, branches = structure["branch_offsets"], structure["branches"]
    num_categories, num_descriptors = len(structure["categories"]), len(counts)
    descriptors = np.repeat(np.arange(num_descriptors), np.diff(branch_offsets))
    # A pair is a descriptor in a category. Each tree number belongs to the pair of its holder and its category.
    pairs = descriptors.astype(np.int64) * num_categories + branches
    firsts = np.array([tree.partition(b".")[0] for tree in structure["tree_numbers"]], dtype=np.bytes_)
    tree_category = np.searchsorted(structure["categories"], firsts)
    tree_pair = np.searchsorted(pairs, structure["tree_holder"].astype(np.int64) * num_categories + tree_category)
    # A descriptor counts once for each pair that it is under, however many of its tree numbers are.
    rows = np.repeat(np.arange(num_descriptors, dtype=np.int64), np.diff(structure["lineage_offsets"]))
    lineage = structure["lineage"]
    placed = structure["tree_holder"][lineage] >= 0
    under = np.unique(rows[placed] * len(pairs) + tree_pair[lineage[placed]]) if len(pairs) else np.zeros(0, np.int64)
    row, pair = np.divmod(under, max(len(pairs), 1))
    below = np.bincount(pair, counts[row], minlength=len(pairs))
    in_category = np.bincount(branches, counts[descriptors], minlength=num_categories)[branches]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(in_category > 0, below / in_category, 0.0)
        ic = np.where((share > 0.0) & (share <= 1.0), np.abs(-np.log10(share)), 0.0)
    highest = np.zeros(num_categories)
    np.maximum.at(highest, branches, ic)
    return {"branch_ic": ic, "branch_max_ic": highest}
