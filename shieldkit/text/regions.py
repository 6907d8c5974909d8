"""Places that belong together, and how much around them is read with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MARGIN = 64
"""Characters around a decoded spot that are kept with it, so that what it completes can be seen."""
LINE = 160
"""How far the line after a spot is taken to be written as the spot is."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder read out of `[start, end)` of the text it was given."""

    disguise: str
    text: str
    start: int
    end: int


def spots(pattern: Any, text: str | bytes) -> Iterator[tuple[int, int]]:
    """Where a pattern matches."""
    return (match.span() for match in pattern.finditer(text))


def regions(found: Iterable[tuple[int, int]], *, least: int, gap: int) -> Iterator[tuple[int, int]]:
    """Spots (in order) that stand near each other as one region, where there are at least `least` of them."""
    first = last = count = 0
    for start, end in found:
        if count and start - last > gap:
            if count >= least:
                yield first, last
            count = 0
        if not count:
            first = start
        last, count = max(last, end) if count else end, count + 1
    if count >= least:
        yield first, last


def with_margin(text: str | bytes, found: Iterable[tuple[int, int]], margin: int = MARGIN) -> Iterator[tuple[int, int]]:
    """Each region with as much of the text on both sides."""
    for start, end in found:
        yield max(0, start - margin), min(len(text), end + margin)


def with_lines(text: str, found: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Each region with what of its lines stands `MARGIN` characters before it and `LINE` after; what touches is one.

    More before it would have to be held back of a text that comes bit by bit.
    """
    before = None
    for start, end in found:
        low, high = max(0, start - MARGIN), min(len(text), end + LINE)
        low, high = max(low, text.rfind("\n", low, start) + 1), text.find("\n", end, high)
        wide = low, high if high >= 0 else min(len(text), end + LINE)
        if before is not None and wide[0] <= before[1]:
            before = before[0], max(before[1], wide[1])
            continue
        if before is not None:
            yield before
        before = wide
    if before is not None:
        yield before
