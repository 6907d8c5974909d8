"""Words of a text as entries of a vocabulary, vectorised over a whole text.

A word is a run of letters and digits of any script; each other visible character, and each character of a script that
is written without blanks, is a word of its own. The hash of a word is a polynomial over its code points modulo 2**64,
taken from one running sum: a million tokens cost a few passes of numpy. A word outside of the vocabulary is known by its
shape: script and length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Places = NDArray[np.signedinteger[Any]]
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_BLOCK = 1 << 16
_BLANK, _LETTER, _SIGN, _ALONE = range(4)
_TABLE_BITS = 19

SHAPES = 32
"""How many shapes of unknown words there are: 4 kinds of script times 8 classes of length."""


def words(text: str) -> tuple[U64, Places, Places]:
    """Hash, start and end (characters of `text`) of each word."""
    points = _points(text)
    if not len(points):
        empty = np.zeros(0, np.int64)
        return np.zeros(0, np.uint64), empty, empty
    kind = _kinds()[points if points.dtype == np.uint8 else np.minimum(points, _TOP)]
    # A word begins where its kind differs from the one before, and at every sign.
    turns = np.empty(len(kind) + 1, np.bool_)
    turns[0] = turns[-1] = True
    np.not_equal(kind[1:], kind[:-1], out=turns[1:-1])
    single, seen = kind >= _SIGN, kind != _BLANK
    begins = np.flatnonzero(seen & (turns[:-1] | single))
    ends = np.flatnonzero(seen & (turns[1:] | single)) + 1
    return _hashes(points, begins, ends), begins, ends


def _points(text: str) -> NDArray[np.uint8] | NDArray[np.uint32]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _hashes(points: NDArray[np.uint8] | NDArray[np.uint32], begins: Places, ends: Places) -> U64:
    powers, inverses = _powers()
    sums = np.zeros(len(points) + 1, np.uint64)
    for start in range(0, len(points), _BLOCK):
        part = points[start : start + _BLOCK].astype(np.uint64)
        part += np.uint64(1)
        part *= powers[: len(part)]
        np.cumsum(part, out=sums[start + 1 : start + 1 + len(part)])
        # Sums and powers start again in each block, so that they need no memory in proportion to the text.
        if start:
            sums[start + 1 : start + 1 + len(part)] += sums[start]
    raw = (sums[ends] - sums[begins]) * inverses[begins % _BLOCK]
    # A word that crosses a border is taken by itself, so that it hashes to the same wherever it stands.
    for k in np.flatnonzero(begins // _BLOCK != (ends - 1) // _BLOCK).tolist():
        raw[k] = _alone(points[begins[k] : ends[k]])
    raw ^= raw >> np.uint64(29)
    return np.asarray(raw * _MIX, np.uint64)


def _alone(word: NDArray[np.uint8] | NDArray[np.uint32]) -> np.uint64:
    total, power, mask = 0, 1, (1 << 64) - 1
    for point in word.tolist():
        total = (total + (point + 1) * power) & mask
        power = power * int(_BASE) & mask
    return np.uint64(total)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Known words, by their hashes, in an open table: `entries[slot]` is a word's number, or 0."""

    hashes: U64
    entries: NDArray[np.uint16]

    @classmethod
    def of(cls, hashes: U64) -> Vocabulary:
        """Of the hashes of fewer than 65,000 words; the first of two words that share a slot stays."""
        entries = np.zeros(1 << _TABLE_BITS, np.uint16)
        slots = hashes >> np.uint64(64 - _TABLE_BITS)
        entries[slots[::-1]] = np.arange(len(hashes), 0, -1, dtype=np.uint16)
        return cls(np.concatenate([np.zeros(1, np.uint64), hashes]), entries)

    def __len__(self) -> int:
        """The number of rows that a table of embeddings needs: shapes first, then words."""
        return SHAPES + len(self.hashes)

    def numbers(self, text: str, hashed: U64, begins: Places, ends: Places) -> NDArray[np.uint16]:
        """The row of each word in a table of embeddings."""
        found = self.entries[hashed >> np.uint64(64 - _TABLE_BITS)]
        rows = found + np.uint16(SHAPES)
        unknown = np.flatnonzero((found == 0) | (self.hashes[found] != hashed))
        if len(unknown):
            rows[unknown] = _shapes(_points(text), begins[unknown], ends[unknown])
        return np.asarray(rows, np.uint16)


def _shapes(points: NDArray[np.uint8] | NDArray[np.uint32], begins: Places, ends: Places) -> NDArray[np.int32]:
    """0..`SHAPES` - 1: digits, Latin, Greek to Cyrillic, everything else; times the length in classes."""
    first = points[begins]
    script = np.where((first >= 48) & (first < 58), 0, 1 + (first >= 0x370) + (first >= 0x530))
    size = np.searchsorted(np.array([2, 3, 4, 6, 8, 11, 16]), ends - begins, "right")
    return np.asarray(script * 8 + size, np.int32)


_TOP = 0x20000


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """By code point; from `_TOP` on everything is a word by itself."""
    table = np.array(
        [_LETTER if chr(p).isalnum() else _BLANK if chr(p).isspace() else _SIGN for p in range(_TOP + 1)], np.uint8
    )
    for start, end in ((0x0E00, 0x0F00), (0x3040, 0x3100), (0x3400, 0xA000), (0xF900, 0xFB00), (_TOP, _TOP + 1)):
        table[start:end] = np.where(table[start:end] == _LETTER, _ALONE, table[start:end])
    return table


@lru_cache(maxsize=1)
def _powers() -> tuple[U64, U64]:
    def row(base: np.uint64) -> U64:
        full = np.full(_BLOCK, base, np.uint64)
        full[0] = 1
        return np.cumprod(full)

    return row(_BASE), row(_INVERSE)
