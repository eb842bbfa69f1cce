"""Texts as rows of hashed words: what the search for duplicates and for benchmarks' texts compares.

A word is a run of letters and digits, without case, accents and typography: ``Naïve β-cells (CO₂)`` has the words
``naive``, ``β``, ``cells`` and ``co2``. Hashes depend on the text alone, not on process or machine.
"""

import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

TEXTS_AT_ONCE = 4_096
"""Texts whose words are held together: 4,096 abstracts of today have 950,000, of 24 bytes each."""

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_DROPPED = 1  # in the table of characters: belongs to the word it stands in, but is left out


@dataclass(frozen=True)
class Words:
    """The words of n texts, one after the other: those of text i are ``offsets[i]:offsets[i + 1]``."""

    hashes: Hashes
    """(m,) of each word."""
    starts: Offsets
    """(m,) and ``ends`` (m,): where each word is in ``data``, in bytes."""
    ends: Offsets
    offsets: Offsets
    """(n + 1,)."""
    data: npt.NDArray[np.uint8]
    """The texts in UTF-8, in Unicode's NFKD."""

    def between(self, first: int, last: int) -> str:
        """The text from the word ``first`` up to and with the word ``last``, as numbered in ``hashes``."""
        return self.data[self.starts[first] : self.ends[last]].tobytes().decode("utf-8", "replace")


def split_words(texts: Any) -> Words:
    """The words of an Arrow array of n strings; a null has none."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    normal = pc.utf8_normalize(pc.cast(texts, pa.large_string()), "NFKD")
    filled = pc.fill_null(normal, "")
    _, offsets, data = filled.buffers()
    rows = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    held = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    hashes, starts, ends, counts = _split_rows(held, rows, _characters())
    return Words(hashes, starts, ends, counts, held)


def word_list(text: str) -> list[str]:
    """The words of one text, as strings."""
    table = _characters()
    folded = (int(table[ord(character)]) for character in unicodedata.normalize("NFKD", text))
    return "".join(chr(code) if code > _DROPPED else " " * (1 - code) for code in folded).split()


def ngrams(words: Hashes, offsets: Offsets, length: int) -> tuple[Hashes, Offsets]:
    """Hashes of all ``length`` words in a row, and their (n + 1,) offsets; a text of fewer words has none."""
    counts = np.maximum(np.diff(offsets) - length + 1, 0)
    rows = np.zeros(len(offsets), np.int64)
    np.cumsum(counts, out=rows[1:])
    return _ngrams(words, offsets, rows, length), rows


def text_hashes(words: Hashes, offsets: Offsets) -> Hashes:
    """(n,) a hash of all words of each text, in their order; 0 where it has none."""
    return _text_hashes(words, offsets)


def places_in(values: npt.NDArray[Any], ordered: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where each value is in a sorted array without repetition, -1 where it is not there."""
    if not len(ordered):
        return np.full(len(values), -1, np.int64)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[at] == values, at, -1)


@cache
def _characters() -> npt.NDArray[np.uint32]:
    """By code point: 0 where words end, 1 what is dropped (accents, soft hyphens), else the character without case."""
    table = np.zeros(0x110000, np.uint32)
    for code in range(0x110000):
        character = chr(code)
        if character.isalnum():
            folded = character.casefold()
            table[code] = ord(folded) if len(folded) == 1 else code
        elif unicodedata.category(character) in ("Mn", "Cf"):
            table[code] = _DROPPED
    return table


@numba.njit(cache=True, nogil=True)
def _split_rows(data: Any, rows: Any, table: Any) -> Any:
    # No word is shorter than a byte and what ends it.
    most = (rows[-1] - rows[0] + 1) // 2 + len(rows)
    hashes, starts, ends = np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(most, np.int64)
    offsets = np.zeros(len(rows), np.int64)
    found = 0
    for row in range(len(rows) - 1):
        at, end = rows[row], rows[row + 1]
        inside = False
        value = _SEED
        while at < end:
            byte = np.uint32(data[at])
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            code = byte if size == 1 else byte & np.uint32(0xFF >> (size + 1))
            for i in range(1, size):
                code = (code << np.uint32(6)) | np.uint32(data[at + i] & 0x3F)
            folded = table[code]
            if folded > 1:
                if not inside:
                    inside = True
                    value = _SEED
                    starts[found] = at
                value = (value ^ np.uint64(folded)) * _PRIME
                ends[found] = at + size
            elif folded == 0 and inside:
                inside = False
                hashes[found] = _mix_bits(value)
                found += 1
            at += size
        if inside:
            hashes[found] = _mix_bits(value)
            found += 1
        offsets[row + 1] = found
    return hashes[:found].copy(), starts[:found].copy(), ends[:found].copy(), offsets


@numba.njit(cache=True, nogil=True)
def _ngrams(words: Any, offsets: Any, rows: Any, length: int) -> Any:
    hashes = np.empty(rows[-1], np.uint64)
    for row in range(len(rows) - 1):
        for i in range(rows[row + 1] - rows[row]):
            value = _SEED
            for j in range(length):
                value = _mix_bits(value * _PRIME + words[offsets[row] + i + j])
            hashes[rows[row] + i] = value
    return hashes


@numba.njit(cache=True, nogil=True)
def _text_hashes(words: Any, offsets: Any) -> Any:
    hashes = np.zeros(len(offsets) - 1, np.uint64)
    for row in range(len(hashes)):
        if offsets[row + 1] > offsets[row]:
            value = _SEED
            for i in range(offsets[row], offsets[row + 1]):
                value = _mix_bits(value * _PRIME + words[i])
            hashes[row] = max(value, np.uint64(1))
    return hashes


@numba.njit(cache=True, nogil=True)
def _mix_bits(value: Any) -> Any:
    """The finalizer of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195): each bit concerns all."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
