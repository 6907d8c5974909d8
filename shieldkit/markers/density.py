"""Delimiters without end: long passages that are hardly anything but signs.

A run of one sign is found by `runs.py`. What is mixed, so that it has no period, shows only in how much of a passage is
signs: unusual delimiter density is one of the features of padding that parks attention (Xiao et al. 2023). Drawings in
ASCII and empty tables are made of signs too, and so this is said, with a score below the usual threshold, and blocks
nothing by itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shieldkit.markers.engine import Marker
from shieldkit.text import Canonical

SCORE = 0.4
BLOCK, LEAST_BLOCKS = 512, 8
"""Characters; and how many blocks in a row have to be dense."""
DENSE = 0.9
"""The share of signs among what is visible. Of code it is a third, of tables a half at the most."""
LEAST_VISIBLE = 0.5
"""The share of a block that is visible: drawings are blanks for the most part."""
SAMPLED = 8
"""Each eighth character is looked at."""


def _table(kept: str) -> bytes:
    return bytes(chr(octet) in kept for octet in range(256))


_SIGNS = _table("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_VISIBLE = bytes(octet > 32 for octet in range(256))


def dense(canonical: Canonical) -> Iterator[Marker]:
    """Passages of at least `BLOCK * LEAST_BLOCKS` characters."""
    data = canonical.data[::SAMPLED]
    size = BLOCK // SAMPLED
    count = len(data) // size
    if count < LEAST_BLOCKS:
        return
    signs, visible = (_shares(data[: count * size].translate(table), size) for table in (_SIGNS, _VISIBLE))
    full = (visible >= LEAST_VISIBLE * size) & (signs >= DENSE * visible)
    edges = np.flatnonzero(np.diff(full, prepend=False, append=False)).tolist()
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first >= LEAST_BLOCKS:
            yield Marker("delimiter_density", SCORE, *canonical.span(first * BLOCK, last * BLOCK))


def _shares(ones: bytes, size: int) -> NDArray[np.int64]:
    return np.asarray(np.frombuffer(ones, np.uint8).reshape(-1, size).sum(axis=1, dtype=np.int64))
