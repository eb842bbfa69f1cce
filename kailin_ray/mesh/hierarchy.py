"""The MeSH hierarchy as frozen numpy arrays.

A node is a descriptor or a category letter. Nodes 0 … D-1 are the descriptors in the order of their UIs, the letters
follow. The ancestors of a descriptor are every node that holds a prefix of any of its tree numbers, the descriptor
itself included::

    D003924 "Diabetes Mellitus, Type 2"   C18.452.394.750.149, C19.246.300
    ancestors: itself, Diabetes Mellitus (C18.452.394.750), Glucose Metabolism Disorders (C18.452.394), …, letter C

They are taken through tree-number prefixes, never by walking from descriptor to descriptor: merging prefixes into
descriptors can create cycles.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kailin_ray.mesh import similarity

Descriptor = tuple[str, str, Sequence[str]]
"""UI, name, tree numbers."""


@dataclass(frozen=True, eq=False)
class MeshHierarchy:
    """Descriptors, their ancestors, and the information content of every node. All arrays are read-only."""

    uis: npt.NDArray[np.bytes_]
    """(D,) the descriptors' UIs, sorted."""
    names: pa.StringArray
    """(D,) their names."""
    ancestor_offsets: npt.NDArray[np.int32]
    """(D+1,) descriptor d's ancestors are ``ancestor_nodes[ancestor_offsets[d]:ancestor_offsets[d+1]]``."""
    ancestor_nodes: npt.NDArray[np.int32]
    """Node numbers, ascending within a descriptor; empty for a descriptor without tree numbers."""
    num_nodes: int
    """D and the category letters."""
    counts: npt.NDArray[np.int64]
    """(D,) documents of the corpus annotated with each descriptor; all zero for the intrinsic information content."""

    @classmethod
    def load(cls, path: str | Path) -> "MeshHierarchy":
        """Read a hierarchy from a tab-separated file (``.tsv`` or ``.tsv.gz``).

        Either with a header that names ``descriptor_ui``, ``name`` and ``tree_numbers`` (separated by ``|``), or
        without one: UI, name, entry terms, tree numbers.

        Raises ``ValueError`` that names file, line and fault.
        """
        return cls.from_descriptors(_read_tsv(Path(path)))

    @classmethod
    def from_descriptors(cls, descriptors: Iterable[Descriptor]) -> "MeshHierarchy":
        """Build from (UI, name, tree numbers).

        Raises ``ValueError`` for a UI given twice, a tree number held twice, a tree number whose parent nobody holds
        (an orphan), or no descriptor at all; it names at most five.
        """
        rows = sorted(descriptors)
        if not rows:
            raise ValueError("no descriptors")
        uis = [ui for ui, _, _ in rows]
        _refuse("UI given twice", (a for a, b in pairwise(uis) if a == b))
        holder: dict[str, int] = {}
        for number, (_, _, trees) in enumerate(rows):
            _refuse("tree number held twice", (tree for tree in trees if holder.setdefault(tree, number) != number))
        letters = sorted({tree[0] for tree in holder})
        orphans = (tree for tree in holder if "." in tree and _up(tree) not in holder)
        _refuse("orphan tree number, its parent missing", orphans)
        holder |= {letter: len(rows) + i for i, letter in enumerate(letters)}
        ancestors = [sorted({holder[node] for tree in trees for node in _path(tree)}) for _, _, trees in rows]
        return cls(
            uis=_frozen(np.array(uis, dtype=np.bytes_)),
            names=pa.array([name for _, name, _ in rows], pa.string()),
            ancestor_offsets=_frozen(np.cumsum([0, *map(len, ancestors)], dtype=np.int32)),
            ancestor_nodes=_frozen(np.array([node for nodes in ancestors for node in nodes], dtype=np.int32)),
            num_nodes=len(rows) + len(letters),
            counts=_frozen(np.zeros(len(rows), dtype=np.int64)),
        )

    def with_counts(self, counts: Mapping[str, int]) -> "MeshHierarchy":
        """Return a new hierarchy with the corpus counts ``{UI: documents}``; UIs unknown here are left out."""
        found = self.find(list(counts))
        values = np.zeros(len(self.uis), dtype=np.int64)
        known = found >= 0
        np.add.at(values, found[known], np.fromiter(counts.values(), np.int64, len(counts))[known])
        return replace(self, counts=_frozen(values))

    @cached_property
    def frequency(self) -> npt.NDArray[np.int64]:
        """(nodes,) ``freq(n)``: the sum of ``count(d) + 1`` over the descriptors d with n among their ancestors."""
        sizes = np.diff(self.ancestor_offsets)
        weights = np.repeat(self.counts + 1, sizes)
        return _frozen(np.bincount(self.ancestor_nodes, weights, minlength=self.num_nodes).astype(np.int64))

    @cached_property
    def total(self) -> int:
        """``N``: the sum of ``count(d) + 1`` over all descriptors with tree numbers."""
        return int((self.counts + 1)[np.diff(self.ancestor_offsets) > 0].sum())

    @cached_property
    def information_content(self) -> npt.NDArray[np.float64]:
        """(nodes,) ``IC(n) = -ln(freq(n) / N)``; infinite for a descriptor without tree numbers, which has none."""
        with np.errstate(divide="ignore"):
            return _frozen(np.abs(-np.log(self.frequency / self.total)))

    def find(self, uis: Sequence[str]) -> npt.NDArray[np.int32]:
        """(len(uis),) the descriptors' numbers, -1 for a UI unknown here."""
        if len(uis) == 0:
            return np.zeros(0, dtype=np.int32)
        wanted = np.char.encode(np.asarray(uis, dtype=np.str_), "utf-8")
        at = np.minimum(np.searchsorted(self.uis, wanted), len(self.uis) - 1)
        return np.where(self.uis[at] == wanted, at, -1).astype(np.int32)

    def placed(self, uis: Sequence[str]) -> npt.NDArray[np.int32]:
        """The numbers, each once, of the descriptors that are known and have tree numbers (*Male* has none)."""
        found = self.find(uis)
        found = found[found >= 0]
        return np.unique(found[np.diff(self.ancestor_offsets)[found] > 0])

    def similarity(self, a: str, b: str, measure: str = "lin") -> float:
        """Similarity of two descriptors with tree numbers.

        ``lin``: 2·IC(m) / (IC(a) + IC(b)), m the common ancestor of highest IC; 1 if a = b; 0 without a common
        ancestor (Lin 1998).

        Raises ``ValueError`` for an unknown measure and ``KeyError`` for a UI that is unknown or has no tree number.
        """
        for ui in (a, b):
            if len(self.placed([ui])) == 0:
                raise KeyError(f"{ui} is not a descriptor with a tree number in this hierarchy")
        return cast(float, self.set_similarity([a], [b], measure, "mean"))

    def set_similarity(
        self, a: Sequence[str], b: Sequence[str], measure: str = "lin", aggregate: str = "bma"
    ) -> float | None:
        """Similarity of two sets of descriptors; descriptors unknown or without tree numbers are left out.

        ``bma``: the best-match average, (Σ_a max_b s(a,b) + Σ_b max_a s(a,b)) / (|A| + |B|);
        ``mean``: the mean over all pairs. None if either set is then empty.
        """
        value = self.score([a], [b], measure, aggregate)[0]
        return None if np.isnan(value) else float(value)

    def score(
        self,
        sources: Sequence[Sequence[str]],
        contexts: Sequence[Sequence[str]],
        measure: str = "lin",
        aggregate: str = "bma",
    ) -> npt.NDArray[np.float64]:
        """(n,) ``set_similarity`` of each source with the context at the same place; NaN where it is missing."""
        similarity.check(measure, aggregate)
        a, b = [self.placed(s) for s in sources], [self.placed(c) for c in contexts]
        return similarity.lin_of_sets(
            *_ragged(a),
            *_ragged(b),
            self.ancestor_offsets,
            self.ancestor_nodes,
            self.information_content,
            aggregate == "bma",
        )


def _ragged(rows: list[npt.NDArray[np.int32]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return offsets, np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array.flags.writeable = False
    return array


def _up(tree: str) -> str:
    return tree.rpartition(".")[0]


def _path(tree: str) -> Iterator[str]:
    """A tree number, its prefixes and its category letter: C18.452 gives C18.452, C18, C."""
    node = tree
    while node:
        yield node
        node = _up(node)
    yield tree[0]


def _refuse(fault: str, found: Iterable[str]) -> None:
    names = sorted(set(found))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(f"{fault}: {', '.join(names[:5])}{more}")


def _read_tsv(path: Path) -> Iterator[Descriptor]:
    raw = path.read_bytes()
    try:
        content = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a MeSH table: {error}") from error
    columns = ["descriptor_ui", "name", "entry_terms", "tree_numbers"]
    for number, fields in enumerate(csv.reader(io.StringIO(content), delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
        if number == 1 and "descriptor_ui" in fields:
            columns = fields
            continue
        row = dict(zip(columns, fields, strict=False))
        if not {"descriptor_ui", "name", "tree_numbers"} <= row.keys() or not row["descriptor_ui"]:
            raise ValueError(f"{path}, line {number}: expected the columns {', '.join(columns)}, got {fields[:4]!r}")
        yield row["descriptor_ui"], row["name"], [tree for tree in row["tree_numbers"].split("|") if tree]
