"""Check that the weights of a model's directory are whole: vLLM can load what is there and leave the rest at random."""

import json
from pathlib import Path

from kailin_ray.io.files import read_json

_LFS = b"version "
"""The beginning of a Git LFS pointer, which a clone without Git LFS has instead of a large file."""


def find_incomplete(folder: Path) -> str | None:
    """Return which safetensors of a directory are missing or not whole; None if all are there."""
    for index in sorted(folder.rglob("*.safetensors.index.json")):
        try:
            listed = set(read_json(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index.name} is damaged"
        if missing := sorted(name for name in listed if not (index.parent / name).is_file()):
            return f"{index.name} lists {len(listed)} files, and {len(missing)} are missing, such as {missing[0]}"
    faults = (_fault_of(file) for file in sorted(folder.rglob("*.safetensors")))
    return next((fault for fault in faults if fault), None)


def _fault_of(file: Path) -> str | None:
    """Return what is wrong with a file; only its header is read."""
    if not file.is_file():
        return f"{file.name} is a link to a file that does not exist"
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if start == _LFS:
            return f"{file.name} is a Git LFS pointer; run `git lfs pull`"
        if len(start) < 8 or length > size - 8:
            return f"{file.name} is not safetensors, or is cut off"
        try:
            header = json.loads(stream.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return f"{file.name} is not safetensors"
    whole = 8 + length + max(ends, default=0)
    return f"{file.name} is cut off: {size:,} of {whole:,} bytes" if size < whole else None
