"""Padding: long runs of one character, or of a short unit again and again.

Long runs of newlines, delimiters or one token push instructions out of a context window, or park attention (attention
sinks: Xiao et al. 2023). Rules of dashes and rows of dots are ordinary up to a few hundred characters.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shieldkit.markers.engine import Marker

LEAST_RUN, LEAST_WORDS, LEAST_BLANK = 400, 1200, 6000
CERTAIN_RUN = 8000
MAX_UNIT = 16
STRIDE = 64


def runs(text: str) -> Iterator[Marker]:
    """Runs that repeat with a period of 1 to `MAX_UNIT` characters: of signs, of words, or (longer ones) of blanks."""
    if len(text) < LEAST_RUN:
        return
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    taken = 0
    for unit in range(1, MAX_UNIT + 1):
        for start, end in _periodic(points, unit):
            if start >= taken and end - start >= (least := _least(text[start : start + unit])):
                taken = end
                certain = min(1.0, (end - start - least) / CERTAIN_RUN)
                yield Marker("sink_run", 0.55 + 0.4 * certain, start, end)


def pending(text: str) -> int:
    """Where the run begins that the text ends with, if more of the same may follow: len(text) where there is none."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    start = len(points)
    for unit in range(1, min(MAX_UNIT, len(points) - 1) + 1):
        differs = np.flatnonzero(points[:-unit] != points[unit:])
        begin = int(differs[-1]) + 1 if len(differs) else 0
        if begin < len(points) - unit:
            start = min(start, begin)
    return start


def _periodic(points: NDArray[np.uint32], unit: int) -> Iterator[tuple[int, int]]:
    """Where each character equals the one `unit` further on, at least `LEAST_RUN` characters long.

    A run that long shows in several samples in a row; only there is every character compared.
    """
    first, second = points[:-unit:STRIDE], points[unit::STRIDE]
    least = LEAST_RUN // STRIDE - 1
    alike = first == second[: len(first)]
    if int(np.count_nonzero(alike)) < least:
        return
    for start, end in _stretches(alike, least):
        low, high = max(0, (start - 1) * STRIDE), min(len(points) - unit, (end + 1) * STRIDE)
        same = points[low:high] == points[low + unit : high + unit]
        for inner_start, inner_end in _stretches(same, LEAST_RUN - unit):
            yield low + inner_start, low + inner_end + unit


def _stretches(same: NDArray[np.bool_], least: int) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    for k in np.flatnonzero(ends - starts >= least).tolist():
        yield int(starts[k]), int(ends[k])


def _least(unit: str) -> int:
    """Tables are padded with blanks, and lists repeat a word: those must be longer to count."""
    if unit.isspace() and "\n" not in unit:
        return LEAST_BLANK
    return LEAST_WORDS if any(c.isalnum() for c in unit) else LEAST_RUN
