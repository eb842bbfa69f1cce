"""The MeSH hierarchy as frozen arrays.

A node is a descriptor or a category letter. Nodes 0 … D-1 are the descriptors in the order of their UIs; the letters
follow. The ancestors of a descriptor are all nodes that hold a prefix of any of its tree numbers, including the
descriptor itself::

    D003924 "Diabetes Mellitus, Type 2"   C18.452.394.750.149, C19.246.300
    ancestors: itself, Diabetes Mellitus (C18.452.394.750), Glucose Metabolism Disorders (C18.452.394), …, letter C

Ancestors are found by tree-number prefixes, never by walking from descriptor to descriptor, because merging prefixes
into descriptors can create cycles.

Ragged columns are offsets and values: row i is ``values[offsets[i]:offsets[i+1]]``. All arrays are read-only, and
Ray's object store shares them with the processes of a node without a copy.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.mesh import build, cache, similarity
from kailin_ray.mesh.information_content import compute_information_content
from kailin_ray.mesh.readers import Descriptor, descriptor, read_descriptors

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Sets = Any
"""n sets of descriptors: an Arrow list array of UIs; numpy's (n+1,) offsets and (…,) values, which are UIs or the
numbers that ``find`` returns; or plain lists of UIs."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MeshHierarchy:
    """Descriptors, their ancestors, and the information content of every node."""

    uis: npt.NDArray[np.bytes_]
    """(D,) the descriptors' UIs, sorted."""
    names: pa.StringArray
    """(D,) their names."""
    entry_terms: pa.ListArray
    """(D,) other names for them."""
    letters: npt.NDArray[np.bytes_]
    """(L,) the category letters, sorted; letter i is node D+i."""
    categories: npt.NDArray[np.bytes_]
    """(C,) the first components of tree numbers (``C18``), sorted."""
    tree_numbers: npt.NDArray[np.bytes_]
    """(T,) all tree numbers and their prefixes, sorted."""
    tree_holder: Ints
    """(T,) the descriptor at each tree number; -1 where there is none, which only happens with tolerated orphans."""
    tree_length: Ints
    """(T,) the length of each tree number in characters."""
    lineage_offsets: Ints
    lineage: Ints
    """(D ragged) each descriptor's tree numbers and all their prefixes, as places in ``tree_numbers``."""
    ancestor_offsets: Ints
    ancestor_nodes: Ints
    """(D ragged) each descriptor's ancestors, the most informative first; empty without tree numbers."""
    branch_offsets: Ints
    branches: Ints
    """(D ragged) the categories where each descriptor has tree numbers, as places in ``categories``."""
    alias_uis: npt.NDArray[np.bytes_]
    alias_numbers: Ints
    """(A,) more UIs, sorted, and the numbers of their descriptors; see ``with_aliases``."""
    counts: npt.NDArray[np.int64]
    """(D,) documents of the corpus with each descriptor; all zero for the intrinsic information content."""
    frequency: npt.NDArray[np.int64]
    """(D+L,) ``freq(n)``: the sum of ``count(d) + 1`` over the descriptors d that have n among their ancestors."""
    total: int
    """``N``: the sum of ``count(d) + 1`` over all descriptors with tree numbers."""
    information_content: Floats
    """(D+L,) ``IC(n) = -ln(freq(n) / N)``; infinite, that is undefined, for a descriptor without tree numbers."""
    max_information_content: float
    """``IC_max``: the largest IC of any descriptor with tree numbers."""
    branch_ic: Floats
    """(as ``branches``) ``IC_c(d)`` of the forerunner's formula, for the measure ``kailin``."""
    branch_max_ic: Floats
    """(C,) ``MaxIC_c``: the largest ``IC_c`` in each category."""

    @classmethod
    def load(cls, path: str | Path, tolerate_orphans: bool = False) -> "MeshHierarchy":
        """Read a hierarchy from NLM's descriptor XML or tree list, from OBO, or from a table; see ``mesh/readers.py``.

        The parsed hierarchy is kept in the cache folder (``io/cache.py``) under the file's checksum and read from there
        next time.

        Raises ``ValueError`` that names the file and the fault: not MeSH, damaged, or a fault of ``from_descriptors``.
        """
        path = Path(path)
        name = cache.name_copy(path, tolerate_orphans)
        kept = cache.load(name)
        if kept is not None and kept.keys() == {field.name for field in fields(cls)}:
            return cls(**_frozen(kept))
        try:
            parsed = cls.from_descriptors(read_descriptors(path), tolerate_orphans)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if cache.name_copy(path, tolerate_orphans) == name:  # the file did not change while it was read
            cache.keep(name, parsed.__dict__)
        return parsed

    @classmethod
    def from_descriptors(
        cls, descriptors: Iterable[Descriptor | tuple[str, str, Sequence[str]]], tolerate_orphans: bool = False
    ) -> "MeshHierarchy":
        """Build from descriptors, or from (UI, name, tree numbers).

        Raises ``ValueError`` if there are no descriptors, a UI occurs twice, a tree number is malformed or held twice,
        or no descriptor holds a tree number's parent (an orphan; subsets of MeSH have orphans, and ``tolerate_orphans``
        accepts them as they are). The message names at most five.
        """
        rows = (d if isinstance(d, Descriptor) else descriptor(*d) for d in descriptors)
        structure = build.structure(rows, tolerate_orphans)
        counts = np.zeros(len(structure["uis"]), dtype=np.int64)
        return cls(**_frozen(structure | compute_information_content(structure, counts)))

    def with_counts(self, counts: Mapping[str, int]) -> "MeshHierarchy":
        """Return a new hierarchy with the corpus counts ``{UI: documents}``; unknown UIs are left out.

        Raises ``ValueError`` for a count that is not a whole number of 0 or more.
        """
        build.refuse(
            "not a count", (f"{ui}: {n!r}" for ui, n in counts.items() if not isinstance(n, Integral) or n < 0)
        )
        numbers = self.find(list(counts))
        known = numbers >= 0
        values = np.zeros(len(self.uis), dtype=np.int64)
        np.add.at(values, numbers[known], np.fromiter(counts.values(), np.int64, len(counts))[known])
        return replace(self, **_frozen(compute_information_content(self.__dict__, values)))

    def with_aliases(self, aliases: Mapping[str, int]) -> "MeshHierarchy":
        """Return a new hierarchy that also knows descriptors (by their numbers) under more UIs.

        This is for a corpus whose UIs differ from those of the hierarchy. A tree list, for example, has only names.
        """
        uis, numbers = build.utf8(list(aliases)), np.fromiter(aliases.values(), np.int32, len(aliases))
        order = np.argsort(uis)
        return replace(self, **_frozen({"alias_uis": uis[order], "alias_numbers": numbers[order]}))

    def find(self, uis: Sequence[str] | pa.Array) -> Ints:
        """Return the numbers (len(uis),) of the descriptors; -1 for an unknown UI."""
        if len(uis) == 0:
            return np.zeros(0, dtype=np.int32)
        encoded = pa.array(uis, pa.string()).dictionary_encode()
        distinct = build.utf8(encoded.dictionary.to_pylist())
        numbers = np.full(len(distinct) + 1, -1, dtype=np.int32)  # the last entry is for null
        numbers[:-1] = _places(distinct, self.uis)
        if len(self.alias_uis):
            aliases = _places(distinct, self.alias_uis)
            numbers[:-1] = np.where((numbers[:-1] < 0) & (aliases >= 0), self.alias_numbers[aliases], numbers[:-1])
        return numbers[encoded.indices.fill_null(len(distinct)).to_numpy()]

    def numbers(self) -> dict[str, int]:
        """Return the numbers of the descriptors with tree numbers, by UI, including aliases.

        Use it to look up a few at a time, where ``find`` and ``select_placed`` are slow.
        """
        is_placed = np.diff(self.ancestor_offsets) > 0
        aliases = zip(self.alias_uis.tolist(), self.alias_numbers.tolist(), strict=True)
        own = ((ui, number) for number, ui in enumerate(self.uis.tolist()))
        # The hierarchy's own UI takes precedence over an alias, even if it has no tree number.
        numbers = {ui.decode("utf-8"): number for ui, number in (*aliases, *own)}
        return {ui: number for ui, number in numbers.items() if is_placed[number]}

    def find_names(self, names: Sequence[str]) -> Ints:
        """Return the numbers (len(names),) of the descriptors with these names; -1 for an unknown name.

        A name is matched exactly, then ignoring case, then against the entry terms, exactly and ignoring case. Every
        call reads all names of MeSH, so look up many at once.
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
        numbers = (next((d[k] for d, k in zip(spelled, key, strict=True) if k in d), -1) for key in keys)
        return np.fromiter(numbers, np.int32, len(names))

    def select_placed(self, uis: Sequence[str]) -> Ints:
        """Return the numbers, each once, of the known descriptors that have tree numbers (*Male* has none)."""
        numbers = self.find(uis)
        numbers = numbers[numbers >= 0]
        return np.unique(numbers[np.diff(self.ancestor_offsets)[numbers] > 0])

    def similarity(self, a: str, b: str, measure: str = "lin") -> float:
        """Return the similarity of two descriptors with tree numbers, in [0, 1]; measures: see ``mesh/similarity.py``.

        Raises ``ValueError`` for an unknown measure and ``KeyError`` for a UI that is unknown or has no tree number.
        """
        for ui in (a, b):
            if len(self.select_placed([ui])) == 0:
                raise KeyError(f"{ui} is not a descriptor with a tree number in this hierarchy")
        return float(self.score([[a]], [[b]], measure, "mean")[0].as_py())

    def set_similarity(
        self, a: Sequence[str], b: Sequence[str], measure: str = "lin", aggregate: str = "bma"
    ) -> float | None:
        """Return the similarity of two sets of descriptors, in [0, 1]; None if either has none with a tree number.

        ``bma``: the best-match average, (Σ_a max_b s(a,b) + Σ_b max_a s(a,b)) / (|A| + |B|);
        ``mean``: the mean over all pairs. Unknown descriptors, duplicates and descriptors without tree numbers are left
        out.
        """
        value: float | None = self.score([a], [b], measure, aggregate)[0].as_py()
        return value

    def score(self, sources: Sets, contexts: Sets, measure: str = "lin", aggregate: str = "bma") -> pa.DoubleArray:
        """Return ``set_similarity`` (n,) of each source and the context at the same place; null where it is None.

        No Python loop over rows or pairs. Raises ``ValueError`` for an unknown measure or aggregate, and if the numbers
        of sources and contexts differ.
        """
        similarity.check(measure, aggregate)
        source_sets, context_sets = self._numbers(sources), self._numbers(contexts)
        if len(source_sets[0]) != len(context_sets[0]):
            raise ValueError(f"{len(source_sets[0]) - 1} sources for {len(context_sets[0]) - 1} contexts")
        scores = similarity.score_sets(
            source_sets,
            context_sets,
            measure,
            aggregate,
            ancestors=(self.ancestor_offsets, self.ancestor_nodes),
            information_content=self.information_content,
            max_information_content=self.max_information_content,
            trees=(self.lineage_offsets, self.lineage, self.tree_holder, self.tree_length),
            branches=(self.branch_offsets, self.branches, self.branch_ic, self.branch_max_ic),
        )
        return pa.array(scores, mask=np.isnan(scores))

    def __repr__(self) -> str:
        return f"MeshHierarchy({len(self.uis):,} descriptors, {self.num_tree_numbers:,} tree numbers)"

    def equals(self, other: "MeshHierarchy") -> bool:
        """Return whether both hold the same descriptors, at the same places, with the same counts and aliases."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(a.equals(b) if isinstance(a, pa.Array) else np.array_equal(a, b) for a, b in pairs)

    @property
    def num_tree_numbers(self) -> int:
        """Number of tree numbers that a descriptor holds."""
        return int((self.tree_holder >= 0).sum())

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes."""
        return sum(getattr(getattr(self, field.name), "nbytes", 0) for field in fields(self))

    def _numbers(self, sets: Sets) -> tuple[npt.NDArray[np.int64], Ints]:
        """Return offsets and descriptor numbers; -1 for an unknown UI."""
        if isinstance(sets, tuple) and len(sets) == 2 and isinstance(sets[0], np.ndarray):
            return self._numbers_of_numpy(*sets)
        if isinstance(sets, pa.ChunkedArray):
            sets = sets.combine_chunks()
        if not isinstance(sets, pa.Array):
            sets = pa.array(sets, pa.list_(pa.string()))
        elif isinstance(sets, pa.FixedSizeListArray):
            sets = sets.cast(pa.list_(pa.string()))
        elif not isinstance(sets, pa.ListArray | pa.LargeListArray):  # Arrow casts list views to invalid arrays
            raise ValueError(f"sets of descriptors must be a list array, not {sets.type}")
        sizes = pc.list_value_length(sets).fill_null(0).to_numpy()
        return np.cumsum([0, *sizes], dtype=np.int64), self.find(sets.flatten())

    def _numbers_of_numpy(self, offsets: Any, values: Any) -> tuple[npt.NDArray[np.int64], Ints]:
        offsets, values = np.asarray(offsets), np.asarray(values)
        whole = np.issubdtype(offsets.dtype, np.integer) and offsets.ndim == values.ndim == 1 and len(offsets) > 0
        if not whole or offsets[0] < 0 or offsets[-1] > len(values) or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"offsets: must be whole numbers that rise from 0 or more to at most {len(values)}, the values"
            )
        if np.issubdtype(values.dtype, np.integer):
            if len(values) and not -1 <= values.min() <= values.max() < len(self.uis):
                raise ValueError(f"descriptor numbers must lie in [-1, {len(self.uis)})")
            return offsets.astype(np.int64), values.astype(np.int32)
        uis = [ui.decode("utf-8") if isinstance(ui, bytes) else ui for ui in values.tolist()]
        return offsets.astype(np.int64), self.find(uis)


def _places(values: npt.NDArray[np.bytes_], known: npt.NDArray[np.bytes_]) -> Ints:
    """Return the place of each of ``values`` in ``known``, which is sorted and not empty; -1 if it is missing."""
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[at] == values, at, -1).astype(np.int32)


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    for value in values.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return values
