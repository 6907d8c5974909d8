"""One code point to what it stands for, vectorised over a table.

The table (`data/folds.npz`, built by `training/build_folds.py`) holds compatibility decomposition (UAX #15), case folding
and the confusables of UTS #39 that stand for Latin letters and ASCII signs. Format characters, joiners, combining marks,
variation selectors and control characters fold to nothing; tag characters to the ASCII that they hide. Every entry is
folded to its fixed point, so folding twice is folding once.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shieldkit.errors import ModelFileError

_FILE = Path(__file__).parent / "data" / "folds.npz"
_SHA256 = "0c0da3cf9609cb3698f8de8a6863bf0cc8132a6cad37fe7adeefb415c8a59e52"
_POINTS = 0x110000
_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])

Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where folded characters come from, kept only for the originals that fold to none or to several.

    `places` are the indices of those originals, in order; `shifts[k]` is how much longer the folded text is than the
    original up to and including `places[k]`.
    """

    places: Indices
    shifts: Indices

    def original(self, folded: int) -> int:
        """The index of the original character that the folded one at `folded` came from."""
        # The folded position where each irregular original begins, and ends.
        before = np.concatenate([[0], self.shifts[:-1]])
        begins = self.places + before
        k = int(np.searchsorted(begins, folded, side="right")) - 1
        if k < 0:
            return folded
        place, shift = int(self.places[k]), int(self.shifts[k])
        return place if folded - shift <= place else folded - shift


_SURROGATES = re.compile("[\ud800-\udfff]")


def encodable(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate, which no encoding can hold; every index stays what it was."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text


def fold(text: str) -> tuple[str, Offsets | None]:
    """The folded text, and where its characters come from; None for "where they stand"."""
    if text.isascii():
        data = text.encode("ascii")
        if len(data.translate(None, _CONTROLS)) == len(data):
            return text.lower(), None
    points = np.frombuffer(encodable(text).encode("utf-32-le"), np.uint32)
    lengths, singles, starts, expansions = _table()
    sizes = lengths[points]
    places = np.flatnonzero(sizes != 1)
    if len(places) == 0:
        return _decode(singles[points]), None
    shifts = np.cumsum(sizes[places].astype(np.int64) - 1)
    folded = np.repeat(singles[points], sizes)
    several = np.flatnonzero(sizes[places] > 1)
    begins = places[several] + np.concatenate([[0], shifts])[several]
    for begin, point in zip(begins.tolist(), points[places[several]].tolist(), strict=True):
        at, count = int(starts[point]), int(lengths[point])
        folded[begin : begin + count] = expansions[at : at + count]
    return _decode(folded), Offsets(places, shifts)


def _decode(points: NDArray[np.uint32]) -> str:
    return points.astype("<u4", copy=False).tobytes().decode("utf-32-le")


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int32], NDArray[np.uint32]]:
    """By code point: how many it folds to, the one that it folds to, and where several start in the last array."""
    data = _FILE.read_bytes() if _FILE.is_file() else b""
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise ModelFileError(_FILE.name, "is missing or changed", mend="Install shieldkit anew")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        points, counts, expansions = file["points"], file["lengths"], file["expansions"]
    lengths = np.ones(_POINTS, np.uint8)
    singles = np.arange(_POINTS, dtype=np.uint32)
    starts = np.zeros(_POINTS, np.int32)
    first = np.cumsum(counts, dtype=np.int32) - counts
    lengths[points] = counts
    starts[points] = first
    one = counts == 1
    singles[points[one]] = expansions[first[one]]
    return lengths, singles, starts, expansions
