"""How headings spread over the branches of MeSH: the corpus beside what was accepted and what was not.

The unit is a heading, that is a descriptor of a document. It counts once in each branch that the descriptor has a tree
number in: at the first level the category letter (``C`` Diseases), at the second the first component (``C18``
Nutritional and Metabolic Diseases). Sample, one branch of ``coverage(...)["letters"]["branches"]``::

    {"branch": "C", "name": "Diseases", "corpus": 24310, "accepted": 61, "rejected": 25}
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import jensenshannon

from kailin_ray.mesh.hierarchy import MeshHierarchy

Counts = npt.NDArray[np.int64]

LETTERS = {
    "A": "Anatomy",
    "B": "Organisms",
    "C": "Diseases",
    "D": "Chemicals and Drugs",
    "E": "Techniques and Equipment",
    "F": "Psychiatry and Psychology",
    "G": "Phenomena and Processes",
    "H": "Disciplines and Occupations",
    "I": "Anthropology, Education, Sociology",
    "J": "Technology, Industry, Agriculture",
    "K": "Humanities",
    "L": "Information Science",
    "M": "Named Groups",
    "N": "Health Care",
    "V": "Publication Characteristics",
    "Z": "Geographicals",
}
"""NLM's categories, which no file of MeSH names."""


def coverage(mesh: MeshHierarchy, accepted: Mapping[str, int], rejected: Mapping[str, int]) -> dict[str, Any]:
    """Spread and coverage at both levels.

    ``accepted`` and ``rejected``: headings by UI, of the documents that were and were not; the corpus' are the counts
    of ``mesh``. Of each level: ``branches``; ``num_in_corpus`` and ``num_reached``, the branches that the corpus has
    and those of them that what was accepted has too; ``divergence``, the Jensen-Shannon divergence in bits between the
    corpus' spread and that of what was accepted (0: alike, 1: nothing shared; null where one of them is empty).
    """
    spreads = [mesh.counts, *(mesh.with_counts(counts).counts for counts in (accepted, rejected))]
    descriptors = np.repeat(np.arange(len(mesh.uis)), np.diff(mesh.branch_offsets))
    letter_of_category = np.searchsorted(mesh.letters, mesh.categories.astype("S1"))
    # A descriptor with tree numbers in C04 and C18 counts once in C.
    letters = np.unique(np.stack([descriptors, letter_of_category[mesh.branches]]), axis=1)
    holders = dict(zip(mesh.tree_numbers.tolist(), mesh.tree_holder.tolist(), strict=True))
    at = [holders[category] for category in mesh.categories.tolist()]
    names = [mesh.names[holder].as_py() if holder >= 0 else None for holder in at]
    letter_names = [LETTERS.get(letter.decode()) for letter in mesh.letters.tolist()]
    return {
        "letters": _level(mesh.letters, letter_names, letters[0], letters[1], spreads),
        "categories": _level(mesh.categories, names, descriptors, mesh.branches, spreads),
    }


def _level(
    branches: npt.NDArray[np.bytes_], names: list[Any], descriptors: Any, places: Any, spreads: list[Counts]
) -> dict[str, Any]:
    corpus, accepted, rejected = (
        np.bincount(places, counts[descriptors], minlength=len(branches)).astype(int) for counts in spreads
    )
    rows = zip(branches.tolist(), names, corpus.tolist(), accepted.tolist(), rejected.tolist(), strict=True)
    return {
        "branches": [
            {"branch": branch.decode(), "name": name, "corpus": c, "accepted": a, "rejected": r}
            for branch, name, c, a, r in rows
        ],
        "num_in_corpus": int((corpus > 0).sum()),
        "num_reached": int(((corpus > 0) & (accepted > 0)).sum()),
        "divergence": divergence(corpus, accepted),
    }


def divergence(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> float | None:
    """Jensen-Shannon divergence in bits (Lin 1991, doi:10.1109/18.61115) of two spreads, given as counts."""
    if not one.sum() or not two.sum():
        return None
    return round(float(jensenshannon(one, two, base=2)) ** 2, 4)
