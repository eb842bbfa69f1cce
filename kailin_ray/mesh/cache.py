"""A parsed hierarchy, kept beside its source under the source's checksum: reading it takes a tenth of parsing.

``.mesh.tsv.<checksum>.npz`` holds the arrays as numpy's own file, read without pickle. It is only ever a copy: where it
is missing, damaged, of another version or cannot be written, the source is parsed.
"""

import zipfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kailin_ray.files import atomic_file, sha256

if TYPE_CHECKING:
    from kailin_ray.mesh.hierarchy import MeshHierarchy

VERSION = 1
"""To be raised with every change of ``MeshHierarchy``'s fields or of the readers."""


def place(path: Path, tolerate_orphans: bool) -> Path:
    """Where the parsed hierarchy of ``path`` is kept."""
    kind = f"v{VERSION}{'o' if tolerate_orphans else ''}"
    return path.with_name(f".{path.name}.{sha256(path)[:16]}.{kind}.npz")


def load(path: Path, tolerate_orphans: bool) -> "MeshHierarchy | None":
    """The hierarchy that was kept for these very bytes, or None."""
    from kailin_ray.mesh.hierarchy import MeshHierarchy

    try:
        with np.load(place(path, tolerate_orphans), allow_pickle=False) as kept:
            values = {name: kept[name] for name in kept.files}
        values |= {name: _strings(values, name) for name in ("names", "entry_terms_flat")}
        offsets = pa.array(values.pop("entry_terms_rows"))
        values["entry_terms"] = pa.ListArray.from_arrays(offsets, values.pop("entry_terms_flat"))
        values |= {name: values[name].item() for name in ("total", "max_information_content")}
        for value in values.values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False
        return MeshHierarchy(**values)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pa.ArrowException):
        return None


def keep(path: Path, tolerate_orphans: bool, mesh: "MeshHierarchy") -> "MeshHierarchy":
    """Keep ``mesh`` for next time, if the folder can be written; return it."""
    values: dict[str, Any] = {field.name: getattr(mesh, field.name) for field in fields(mesh)}
    terms = values.pop("entry_terms")
    values |= _bytes("names", values["names"]) | _bytes("entry_terms_flat", terms.values)
    values["entry_terms_rows"] = terms.offsets.to_numpy()
    del values["names"]
    try:
        with atomic_file(place(path, tolerate_orphans)) as partial, partial.open("wb") as sink:
            np.savez(sink, **values)
    except OSError:
        pass
    return mesh


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
