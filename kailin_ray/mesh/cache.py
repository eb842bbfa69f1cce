"""A parsed hierarchy, kept beside its source under the source's checksum: reading it takes a tenth of parsing.

``.mesh.tsv.<checksum>.npz`` holds the arrays as numpy's own file, read without pickle. It is only ever a copy: where it
is missing, damaged, of another version or cannot be written, the source is parsed.

A hierarchy is a dict of its fields here: numpy arrays, numbers, ``names`` and ``entry_terms`` as Arrow arrays.
"""

import glob
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kailin_ray.io.files import atomic_file, sha256

# Of the code that parses: a copy made by another version is not read.
_CODE = [
    Path(__file__).with_name(f"{name}.py").read_bytes()
    for name in ("readers", "build", "hierarchy", "information_content", "cache")
]
_VERSION = hashlib.sha256(b"".join(_CODE)).hexdigest()[:8]


def place(path: Path, tolerate_orphans: bool) -> Path:
    """Where the parsed hierarchy of ``path``, as it is now, is kept."""
    kind = f"{_VERSION}{'-orphans' if tolerate_orphans else ''}"
    return path.with_name(f".{path.name}.{sha256(path)[:16]}.{kind}.npz")


def load(place: Path) -> dict[str, Any] | None:
    """The fields that were kept in ``place``, or None."""
    try:
        with np.load(place, allow_pickle=False) as kept:
            values = {name: kept[name] for name in kept.files}
        values |= {name: _strings(values, name) for name in ("names", "entry_terms_flat")}
        offsets = pa.array(values.pop("entry_terms_rows"))
        values["entry_terms"] = pa.ListArray.from_arrays(offsets, values.pop("entry_terms_flat"))
        return values | {name: values[name].item() for name in ("total", "max_information_content")}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pa.ArrowException):
        return None


def keep(place: Path, mesh: Mapping[str, Any]) -> None:
    """Keep the fields for next time, if the folder can be written, instead of what other versions or contents left."""
    values = dict(mesh)
    terms = values.pop("entry_terms")
    values |= _bytes("names", values.pop("names")) | _bytes("entry_terms_flat", terms.values)
    values["entry_terms_rows"] = terms.offsets.to_numpy()
    source = place.name.rsplit(".", 3)[0]
    try:
        with atomic_file(place) as partial, partial.open("wb") as sink:
            np.savez(sink, **values)
        for other in place.parent.glob(f"{glob.escape(source)}.{'[0-9a-f]' * 16}.*.npz"):
            checksum, kind = other.name.rsplit(".", 3)[1:3]
            if checksum != place.name.rsplit(".", 3)[1] or not kind.startswith(_VERSION):
                other.unlink(missing_ok=True)
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
