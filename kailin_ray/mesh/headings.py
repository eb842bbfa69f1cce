"""The column ``mesh`` of many documents as numbers, and which documents have a heading under given descriptors."""

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
    """The headings of n documents that the hierarchy knows, one after another."""

    rows: npt.NDArray[np.int64]
    """(H,) the document of each, from 0, rising."""
    descriptors: npt.NDArray[np.int32]
    """(H,) the number of its descriptor."""


def read_headings(column: pa.ListArray | pa.ChunkedArray, mesh: MeshHierarchy, major: bool = False) -> Headings:
    """Of a column of (ui, name, major, ...) the headings by number; with ``major`` only those that are.

    A UI that the hierarchy does not know, also not as an alias, is left out.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    flat = pc.list_flatten(column)
    found = mesh.find(pc.struct_field(flat, "ui"))
    known = found >= 0
    if major:
        known &= pc.struct_field(flat, "major").fill_null(False).to_numpy(zero_copy_only=False)
    return Headings(rows=pc.list_parent_indices(column).to_numpy()[known].astype(np.int64), descriptors=found[known])


def subtree(mesh: MeshHierarchy, wanted: Sequence[str]) -> Flags:
    """(D,) which descriptors are one of ``wanted`` or stand anywhere under one of them.

    Each is a descriptor's UI (``D009369``), its name or an entry term (``Neoplasms``), a tree number (``C04.588``), of
    which only that place counts, or a category's letter (``C``). Raises ``ConfigError`` that names one that is none of
    these, and names that are like it.
    """
    chosen = np.zeros(len(mesh.uis), dtype=bool)
    for one, number in zip(wanted, _descriptors(mesh, wanted), strict=True):
        letter, place = (_place(one, among) for among in (mesh.letters, mesh.tree_numbers))
        if number >= 0:
            chosen |= _rows_with(mesh.ancestor_offsets, mesh.ancestor_nodes == number)
            chosen[number] = True  # one without a tree number has no ancestors, not even itself
        elif letter is not None:
            chosen |= _rows_with(mesh.ancestor_offsets, mesh.ancestor_nodes == len(mesh.uis) + letter)
        elif place is not None:
            chosen |= _rows_with(mesh.lineage_offsets, mesh.lineage == place)
        else:
            raise ConfigError(
                f"subtree: {one!r} is no descriptor's UI or name and no tree number of this hierarchy{_like(one, mesh)}"
            )
    return chosen


def documents_with(
    column: pa.ListArray | pa.ChunkedArray, mesh: MeshHierarchy, chosen: Flags, major: bool = False
) -> Flags:
    """(n,) which documents have one of the ``chosen`` (D,) descriptors; with ``major`` as a major heading."""
    found = read_headings(column, mesh, major)
    return np.bincount(found.rows[chosen[found.descriptors]], minlength=len(column)) > 0


def _descriptors(mesh: MeshHierarchy, wanted: Sequence[str]) -> npt.NDArray[np.int32]:
    by_ui = mesh.find(list(wanted))
    return np.where(by_ui >= 0, by_ui, mesh.find_names(list(wanted)))


def _place(one: str, among: npt.NDArray[np.bytes_]) -> int | None:
    found = np.flatnonzero(among == one.encode())
    return int(found[0]) if len(found) else None


def _rows_with(offsets: npt.NDArray[np.int32], hits: Flags) -> Flags:
    """(n,) which rows of a ragged column have at least one hit."""
    before = np.append(0, np.cumsum(hits))
    return before[offsets[1:]] > before[offsets[:-1]]


def _like(one: str, mesh: MeshHierarchy) -> str:
    spelled = {name.casefold(): name for name in mesh.names.to_pylist()}
    near = [spelled[name] for name in difflib.get_close_matches(one.casefold(), spelled, n=3)]
    return f"; did you mean {' or '.join(near)}?" if near else ""
