"""Read the column ``mesh`` as numbers, and find the documents with a heading under given descriptors."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.errors import ConfigError
from kailin_ray.mesh.hierarchy import MeshHierarchy

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Headings:
    """The headings of n documents that the hierarchy knows, concatenated."""

    rows: npt.NDArray[np.int64]
    """(H,) the document of each heading, from 0, ascending."""
    descriptors: npt.NDArray[np.int32]
    """(H,) the descriptor number of each heading."""


def read_headings(column: pa.ListArray | pa.ChunkedArray, mesh: MeshHierarchy, major: bool = False) -> Headings:
    """Return the headings of a column of (ui, name, major, ...) as numbers; with ``major``, only major headings.

    A UI that the hierarchy does not know, not even as an alias, is left out.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    flat = pc.list_flatten(column)
    numbers = mesh.find(pc.struct_field(flat, "ui"))
    known = numbers >= 0
    if major:
        known &= pc.struct_field(flat, "major").fill_null(False).to_numpy(zero_copy_only=False)
    return Headings(rows=pc.list_parent_indices(column).to_numpy()[known].astype(np.int64), descriptors=numbers[known])


def subtree(mesh: MeshHierarchy, wanted: Sequence[str]) -> Flags:
    """Return which descriptors (D,) are one of ``wanted`` or anywhere below one of them.

    Each of ``wanted`` is a descriptor's UI (``D009369``), its name or an entry term (``Neoplasms``), a tree number
    (``C04.588``), which means only that place, or a category letter (``C``). Raises ``ConfigError`` that names one
    which is none of these, and similar names.
    """
    wanted = _join_names(mesh, wanted)
    chosen = np.zeros(len(mesh.uis), dtype=bool)
    for text, number in zip(wanted, _descriptors(mesh, wanted), strict=True):
        letter, place = (_place(text, labels) for labels in (mesh.letters, mesh.tree_numbers))
        if number >= 0:
            chosen |= _rows_with(mesh.ancestor_offsets, mesh.ancestor_nodes == number)
            chosen[number] = True  # a descriptor without a tree number has no ancestors, not even itself
        elif letter is not None:
            chosen |= _rows_with(mesh.ancestor_offsets, mesh.ancestor_nodes == len(mesh.uis) + letter)
        elif place is not None:
            chosen |= _rows_with(mesh.lineage_offsets, mesh.lineage == place)
        else:
            raise ConfigError(
                f"subtree: {text!r} is not a descriptor's UI, name or tree number in this hierarchy{_like(text, mesh)}"
            )
    return chosen


def _join_names(mesh: MeshHierarchy, wanted: Sequence[str]) -> list[str]:
    """Return the same names, with those put together that a list's commas divided: Diabetes Mellitus, Type 2."""
    joined: list[str] = []
    start = 0
    while start < len(wanted):
        longest = start + 1
        for end in range(len(wanted), start + 1, -1):
            has_unknown = (_descriptors(mesh, wanted[start + 1 : end]) < 0).any()
            if has_unknown and _descriptors(mesh, [", ".join(wanted[start:end])])[0] >= 0:
                longest = end
                break
        joined.append(", ".join(wanted[start:longest]))
        start = longest
    return joined


def documents_with(
    column: pa.ListArray | pa.ChunkedArray, mesh: MeshHierarchy, chosen: Flags, major: bool = False
) -> Flags:
    """Return which documents (n,) have one of the ``chosen`` (D,) descriptors; with ``major``, as a major heading."""
    headings = read_headings(column, mesh, major)
    return np.bincount(headings.rows[chosen[headings.descriptors]], minlength=len(column)) > 0


def _descriptors(mesh: MeshHierarchy, texts: Sequence[str]) -> npt.NDArray[np.int32]:
    by_ui = mesh.find(list(texts))
    return np.where(by_ui >= 0, by_ui, mesh.find_names(list(texts)))


def _place(text: str, labels: npt.NDArray[np.bytes_]) -> int | None:
    matches = np.flatnonzero(labels == text.encode())
    return int(matches[0]) if len(matches) else None


def _rows_with(offsets: npt.NDArray[np.int32], hits: Flags) -> Flags:
    """Return which rows (n,) of a ragged column have at least one hit."""
    num_hits_before = np.append(0, np.cumsum(hits))
    return num_hits_before[offsets[1:]] > num_hits_before[offsets[:-1]]


def _like(text: str, mesh: MeshHierarchy) -> str:
    spelled = {name.casefold(): name for name in mesh.names.to_pylist()}
    similar = [spelled[name] for name in difflib.get_close_matches(text.casefold(), spelled, n=3)]
    return f"; did you mean {' or '.join(similar)}?" if similar else ""
