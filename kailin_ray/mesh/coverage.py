"""How headings spread over the branches of MeSH: the corpus compared with accepted and rejected documents.

The unit is a heading, that is, a descriptor of a document. It counts once in each branch where the descriptor has a
tree number. At the first level, a branch is a category letter (``C`` Diseases); at the second, it is a first component
(``C18`` Nutritional and Metabolic Diseases). Sample, one branch of ``coverage(...)["letters"]["branches"]``::

    {"branch": "C", "name": "Diseases", "corpus": 24310, "accepted": 61, "rejected": 25}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import jensenshannon

from kailin_ray.mesh.figures import Coverage, CoverageLevel
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
"""Names of NLM's categories, which no MeSH file contains."""


def coverage(mesh: MeshHierarchy, accepted: Mapping[str, int], rejected: Mapping[str, int]) -> Coverage:
    """Return spread and coverage at both levels.

    ``accepted`` and ``rejected`` count the headings of accepted and of rejected documents, by UI; the counts of the
    corpus are in ``mesh``. Each level has ``branches``; ``num_in_corpus``, the number of branches in the corpus;
    ``num_reached``, how many of these the accepted documents reach; and ``divergence``, the Jensen-Shannon divergence
    in bits between the spreads of the corpus and of the accepted documents (0: equal, 1: nothing shared; null if either
    is empty).
    """
    spreads = [mesh.counts, *(mesh.with_counts(counts).counts for counts in (accepted, rejected))]
    levels = branches(mesh)
    descriptors = np.repeat(np.arange(len(mesh.uis)), np.diff(levels.offsets))
    counted = [
        np.bincount(levels.places, counts[descriptors], minlength=len(levels.labels)).astype(int) for counts in spreads
    ]
    letters, categories = (
        _level(levels, at, [counts[at] for counts in counted])
        for at in (levels.levels["letters"], levels.levels["categories"])
    )
    return {"letters": letters, "categories": categories}


@dataclass(frozen=True, kw_only=True, eq=False)
class Branches:
    """The branches of MeSH: C categories (second level), then L letters (first level)."""

    labels: list[str]
    """(C+L,) ``C18``, ``C``."""
    names: list[str | None]
    """(C+L,) for a category, the name of its descriptor; None if no descriptor holds its tree number."""
    levels: dict[str, slice]
    """``letters`` and ``categories``: the slice of each level."""
    offsets: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    """(D ragged) the branches where each descriptor has tree numbers, each once."""


def branches(mesh: MeshHierarchy) -> Branches:
    """Return the branches of both levels, and those of every descriptor."""
    num_categories, num_letters = len(mesh.categories), len(mesh.letters)
    descriptors = np.repeat(np.arange(len(mesh.uis)), np.diff(mesh.branch_offsets))
    letters = num_categories + np.searchsorted(mesh.letters, mesh.categories.astype("S1"))[mesh.branches]
    # A descriptor with tree numbers in C04 and C18 counts once in C.
    size = num_categories + num_letters
    both = np.unique(np.append(descriptors, descriptors) * size + np.append(mesh.branches, letters))
    descriptors, places = np.divmod(both, size)
    holders = mesh.tree_holder[np.searchsorted(mesh.tree_numbers, mesh.categories)].tolist()
    return Branches(
        labels=[label.decode() for label in (*mesh.categories.tolist(), *mesh.letters.tolist())],
        names=[
            *(mesh.names[holder].as_py() if holder >= 0 else None for holder in holders),
            *(LETTERS.get(letter.decode()) for letter in mesh.letters.tolist()),
        ],
        levels={
            "letters": slice(num_categories, num_categories + num_letters),
            "categories": slice(0, num_categories),
        },
        offsets=np.searchsorted(descriptors, np.arange(len(mesh.uis) + 1)),
        places=places,
    )


def _level(levels: Branches, at: slice, counted: list[Counts]) -> CoverageLevel:
    corpus, accepted, _ = counted
    rows = zip(levels.labels[at], levels.names[at], *(counts.tolist() for counts in counted), strict=True)
    return {
        "branches": [
            {"branch": branch, "name": name, "corpus": c, "accepted": a, "rejected": r}
            for branch, name, c, a, r in rows
        ],
        "num_in_corpus": int((corpus > 0).sum()),
        "num_reached": int(((corpus > 0) & (accepted > 0)).sum()),
        "divergence": divergence(corpus, accepted),
    }


def divergence(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> float | None:
    """Return the Jensen-Shannon divergence in bits (Lin 1991, doi:10.1109/18.61115) of two spreads as counts."""
    if not one.sum() or not two.sum():
        return None
    return round(float(jensenshannon(one, two, base=2)) ** 2, 4)
