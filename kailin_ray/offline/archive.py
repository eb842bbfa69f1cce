"""Write files as one tar, split into parts. It is not compressed, as wheels and weights do not compress further.

``cat NAME.tar.* | tar x`` reads the parts too. The same files always produce the same bytes.
"""

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A file as a manifest lists it: a file in the tar, or a part of the tar."""

    name: str
    sha256: str
    size: int
    """In bytes."""


def write_parts(
    files: Sequence[tuple[str, Path]], folder: Path, stem: str, part_size: int, told: Callable[[int], Any]
) -> tuple[list[Piece], list[Piece]]:
    """Write ``files`` (name and path) to ``folder`` as ``stem.tar.001``, …, each of at most ``part_size`` bytes.

    Returns the files and the parts. ``told`` is called with the number of bytes that were read from a file. Raises
    ``OSError`` if a file cannot be read, becomes shorter while it is read, or cannot be written.
    """
    pieces = []
    writer = _Parts(folder, stem, part_size)
    try:
        with tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as tar:  # type: ignore[call-overload]
            for name, path in files:
                with path.open("rb") as stream:
                    reader = _Hashed(stream, told)
                    member = tarfile.TarInfo(name)
                    member.size = path.stat().st_size
                    tar.addfile(member, reader)
                pieces.append(Piece(name=name, sha256=reader.digest.hexdigest(), size=member.size))
    finally:
        writer.close()
    return pieces, writer.parts


class _Hashed:
    """A stream that is hashed as it is read."""

    def __init__(self, stream: BinaryIO, told: Callable[[int], Any]):
        self.digest = hashlib.sha256()
        self._stream, self._told = stream, told

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        self._told(len(data))
        return data


class _Parts:
    """A sink that writes files of at most ``size`` bytes and hashes them."""

    def __init__(self, folder: Path, stem: str, size: int):
        self.parts: list[Piece] = []
        self._folder, self._stem, self._size = folder, stem, size
        self._sink: BinaryIO | None = None
        self._written = 0
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            if self._sink is None:
                self._sink = (self._folder / self._name()).open("xb")
            piece = view[: self._size - self._written]
            self._sink.write(piece)
            self._digest.update(piece)
            self._written += len(piece)
            view = view[len(piece) :]
            if self._written == self._size:
                self.close()
        return len(data)

    def close(self) -> None:
        """Close the current part."""
        if self._sink is None:
            return
        self._sink.close()
        self.parts.append(Piece(name=self._name(), sha256=self._digest.hexdigest(), size=self._written))
        self._sink, self._written, self._digest = None, 0, hashlib.sha256()

    def _name(self) -> str:
        return f"{self._stem}.tar.{len(self.parts) + 1:03}"
