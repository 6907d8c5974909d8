"""Where in a text skim and encoder read.

Windows are placed around the sweep's peaks, not on a grid: the same words get the same window wherever they stand in a
text. A text that fits one window is one. Of what the skim leaves the encoder reads the first windows whole, and where that can
matter the line or sentence of the peak alone too, so that a short attack in a long text is not diluted by what stands around it;
the others where a glance at what is around the peak does not settle them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shieldkit.injection.features import Places

WINDOW = 384
"""Characters of canonical text."""
_BEFORE = 240
_LINE = 200  # at most this far to either side
_NEAR_BEFORE, _NEAR_AFTER, _SEAM = 120, 80, 24
CLOSELY = 4
"""How many windows of a text are read whole; of the others first what is next to the peak, which says for most that there
is nothing, in half of the time.
"""
_BLOCK = 1024  # words
_BREAK = re.compile(r"\n|[.!?;] ")


@dataclass(frozen=True, slots=True)
class Window:
    """Characters `[start, end)` of a text, the place of the peak in it, how high that is, and whether it is read whole without
    a glance first.
    """

    start: int
    end: int
    at: int
    peak: float
    closely: bool = True

    def near(self, text: str) -> tuple[int, int]:
        """What is right around the peak, in whatever lines that is, and its line."""
        start, end = self.line(text)
        return max(self.start, min(start, self.at - _NEAR_BEFORE)), min(self.end, max(end, self.at + _NEAR_AFTER))

    def line(self, text: str) -> tuple[int, int]:
        """Where the line or sentence of the peak is, as far as it lies in the window."""
        start, end = line(text, self.at)
        return max(start, self.start), min(end, self.end)


def line(text: str, at: int) -> tuple[int, int]:
    """The line or sentence around a place: at most 400 characters."""
    low = max(0, at - _LINE)
    start = max((match.end() for match in _BREAK.finditer(text, low, at)), default=low)
    stop = _BREAK.search(text, at, at + _LINE)
    return start, stop.end() if stop else min(len(text), at + _LINE)


def around_peaks(
    scores: NDArray[np.float32], begins: Places, text: str, *, certain: float, likely: float, most: int
) -> list[Window]:
    """Windows, highest peak first: around every peak from `certain` on, and around up to `most` from `likely` on.

    `scores` are those of the words that begin at `begins`. They are overwritten: in a text of a million tokens another copy
    counts.
    """
    length = len(text)
    if length <= WINDOW:
        at = int(scores.argmax())
        return [Window(0, length, int(begins[at]), float(scores[at]))] if scores[at] >= likely else []
    left = _Highest(scores)
    found: list[Window] = []
    while len(scores):
        at, peak = left.highest()
        if peak < likely or (peak < certain and len(found) >= most):
            break
        start, end = _placed(int(begins[at]), begins, length)
        window = Window(start, end, int(begins[at]), peak, len(found) < CLOSELY)
        found.append(window)
        for low, high in _covered_by(window, text):
            left.take(_index(begins, max(low, start)), _index(begins, min(high, end)))
        left.take(at, at + 1)
    return found


def _index(begins: Places, place: int) -> int:
    """The number of the first word that begins at `place` or later."""
    # A number of another type would have all of them converted.
    return int(np.searchsorted(begins, begins.dtype.type(place)))


def _covered_by(window: Window, text: str) -> list[tuple[int, int]]:
    """Where a peak needs no window of its own."""
    if not window.closely:
        # It may be let go for what is next to its peak, and then nothing else of it has been read.
        low, high = window.near(text)
        low, high = low + _SEAM * (low > window.start), high - _SEAM * (high < window.end)
        return [(low, high), window.line(text)]
    # What is well inside; near the window's ends, where another peak may have the same window (at the ends of the text), no more
    # than the line that is read by itself.
    inner = max(1, (window.end - window.start) // 4)
    return [(window.start + inner, window.end - inner), line(text, window.at)]


class _Highest:
    """Scores of which the highest is asked for again and again: kept by blocks, so that not all of them are looked at."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self._scores = scores
        starts = np.arange(0, len(scores), _BLOCK)
        self._highest = np.maximum.reduceat(scores, starts) if len(scores) else scores

    def highest(self) -> tuple[int, float]:
        """The place of the highest score that is left, the first of several, and the score."""
        start = int(self._highest.argmax()) * _BLOCK
        at = start + int(self._scores[start : start + _BLOCK].argmax())
        return at, float(self._scores[at])

    def take(self, first: int, last: int) -> None:
        """Leave out the scores `[first, last)`."""
        self._scores[first:last] = -np.inf
        for block in range(first // _BLOCK, -(-last // _BLOCK) if last > first else 0):
            self._highest[block] = self._scores[block * _BLOCK : (block + 1) * _BLOCK].max()


def _placed(at: int, begins: Places, length: int) -> tuple[int, int]:
    """From a word's beginning to that of another, with the peak in the second half: what is asked often comes last."""
    start = max(0, min(at - _BEFORE, length - WINDOW))
    start = int(begins[min(_index(begins, start), len(begins) - 1)])
    if start + WINDOW >= length:
        return start, length
    end = int(begins[_index(begins, start + WINDOW + 1) - 1])
    return start, end if end > at else start + WINDOW  # a long word is cut
