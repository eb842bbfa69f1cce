"""Build the arrays of a hierarchy from descriptors, except those that follow from the corpus counts."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.mesh.readers import Descriptor

_TREE_NUMBER = re.compile(r"[A-Z]\d+(\.\d+)*")
MAX_CHARACTERS = 500
"""Longest UI or tree number; MeSH's have 10 and 60. The arrays reserve the longest length for every entry."""
_VALUES = {"lineage": "lineage", "ancestor": "ancestor_nodes", "branch": "branches"}


def structure(descriptors: Iterable[Descriptor], tolerate_orphans: bool) -> dict[str, Any]:
    """Return the fields of ``MeshHierarchy`` by name, with the descriptors in the order of their UIs.

    Raises ``ValueError`` as ``MeshHierarchy.from_descriptors`` does.
    """
    rows = sorted(descriptors)
    if not rows:
        raise ValueError("no descriptors")
    refuse("UI given twice", (a.ui for a, b in pairwise(rows) if a.ui == b.ui))
    refuse(
        "UI or tree number too long",
        (text[:60] for row in rows for text in (row.ui, *row.tree_numbers) if len(text) > MAX_CHARACTERS),
    )
    placements = sorted((tree, number) for number, row in enumerate(rows) for tree in row.tree_numbers)
    refuse("malformed tree number", (tree for tree, _ in placements if not _TREE_NUMBER.fullmatch(tree)))
    refuse("tree number held twice", (a for (a, _), (b, _) in pairwise(placements) if a == b))
    holder = dict(placements)
    trees = sorted({prefix for tree in holder for prefix in _path(tree)})
    if not tolerate_orphans and len(trees) > len(holder):
        orphans = (tree for tree in holder if "." in tree and _up(tree) not in holder)
        refuse("orphan tree number, its parent missing", orphans)
    place = {tree: number for number, tree in enumerate(trees)}
    letters = sorted({tree[0] for tree in trees})
    letter = {name: len(rows) + i for i, name in enumerate(letters)}
    categories = sorted({tree.partition(".")[0] for tree in trees})
    category = {name: i for i, name in enumerate(categories)}
    lineage = [sorted({place[prefix] for tree in row.tree_numbers for prefix in _path(tree)}) for row in rows]
    ancestors = [
        sorted(
            {holder[trees[p]] for p in prefixes if trees[p] in holder} | {letter[tree[0]] for tree in row.tree_numbers}
        )
        for row, prefixes in zip(rows, lineage, strict=True)
    ]
    branches = [sorted({category[tree.partition(".")[0]] for tree in row.tree_numbers}) for row in rows]
    arrays: dict[str, Any] = {
        "uis": utf8([row.ui for row in rows]),
        "names": pa.array([row.name for row in rows], pa.string()),
        "entry_terms": pa.array([row.entry_terms for row in rows], pa.list_(pa.string())),
        "letters": utf8(letters),
        "categories": utf8(categories),
        "tree_numbers": utf8(trees),
        "tree_holder": np.array([holder.get(tree, -1) for tree in trees], dtype=np.int32),
        "tree_length": np.array([len(tree) for tree in trees], dtype=np.int32),
        "alias_uis": utf8([]),
        "alias_numbers": np.zeros(0, dtype=np.int32),
    }
    for name, column in (("lineage", lineage), ("ancestor", ancestors), ("branch", branches)):
        offsets, values = _flatten_rows(column)
        arrays |= {f"{name}_offsets": offsets, _VALUES[name]: values}
    return arrays


def _flatten_rows(rows: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return offsets, np.fromiter((value for row in rows for value in row), np.int32, offsets[-1])


def utf8(strings: Sequence[str]) -> npt.NDArray[np.bytes_]:
    """Return the strings (n,) in UTF-8."""
    encoded = [text.encode("utf-8") for text in strings]
    return np.array(encoded, dtype=np.bytes_) if encoded else np.zeros(0, dtype="S1")


def _up(tree: str) -> str:
    return tree.rpartition(".")[0]


def _path(tree: str) -> Iterator[str]:
    """Yield a tree number and its prefixes: C18.452 yields C18.452, C18."""
    while tree:
        yield tree
        tree = _up(tree)


def refuse(fault: str, found: Iterable[str]) -> None:
    """Raise ``ValueError`` that names at most five of ``found``, if it is not empty."""
    names = sorted(set(found))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(f"{fault}: {', '.join(names[:5])}{more}")
