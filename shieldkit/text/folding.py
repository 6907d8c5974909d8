"""One code point to what it stands for, vectorised over a table.

The table (`data/folds.npz`, built by `training/build_folds.py`) holds compatibility decomposition (UAX #15), case folding
and the confusables of UTS #39 that stand for Latin letters and ASCII signs. Format characters, joiners, combining marks,
variation selectors and control characters fold to nothing, but for those that part words (page breaks, separators); tag
characters to the ASCII that they hide. Every entry is folded to its fixed point, so folding twice is folding once.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shieldkit.errors import ModelFileError

_FILE = Path(__file__).parent / "data" / "folds.npz"
_SHA256 = "ba14b8ed1c68cf7e862401777c98601f77162e71eba8f58820404ac75c257d3d"
_POINTS = 0x110000
_CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
_LONG = 4096
"""From this length on numpy's fixed costs do not matter."""
_BLOCK = 1 << 16
PLACEHOLDER = 26
"""What stands for a character outside ASCII in narrowed text: a control character, of which folded text has none."""

Indices: TypeAlias = NDArray[np.int64]
Points: TypeAlias = NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where folded characters come from, kept only for the originals that fold to none or to several.

    `places` are the indices of those originals, in order; `shifts[k]` is how much longer the folded text is than the
    original up to and including `places[k]`; `begins[k]` is where in the folded text `places[k]` begins.
    """

    places: Indices
    shifts: Indices
    begins: Indices

    def original(self, folded: int) -> int:
        """The index of the original character that the folded one at `folded` came from."""
        k = int(np.searchsorted(self.begins, folded, side="right")) - 1
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


@dataclass(frozen=True, slots=True)
class Characters:
    """A text as numbers: `data` has a byte for each character, ASCII or `PLACEHOLDER`, so that what is found in it by a
    pattern of ASCII stands at the same offsets in the text. `odd` are the places of all that is neither printable ASCII
    nor a tab or a line end, `points` the code points there (U+FFFD for a lone surrogate).
    """

    data: bytes
    odd: Indices
    points: Points


def characters(text: str) -> Characters:
    """Read a text once, block by block: what that takes besides does not grow with the text."""
    blocks = [_read(text[low : low + _BLOCK], low) for low in range(0, max(len(text), 1), _BLOCK)]
    if len(blocks) == 1:
        return blocks[0]
    return Characters(
        b"".join(block.data for block in blocks),
        np.concatenate([block.odd for block in blocks]),
        np.concatenate([block.points for block in blocks]),
    )


_NOWHERE: Indices = np.zeros(0, np.int64)
_NONE: Points = np.zeros(0, np.uint32)


def _read(text: str, at: int) -> Characters:
    """A block of text that begins at `at`."""
    if text.isascii():
        data = text.encode("ascii")
        if len(data) < _LONG and len(data.translate(None, _CONTROLS)) == len(data):
            return Characters(data, _NOWHERE, _NONE)
        octets = np.frombuffer(data, np.uint8)
        odd = _odd(octets)
        return Characters(data, odd + at, octets[odd].astype(np.uint32))
    points = _points(text)
    data = _narrow(points)
    odd = _odd(np.frombuffer(data, np.uint8))
    return Characters(data, odd + at, points[odd])


def _points(text: str) -> Points:
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError:
        return np.frombuffer(encodable(text).encode("utf-32-le"), np.uint32)


def narrowed(text: str) -> bytes:
    """`characters(text).data` alone."""
    if text.isascii():
        return text.encode("ascii")
    return _narrow(_points(text))


def _narrow(points: NDArray[Any]) -> bytes:
    low = points.astype(np.uint8)
    np.copyto(low, PLACEHOLDER, where=points > 127)
    return low.tobytes()


def _odd(data: NDArray[np.uint8]) -> Indices:
    """Control characters, the placeholder among them, but for tabs and line ends."""
    places: Indices = np.flatnonzero(data - np.uint8(32) > 94)
    found = data[places]
    kept: Indices = places[(found != 9) & (found != 10) & (found != 13)]
    return kept


# Combining marks fold to nothing too, and are seen.
_MARKS = ((0x300, 0x70), (0x1AB0, 0x50), (0x1DC0, 0x40), (0x20D0, 0x30))


def unseen(read: Characters) -> Indices:
    """The places of what folds to nothing and is not seen: control and format characters, fillers, variation selectors."""
    if not len(read.odd):
        return _NOWHERE
    gone = _table()[0][read.points] == 0
    if not gone.any():
        return _NOWHERE
    places, points = read.odd[gone], read.points[gone]
    marks = np.zeros(len(points), np.bool_)
    for first, count in _MARKS:
        marks |= points - np.uint32(first) < count
    kept: Indices = places[~marks]
    return kept


@dataclass(frozen=True, slots=True)
class Folded:
    """Folded text, the same narrowed, and where its characters come from; None for "where they stand"."""

    text: str
    data: bytes
    offsets: Offsets | None


def fold(text: str) -> Folded:
    """Fold a text by itself."""
    return folded(characters(text))


def folded(read: Characters) -> Folded:
    """Lower-case all, and look up in the table what is odd: little of most texts."""
    if not len(read.odd):
        data = read.data.lower()
        return Folded(data.decode("ascii"), data, None)
    sizes = _table()[0][read.points]
    changed = sizes != 1
    offsets = None
    if changed.any():
        places = read.odd[changed]
        shifts = np.cumsum(sizes[changed].astype(np.int64) - 1)
        offsets = Offsets(places, shifts, places + np.concatenate([[0], shifts[:-1]]))
    text, datas = "", []
    for low in range(0, len(read.data), _BLOCK):
        first, last = np.searchsorted(read.odd, (low, low + _BLOCK))
        block = read.data[low : low + _BLOCK].lower()
        part, data = _folded(block, read.odd[first:last] - low, read.points[first:last], sizes[first:last])
        text += part  # grows where it is; a join of all parts would need twice the memory
        datas.append(data)
    if text.isascii():
        datas.clear()  # first: no third copy
        return Folded(text, text.encode("ascii"), offsets)
    return Folded(text, b"".join(datas), offsets)


def _folded(block: bytes, odd: Indices, odd_points: Points, sizes: NDArray[np.uint8]) -> tuple[str, bytes]:
    """A block, narrowed and in lower case, with what its odd characters fold to; the text, and the same narrowed."""
    if not len(odd):
        return block.decode("ascii"), block
    _, singles, starts, expansions = _table()
    alone, several = sizes == 1, sizes > 1
    single = singles[odd_points[alone]]
    new = expansions[_ramps(starts[odd_points[several]], sizes[several])]
    most = max(int(single.max(initial=0)), int(new.max(initial=0)))
    kind, encoding = next(k for k in _KINDS if most <= k[0])[1:]
    # What is odd is overwritten or cut out below.
    points: NDArray[Any] = np.frombuffer(block, np.uint8).astype(kind)
    points[odd[alone]] = single
    if not alone.all():
        kept = np.ones(len(points), np.bool_)
        kept[odd[~alone]] = False
        points = points[kept]
        if len(new):
            grown = sizes[~alone].astype(np.int64)
            begins = odd[~alone] + np.concatenate([[0], np.cumsum(grown - 1)[:-1]])
            points = _inserted(points, _ramps(begins[grown > 1], sizes[several]), new)
    data = points.tobytes() if encoding == "ascii" else _narrow(points)
    return points.tobytes().decode(encoding), data


# By the highest code point of a text: the narrowest numbers that hold it.
_KINDS = ((0x7F, np.uint8, "ascii"), (0xFFFF, np.uint16, "utf-16-le"), (0x10FFFF, np.uint32, "utf-32-le"))


def _inserted(points: NDArray[Any], at: Indices, new: Points) -> NDArray[Any]:
    """`points` with `new` ones between them, which stand at `at` afterwards."""
    fresh = np.zeros(len(points) + len(new), np.bool_)
    fresh[at] = True
    longer = np.empty(len(fresh), points.dtype)
    longer[at] = new
    longer[~fresh] = points
    return longer


def _ramps(starts: NDArray[Any], counts: NDArray[Any]) -> Indices:
    """For each start as many indices as its count says, one after the other."""
    counts = counts.astype(np.int64)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts.astype(np.int64) - (ends - counts), counts) + np.arange(total)


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
