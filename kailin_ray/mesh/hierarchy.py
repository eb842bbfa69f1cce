"""The MeSH hierarchy as frozen arrays.

A node is a descriptor or a category letter. Nodes 0 … D-1 are the descriptors in the order of their UIs, the letters
follow. The ancestors of a descriptor are every node that holds a prefix of any of its tree numbers, the descriptor
itself included::

    D003924 "Diabetes Mellitus, Type 2"   C18.452.394.750.149, C19.246.300
    ancestors: itself, Diabetes Mellitus (C18.452.394.750), Glucose Metabolism Disorders (C18.452.394), …, letter C

They are taken through tree-number prefixes, never by walking from descriptor to descriptor: merging prefixes into
descriptors can create cycles.

Ragged columns are offsets and values: row i is ``values[offsets[i]:offsets[i+1]]``. All arrays are read-only, and
Ray's object store gives them to a node's processes without a copy.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.mesh import similarity
from kailin_ray.mesh.readers import Descriptor, descriptor, read_descriptors

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Sets = Any
"""n sets of descriptors: an Arrow list array of UIs; numpy's (n+1,) offsets and (…,) values, which are UIs or the
numbers that ``find`` gives; or plain lists of UIs."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MeshHierarchy:
    """Descriptors, their ancestors, and the information content of every node."""

    uis: npt.NDArray[np.bytes_]
    """(D,) the descriptors' UIs, sorted."""
    names: pa.StringArray
    """(D,) their names."""
    entry_terms: pa.ListArray
    """(D,) other names that mean them."""
    letters: npt.NDArray[np.bytes_]
    """(L,) the category letters, sorted; letter i is node D+i."""
    categories: npt.NDArray[np.bytes_]
    """(C,) the first components of tree numbers (``C18``), sorted."""
    tree_numbers: npt.NDArray[np.bytes_]
    """(T,) all tree numbers, sorted."""
    tree_holder: Ints
    """(T,) the descriptor at each tree number."""
    tree_length: Ints
    """(T,) characters of each tree number."""
    lineage_offsets: Ints
    lineage: Ints
    """(D ragged) each descriptor's tree numbers and all their held prefixes, as places in ``tree_numbers``."""
    ancestor_offsets: Ints
    ancestor_nodes: Ints
    """(D ragged) each descriptor's ancestors, the more informative first; empty without tree numbers."""
    branch_offsets: Ints
    branches: Ints
    """(D ragged) the categories that each descriptor has tree numbers in, as places in ``categories``."""
    alias_uis: npt.NDArray[np.bytes_]
    alias_numbers: Ints
    """(A,) further UIs, sorted, and the descriptors that they mean; see ``with_aliases``."""
    counts: npt.NDArray[np.int64]
    """(D,) documents of the corpus annotated with each descriptor; all zero for the intrinsic information content."""
    frequency: npt.NDArray[np.int64]
    """(D+L,) ``freq(n)``: the sum of ``count(d) + 1`` over the descriptors d with n among their ancestors."""
    total: int
    """``N``: the sum of ``count(d) + 1`` over all descriptors with tree numbers."""
    information_content: Floats
    """(D+L,) ``IC(n) = -ln(freq(n) / N)``; infinite for a descriptor without tree numbers, which has none."""
    max_information_content: float
    """``IC_max``: the largest IC of any descriptor with tree numbers."""
    branch_ic: Floats
    """(as ``branches``) ``IC_c(d)`` of the forerunner's formula, for the measure ``kailin``."""
    branch_max_ic: Floats
    """(C,) ``MaxIC_c``: the largest ``IC_c`` in each category."""

    @classmethod
    def load(cls, path: str | Path, tolerate_orphans: bool = False) -> "MeshHierarchy":
        """Read a hierarchy from NLM's descriptor XML or tree list, from OBO, or from a table; see ``mesh/readers.py``.

        What was parsed is kept beside the file under its checksum, and read from there next time.

        Raises ``ValueError`` that names file and fault: not MeSH, damaged, or as ``from_descriptors`` does.
        """
        from kailin_ray.mesh import cache

        path = Path(path)
        kept = cache.load(path, tolerate_orphans)
        if kept is not None:
            return kept
        try:
            parsed = cls.from_descriptors(read_descriptors(path), tolerate_orphans)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cache.keep(path, tolerate_orphans, parsed)

    @classmethod
    def from_descriptors(
        cls, descriptors: Iterable[Descriptor | tuple[str, str, Sequence[str]]], tolerate_orphans: bool = False
    ) -> "MeshHierarchy":
        """Build from descriptors, or from (UI, name, tree numbers).

        Raises ``ValueError`` for no descriptor at all, a UI given twice, a malformed tree number, one held twice, or
        one whose parent nobody holds (an orphan; subsets of MeSH have them, and ``tolerate_orphans`` takes them as they
        are); it names at most five.
        """
        rows = sorted(d if isinstance(d, Descriptor) else descriptor(*d) for d in descriptors)
        if not rows:
            raise ValueError("no descriptors")
        _refuse("UI given twice", (a.ui for a, b in pairwise(rows) if a.ui == b.ui))
        held = sorted((tree, number) for number, row in enumerate(rows) for tree in row.tree_numbers)
        trees = [tree for tree, _ in held]
        _refuse("malformed tree number", (tree for tree in trees if not _TREE_NUMBER.fullmatch(tree)))
        _refuse("tree number held twice", (a for a, b in pairwise(trees) if a == b))
        place = {tree: number for number, tree in enumerate(trees)}
        if not tolerate_orphans:
            orphans = (tree for tree in trees if "." in tree and _up(tree) not in place)
            _refuse("orphan tree number, its parent missing", orphans)
        lineage = [sorted({place[p] for tree in row.tree_numbers for p in _path(tree) if p in place}) for row in rows]
        letters = sorted({tree[0] for tree in trees})
        letter = {name: len(rows) + i for i, name in enumerate(letters)}
        categories = sorted({tree.partition(".")[0] for tree in trees})
        category = {name: i for i, name in enumerate(categories)}
        holder = [number for _, number in held]
        ancestors = [
            sorted({holder[p] for p in prefixes} | {letter[tree[0]] for tree in row.tree_numbers})
            for row, prefixes in zip(rows, lineage, strict=True)
        ]
        branches = [sorted({category[tree.partition(".")[0]] for tree in row.tree_numbers}) for row in rows]
        structure: dict[str, Any] = {
            "uis": _bytes([row.ui for row in rows]),
            "names": pa.array([row.name for row in rows], pa.string()),
            "entry_terms": pa.array([row.entry_terms for row in rows], pa.list_(pa.string())),
            "letters": _bytes(letters),
            "categories": _bytes(categories),
            "tree_numbers": _bytes(trees),
            "tree_holder": np.array(holder, dtype=np.int32),
            "tree_length": np.array([len(tree) for tree in trees], dtype=np.int32),
            "alias_uis": _bytes([]),
            "alias_numbers": np.zeros(0, dtype=np.int32),
        }
        for name, column in (("lineage", lineage), ("ancestor", ancestors), ("branch", branches)):
            offsets, values = _ragged(column)
            structure |= {f"{name}_offsets": offsets, _VALUES[name]: values}
        return cls(**_frozen(structure | _counted(structure, np.zeros(len(rows), dtype=np.int64))))

    def with_counts(self, counts: Mapping[str, int]) -> "MeshHierarchy":
        """Return a new hierarchy with the corpus counts ``{UI: documents}``; UIs unknown here are left out."""
        found = self.find(list(counts))
        known = found >= 0
        values = np.zeros(len(self.uis), dtype=np.int64)
        np.add.at(values, found[known], np.fromiter(counts.values(), np.int64, len(counts))[known])
        return replace(self, **_frozen(_counted(self.__dict__, values)))

    def with_aliases(self, aliases: Mapping[str, int]) -> "MeshHierarchy":
        """Return a new hierarchy that also knows descriptors (by their numbers) under further UIs.

        For a corpus that calls a descriptor by another UI than the hierarchy does, such as a tree list, which has
        names alone.
        """
        uis, numbers = _bytes(list(aliases)), np.fromiter(aliases.values(), np.int32, len(aliases))
        order = np.argsort(uis)
        return replace(self, **_frozen({"alias_uis": uis[order], "alias_numbers": numbers[order]}))

    def find(self, uis: Sequence[str] | pa.Array) -> Ints:
        """(len(uis),) the descriptors' numbers, -1 for a UI unknown here."""
        if len(uis) == 0:
            return np.zeros(0, dtype=np.int32)
        encoded = pa.array(uis, pa.string()).dictionary_encode()
        wanted = _bytes(encoded.dictionary.to_pylist())
        found = np.full(len(wanted) + 1, -1, dtype=np.int32)  # the last place is for null
        found[:-1] = _places(wanted, self.uis)
        if len(self.alias_uis):
            aliases = _places(wanted, self.alias_uis)
            found[:-1] = np.where((found[:-1] < 0) & (aliases >= 0), self.alias_numbers[aliases], found[:-1])
        return found[encoded.indices.fill_null(len(wanted)).to_numpy()]

    def find_names(self, names: Sequence[str]) -> Ints:
        """(len(names),) the numbers of the descriptors of these names, -1 for a name unknown here.

        A name is looked for exactly, then without case, then among the entry terms, exactly and without case.
        Reads all of MeSH's names at every call: ask for many at once.
        """
        spelled: list[dict[str, int]] = [{}, {}, {}, {}]
        parents, terms = pc.list_parent_indices(self.entry_terms).to_pylist(), pc.list_flatten(self.entry_terms)
        for level, number, name in (
            *((0, number, name) for number, name in enumerate(self.names.to_pylist())),
            *((2, number, name) for number, name in zip(parents, terms.to_pylist(), strict=True)),
        ):
            spelled[level].setdefault(name, number)
            spelled[level + 1].setdefault(name.casefold(), number)
        keys = ((name, name.casefold(), name, name.casefold()) for name in names)
        found = (next((d[k] for d, k in zip(spelled, key, strict=True) if k in d), -1) for key in keys)
        return np.fromiter(found, np.int32, len(names))

    def placed(self, uis: Sequence[str]) -> Ints:
        """The numbers, each once, of the descriptors that are known and have tree numbers (*Male* has none)."""
        found = self.find(uis)
        found = found[found >= 0]
        return np.unique(found[np.diff(self.ancestor_offsets)[found] > 0])

    def similarity(self, a: str, b: str, measure: str = "lin") -> float:
        """Similarity of two descriptors with tree numbers, in [0, 1]; the measures stand in ``mesh/similarity.py``.

        Raises ``ValueError`` for an unknown measure and ``KeyError`` for a UI that is unknown or has no tree number.
        """
        for ui in (a, b):
            if len(self.placed([ui])) == 0:
                raise KeyError(f"{ui} is not a descriptor with a tree number in this hierarchy")
        return float(self.score([[a]], [[b]], measure, "mean")[0].as_py())

    def set_similarity(
        self, a: Sequence[str], b: Sequence[str], measure: str = "lin", aggregate: str = "bma"
    ) -> float | None:
        """Similarity of two sets of descriptors, in [0, 1]; None where either has no descriptor with a place.

        ``bma``: the best-match average, (Σ_a max_b s(a,b) + Σ_b max_a s(a,b)) / (|A| + |B|);
        ``mean``: the mean over all pairs. Descriptors unknown or without tree numbers are left out, doubles too.
        """
        value: float | None = self.score([a], [b], measure, aggregate)[0].as_py()
        return value

    def score(self, sources: Sets, contexts: Sets, measure: str = "lin", aggregate: str = "bma") -> pa.DoubleArray:
        """(n,) ``set_similarity`` of each source with the context at the same place; null where it is missing.

        No Python loop over rows or pairs. Raises ``ValueError`` for an unknown measure or aggregate, and where the
        two are not equally many.
        """
        similarity.check(measure, aggregate)
        one, two = self._numbers(sources), self._numbers(contexts)
        if len(one[0]) != len(two[0]):
            raise ValueError(f"{len(one[0]) - 1} sources for {len(two[0]) - 1} contexts")
        scores = similarity.of_sets(self, one, two, measure, aggregate)
        return pa.array(scores, mask=np.isnan(scores))

    def __repr__(self) -> str:
        return f"MeshHierarchy({len(self.uis):,} descriptors, {len(self.tree_numbers):,} tree numbers)"

    def equals(self, other: "MeshHierarchy") -> bool:
        """Whether both hold the same descriptors, at the same places, with the same counts and aliases."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(a.equals(b) if isinstance(a, pa.Array) else np.array_equal(a, b) for a, b in pairs)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(getattr(self, field.name), "nbytes", 0) for field in fields(self))

    def _numbers(self, sets: Sets) -> tuple[npt.NDArray[Any], Ints]:
        """Offsets and descriptor numbers; -1 for what is unknown."""
        if isinstance(sets, tuple) and len(sets) == 2 and isinstance(sets[0], np.ndarray):
            offsets, values = np.asarray(sets[0]), np.asarray(sets[1])
            if len(offsets) == 0 or offsets[0] < 0 or offsets[-1] > len(values) or (np.diff(offsets) < 0).any():
                raise ValueError(f"offsets must rise from 0 or more to at most {len(values)}, the number of values")
            if not np.issubdtype(values.dtype, np.integer):
                return offsets, self.find(values.astype(str).tolist())
            if len(values) and not -1 <= values.min() <= values.max() < len(self.uis):
                raise ValueError(f"descriptor numbers must lie in [-1, {len(self.uis)})")
            return offsets, values.astype(np.int32)
        if isinstance(sets, pa.ChunkedArray):
            sets = sets.combine_chunks()
        if not isinstance(sets, pa.ListArray | pa.LargeListArray):
            sets = pa.array(sets, pa.list_(pa.string()))
        if sets.null_count:
            sets = pc.fill_null(sets, pa.scalar([], sets.type))
        return sets.offsets.to_numpy(), self.find(sets.values)


_TREE_NUMBER = re.compile(r"[A-Z]\d+(\.\d+)*")
_VALUES = {"lineage": "lineage", "ancestor": "ancestor_nodes", "branch": "branches"}


def _counted(structure: Mapping[str, Any], counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """All that follows from the corpus counts; the ancestors too, as their order does."""
    offsets, nodes = structure["ancestor_offsets"], structure["ancestor_nodes"]
    sizes = np.diff(offsets)
    num_nodes = len(structure["uis"]) + len(structure["letters"])
    frequency = np.bincount(nodes, np.repeat(counts + 1, sizes), minlength=num_nodes).astype(np.int64)
    total = int((counts + 1)[sizes > 0].sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        ic = np.abs(-np.log(frequency / total)) if total else np.full(num_nodes, np.inf)
    of_descriptors = ic[: len(counts)][sizes > 0]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    return {
        "counts": counts,
        "frequency": frequency,
        "total": total,
        "information_content": ic,
        "max_information_content": float(of_descriptors.max()) if len(of_descriptors) else 0.0,
        "ancestor_nodes": nodes[np.lexsort((nodes, -ic[nodes], rows))],
        **_counted_branches(structure, counts),
    }


def _counted_branches(structure: Mapping[str, Any], counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """``IC_c(d) = -log10(Σ f_c(x))`` over d and its descendants x within c, ``f_c(x)`` = count(x) / Σ counts in c."""
    branch_offsets, branches = structure["branch_offsets"], structure["branches"]
    num_categories, num_descriptors = len(structure["categories"]), len(counts)
    descriptors = np.repeat(np.arange(num_descriptors), np.diff(branch_offsets))
    # A pair is a descriptor in a category. Each tree number belongs to the pair of its holder and its category.
    pairs = descriptors.astype(np.int64) * num_categories + branches
    firsts = np.array([tree.partition(b".")[0] for tree in structure["tree_numbers"]], dtype=np.bytes_)
    tree_category = np.searchsorted(structure["categories"], firsts)
    tree_pair = np.searchsorted(pairs, structure["tree_holder"].astype(np.int64) * num_categories + tree_category)
    # A descriptor counts once for each pair that it lies under, by however many of its tree numbers.
    rows = np.repeat(np.arange(num_descriptors, dtype=np.int64), np.diff(structure["lineage_offsets"]))
    under = np.unique(rows * len(pairs) + tree_pair[structure["lineage"]]) if len(pairs) else np.zeros(0, np.int64)
    row, pair = np.divmod(under, max(len(pairs), 1))
    below = np.bincount(pair, counts[row], minlength=len(pairs))
    in_category = np.bincount(branches, counts[descriptors], minlength=num_categories)[branches]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(in_category > 0, below / in_category, 0.0)
        ic = np.where((share > 0.0) & (share <= 1.0), np.abs(-np.log10(share)), 0.0)
    highest = np.zeros(num_categories)
    np.maximum.at(highest, branches, ic)
    return {"branch_ic": ic, "branch_max_ic": highest}


def _places(wanted: npt.NDArray[np.bytes_], known: npt.NDArray[np.bytes_]) -> Ints:
    """Where each of ``wanted`` stands in ``known``, which is sorted and not empty; -1 where it does not."""
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1).astype(np.int32)


def _ragged(rows: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return offsets, np.fromiter((value for row in rows for value in row), np.int32, offsets[-1])


def _bytes(strings: Sequence[str]) -> npt.NDArray[np.bytes_]:
    encoded = [text.encode("utf-8") for text in strings]
    return np.array(encoded, dtype=np.bytes_) if encoded else np.zeros(0, dtype="S1")


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    for value in values.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return values


def _up(tree: str) -> str:
    return tree.rpartition(".")[0]


def _path(tree: str) -> Iterator[str]:
    """A tree number and its prefixes: C18.452 gives C18.452, C18."""
    while tree:
        yield tree
        tree = _up(tree)


def _refuse(fault: str, found: Iterable[str]) -> None:
    names = sorted(set(found))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(f"{fault}: {', '.join(names[:5])}{more}")
