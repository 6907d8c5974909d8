"""Which windows of a text the second stage reads.

Windows are placed around the sweep's peaks, not on a grid: the same words get the same window wherever they stand in a
text. A text that fits one window is one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shieldkit.injection.features import Places

WINDOW = 384
"""Characters of canonical text."""
_BEFORE = 240


def around_peaks(
    scores: NDArray[np.float32], begins: Places, ends: Places, length: int, *, certain: float, likely: float, most: int
) -> list[tuple[int, int, float]]:
    """Windows `(start, end, peak)`, highest peak first: every peak from `certain` on, and up to `most` from `likely` on."""
    if length <= WINDOW:
        peak = float(scores.max(initial=-np.inf))
        return [(0, length, peak)] if peak >= likely else []
    left = scores.copy()
    found: list[tuple[int, int, float]] = []
    while len(left):
        at = int(left.argmax())
        peak = float(left[at])
        if peak < likely or (peak < certain and len(found) >= most):
            break
        start, end = _placed(int(begins[at]), begins, ends, length)
        found.append((start, end, peak))
        # What is well inside of this window need not be read again.
        inner = max(1, (end - start) // 4)
        left[np.searchsorted(begins, start + inner) : np.searchsorted(ends, end - inner, "right")] = -np.inf
        left[at] = -np.inf
    return found


def _placed(at: int, begins: Places, ends: Places, length: int) -> tuple[int, int]:
    """From a word's beginning to a word's end, with the peak in the second half: what is asked often comes last."""
    start = max(0, min(at - _BEFORE, length - WINDOW))
    start = int(begins[min(np.searchsorted(begins, start), len(begins) - 1)])
    stop = int(np.searchsorted(ends, start + WINDOW, "right")) - 1
    return start, max(int(ends[stop]) if stop >= 0 else 0, min(start + WINDOW, length) if stop < 0 else 0, start + 1)
