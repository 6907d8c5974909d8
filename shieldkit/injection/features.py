"""Words and runs of words as hashed features (Weinberger et al. 2009), vectorised over a whole text.

A word is a run of letters and digits of any script; each other visible character is a word of its own. The hash of a
word is a polynomial over its bytes modulo 2**64, taken from one running sum: a million tokens cost a few passes of numpy.
Features of a word: itself, it with the next one, it with the next two, and it with the one after the next.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FOREIGN = 0x0530  # from Armenian on: what the training texts hardly hold
BITS = 18
SIZE = 1 << BITS
KINDS = 4

U64 = NDArray[np.uint64]
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_MIX = tuple(np.uint64(m) for m in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F))
_BLOCK = 1 << 16


def words(text: str) -> tuple[U64, NDArray[np.int64], NDArray[np.int64]]:
    """Hash, start and end (characters of `text`) of each word."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    if not len(points):
        empty = np.zeros(0, np.int64)
        return np.zeros(0, np.uint64), empty, empty
    kind = _kinds()[np.minimum(points, 0x3000)]
    # A word begins where its kind differs from the one before, and at every sign.
    begins = np.flatnonzero((kind != 0) & ((np.diff(kind, prepend=np.uint8(0)) != 0) | (kind == 2)))
    ends = np.flatnonzero((kind != 0) & ((np.diff(kind, append=np.uint8(0)) != 0) | (kind == 2))) + 1
    hashed = _hashes(points, begins, ends)
    # The weights have seen too little of other scripts to say anything of them: their words are features of nothing.
    hashed[points[begins] >= FOREIGN] = 0
    return hashed, begins, ends


def _hashes(points: NDArray[np.uint32], begins: NDArray[np.int64], ends: NDArray[np.int64]) -> U64:
    powers, inverses = _powers()
    sums = np.zeros(len(points) + 1, np.uint64)
    places = np.arange(len(points)) % _BLOCK
    np.cumsum((points.astype(np.uint64) + np.uint64(1)) * powers[places], out=sums[1:])
    # Powers start again in each block, so that they need no memory in proportion to the text. A word that crosses a
    # border is put together from its parts, so that it hashes to the same wherever it stands.
    raw = (sums[ends] - sums[begins]) * inverses[begins % _BLOCK]
    for k in np.flatnonzero(begins // _BLOCK != (ends - 1) // _BLOCK).tolist():
        raw[k] = _across(points[begins[k] : ends[k]])
    raw ^= raw >> np.uint64(29)
    return raw * _MIX[0]


def _across(word: NDArray[np.uint32]) -> np.uint64:
    """The hash of one word by itself."""
    total, power, mask = 0, 1, (1 << 64) - 1
    for point in word.tolist():
        total = (total + (point + 1) * power) & mask
        power = power * int(_BASE) & mask
    return np.uint64(total)


def features(hashed: U64) -> NDArray[np.int64]:
    """Indices of the features of each word, shape (words, `KINDS`), each in 0..`SIZE`; `SIZE` stands for "none"."""
    count = len(hashed)
    table = np.full((count, KINDS), SIZE, np.int64)
    shift = np.uint64(64 - BITS)
    table[:, 0] = (hashed * _MIX[1]) >> shift
    if count > 1:
        pair = hashed[:-1] * _MIX[2] + hashed[1:]
        table[:-1, 1] = (pair * _MIX[1]) >> shift
    if count > 2:
        table[:-2, 2] = ((pair[:-1] * _MIX[3] + hashed[2:]) * _MIX[1]) >> shift
        table[:-2, 3] = ((hashed[:-2] * _MIX[0] + hashed[2:] * _MIX[3]) * _MIX[1]) >> shift
    table[hashed == 0] = SIZE
    return table


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """0: blank, 1: letter or digit, 2: sign; by code point, everything from U+3000 on being a word character."""
    table = np.array([1 if chr(p).isalnum() else 0 if chr(p).isspace() else 2 for p in range(0x3001)], np.uint8)
    table[0x3000] = 2
    return table


@lru_cache(maxsize=1)
def _powers() -> tuple[U64, U64]:
    def row(base: np.uint64) -> U64:
        full = np.full(_BLOCK, base, np.uint64)
        full[0] = 1
        return np.cumprod(full)

    return row(_BASE), row(_INVERSE)
