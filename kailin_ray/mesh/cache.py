"""Cached copies of parsed hierarchies. Reading a copy takes a hundredth of the time of parsing its source.

A copy is ``mesh/<checksum of the source>.<version>.npz`` in the cache folder. It holds the arrays in numpy's own format
and is read without pickle. If it is missing, damaged, of another version or cannot be written, the source is parsed.
The most recently used copies are kept.

Here, a hierarchy is a dict of its fields: numpy arrays, numbers, and ``names`` and ``entry_terms`` as Arrow arrays.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kailin_ray.io.cache import cache_folder, mark_used, remove_oldest
from kailin_ray.io.files import atomic_file, sha256

KIND = "mesh"
"""The folder in the cache."""
NUM_KEPT = 8
"""Number of copies to keep; a copy of all of MeSH takes 12 MB."""

# The version of the parsing code: a copy from another version is not read.
_CODE = [
    Path(__file__).with_name(f"{name}.py").read_bytes()
    for name in ("readers", "build", "hierarchy", "information_content", "cache")
]
_VERSION = hashlib.sha256(b"".join(_CODE)).hexdigest()[:8]
_NAMES = f"{'[0-9a-f]' * 64}.*.npz"


def name_copy(source: Path, tolerate_orphans: bool) -> str:
    """Return the name of the copy for the current content of ``source``."""
    return f"{sha256(source)}.{_VERSION}{'-orphans' if tolerate_orphans else ''}.npz"


def load(name: str) -> dict[str, Any] | None:
    """Return the fields that were kept under ``name``, or None."""
    try:
        path = cache_folder(KIND) / name
        with np.load(path, allow_pickle=False) as kept:
            values = {field: kept[field] for field in kept.files}
        values |= {field: _strings(values, field) for field in ("names", "entry_terms_flat")}
        offsets = pa.array(values.pop("entry_terms_rows"))
        values["entry_terms"] = pa.ListArray.from_arrays(offsets, values.pop("entry_terms_flat"))
        values["entry_terms"].validate(full=True)
        values |= {field: values[field].item() for field in ("total", "max_information_content")}
    except Exception:  # zipfile, numpy and Arrow raise a dozen kinds of error for damage; a bad copy must not fail
        return None
    mark_used(path)
    return values


def keep(name: str, mesh: Mapping[str, Any]) -> None:
    """Keep the fields for next time, if the cache folder can be written."""
    values = dict(mesh)
    terms = values.pop("entry_terms")
    values |= _bytes("names", values.pop("names")) | _bytes("entry_terms_flat", terms.values)
    values["entry_terms_rows"] = terms.offsets.to_numpy()
    try:
        folder = cache_folder(KIND)
        with atomic_file(folder / name) as partial, partial.open("wb") as sink:
            np.savez(sink, **values)
        remove_oldest(folder, _NAMES, NUM_KEPT)
    except OSError:
        pass


def _bytes(name: str, strings: pa.StringArray) -> dict[str, Any]:
    _, offsets, data = strings.buffers()
    return {
        f"{name}_offsets": np.frombuffer(offsets, np.int32)[: len(strings) + 1],
        f"{name}_bytes": np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8),
    }


def _strings(values: dict[str, Any], name: str) -> pa.StringArray:
    offsets, data = values.pop(f"{name}_offsets"), values.pop(f"{name}_bytes")
    strings = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
    strings.validate(full=True)
    return strings
