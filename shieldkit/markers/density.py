"""Delimiters without end: long passages that are hardly anything but signs.

A run of one sign is found by `runs.py`. What is mixed, so that it has no period, shows only in how much of a passage is
signs: unusual delimiter density is one of the features of padding that parks attention (Xiao et al. 2023). Drawings in
ASCII and empty tables are made of signs too, and so this is said, with a score below the thresholds of the built-in policies.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shieldkit.markers.engine import Marker
from shieldkit.text import Canonical

SCORE = 0.3
BLOCK, LEAST_BLOCKS = 512, 8
"""Characters; and how many blocks in a row have to be dense. Found for certain from `BLOCK * (LEAST_BLOCKS + 1)` on."""
DENSE = 0.9
"""The share of signs among what is visible. Of code it is a third, of tables a half at the most."""
LEAST_VISIBLE = 0.5
"""The share of a block that is visible: drawings are blanks for the most part."""
_LOOKED_AT = np.sort(np.random.default_rng(0).permutation(BLOCK)[: BLOCK // 8])
"""Which characters of a block are looked at: as if by chance, so that no period of a text falls in with it."""


def _table(kept: str) -> NDArray[np.bool_]:
    return np.array([chr(octet) in kept for octet in range(256)])


_SIGNS = _table("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_VISIBLE = np.arange(256) > 32


def dense(canonical: Canonical) -> Iterator[Marker]:
    """Passages of whole blocks, at least `LEAST_BLOCKS` of them."""
    count = len(canonical.text) // BLOCK
    if count < LEAST_BLOCKS:
        return
    blocks = np.frombuffer(canonical.data, np.uint8, count * BLOCK).reshape(count, BLOCK)
    looked_at = np.take(blocks, _LOOKED_AT, axis=1)
    signs, visible = (np.count_nonzero(np.take(table, looked_at), axis=1) for table in (_SIGNS, _VISIBLE))
    full = (visible >= LEAST_VISIBLE * len(_LOOKED_AT)) & (signs >= DENSE * visible)
    edges = np.flatnonzero(np.diff(full, prepend=False, append=False)).tolist()
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first >= LEAST_BLOCKS:
            yield Marker("delimiter_density", SCORE, *canonical.span(first * BLOCK, last * BLOCK))
