"""Split texts into hashed words, which the searches for duplicates and for benchmark texts compare.

A word is a run of letters and digits; case, accents and typography are ignored. ``Naïve β-cells (CO₂)`` has the words
``naive``, ``β``, ``cells`` and ``co2``. Hashes depend only on the text, not on the process or machine.
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
"""Number of texts split at a time: 4,096 abstracts of today have 950,000 words, which take 24 bytes each."""

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_DROPPED = 1  # in the table of characters: does not end a word, but is left out of it


@dataclass(frozen=True)
class Words:
    """The m words of n texts, text after text. The words of text i are ``offsets[i]:offsets[i + 1]``."""

    hashes: Hashes
    """(m,) hash of each word."""
    starts: Offsets
    """(m,) and ``ends`` (m,): where each word starts and ends in ``data``, in bytes."""
    ends: Offsets
    offsets: Offsets
    """(n + 1,) offsets into ``hashes``."""
    data: npt.NDArray[np.uint8]
    """The texts in UTF-8 and Unicode's NFKD."""

    def between(self, first: int, last: int) -> str:
        """Return the text from word ``first`` to word ``last``, both included, as numbered in ``hashes``."""
        return self.data[self.starts[first] : self.ends[last]].tobytes().decode("utf-8", "replace")


def split_words(texts: Any) -> Words:
    """Return the words of an Arrow array of n strings. A null has no words."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    normal = pc.utf8_normalize(pc.cast(texts, pa.large_string()), "NFKD")
    filled = pc.fill_null(normal, "")
    _, offsets, data = filled.buffers()
    rows = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    text_bytes = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    hashes, starts, ends, counts = _split_rows(text_bytes, rows, _characters())
    return Words(hashes, starts, ends, counts, text_bytes)


def word_list(text: str) -> list[str]:
    """Return the words of one text as strings."""
    table = _characters()
    folded = (int(table[ord(character)]) for character in unicodedata.normalize("NFKD", text))
    return "".join(chr(code) if code > _DROPPED else " " * (1 - code) for code in folded).split()


def ngrams(words: Hashes, offsets: Offsets, length: int) -> tuple[Hashes, Offsets]:
    """Return hashes of all runs of ``length`` words, and their (n + 1,) offsets. A shorter text has none."""
    counts = np.maximum(np.diff(offsets) - length + 1, 0)
    rows = np.zeros(len(offsets), np.int64)
    np.cumsum(counts, out=rows[1:])
    return _ngrams(words, offsets, rows, length), rows


def text_hashes(words: Hashes, offsets: Offsets) -> Hashes:
    """Return (n,) one hash per text, of all its words in order; 0 for a text without words."""
    return _text_hashes(words, offsets)


def places_in(values: npt.NDArray[Any], ordered: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the index of each value in a sorted array of unique values; -1 if the array does not have it."""
    if not len(ordered):
        return np.full(len(values), -1, np.int64)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return np.where(ordered[at] == values, at, -1)


@cache
def _characters() -> npt.NDArray[np.uint32]:
    """Return a table by code point: 0 ends a word, 1 is dropped (accents, soft hyphens), else the folded character."""
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
    # Each word takes at least two bytes: one character, and the character that ends it.
    most = (rows[-1] - rows[0] + 1) // 2 + len(rows)
    hashes, starts, ends = np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(most, np.int64)
    offsets = np.zeros(len(rows), np.int64)
    count = 0
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
                    starts[count] = at
                value = (value ^ np.uint64(folded)) * _PRIME
                ends[count] = at + size
            elif folded == 0 and inside:
                inside = False
                hashes[count] = _mix_bits(value)
                count += 1
            at += size
        if inside:
            hashes[count] = _mix_bits(value)
            count += 1
        offsets[row + 1] = count
    return hashes[:count].copy(), starts[:count].copy(), ends[:count].copy(), offsets


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
    """The finalizer of splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195): each bit affects all."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
