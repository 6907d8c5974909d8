"""Padding: long runs of one character, or of a short unit again and again.

Long runs of newlines, delimiters or one token push instructions out of a context window, or park attention (attention
sinks: Xiao et al. 2023). Rules of dashes and rows of dots are ordinary up to a few hundred characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shieldkit.markers.engine import Marker
from shieldkit.text import Canonical

Octets: TypeAlias = NDArray[np.uint8]

LEAST_RUN, LEAST_WORDS, LEAST_BLANK = 400, 1200, 6000
CERTAIN_RUN = 8000
MAX_UNIT = 16
STRIDE = 64
SAMPLES = LEAST_RUN // STRIDE - 1


def runs(canonical: Canonical) -> Iterator[Marker]:
    """Runs that repeat with a period of 1 to `MAX_UNIT` characters: of signs, of words, or (longer ones) of blanks.

    They are looked for in folded text: what is invisible breaks no run.
    """
    data = np.frombuffer(canonical.data, np.uint8)
    if len(data) < LEAST_RUN:
        return
    samples = np.ascontiguousarray(data[: len(data) // STRIDE * STRIDE].reshape(-1, STRIDE)[:, : MAX_UNIT + 1].T)
    alike = samples[1:] == samples[:1]
    # A run shows in several samples in a row.
    several = alike[:, SAMPLES - 1 :].copy()
    for k in range(SAMPLES - 1):
        several &= alike[:, k : k + several.shape[1]]
    if not several.any():
        return
    taken = 0
    for unit, begins in enumerate(several, 1):
        for start, end in _periodic(canonical.text, data, begins, unit):
            if start >= taken and end - start >= (least := _least(canonical.text[start : start + unit])):
                taken = end
                certain = min(1.0, (end - start - least) / CERTAIN_RUN)
                yield Marker("sink_run", 0.55 + 0.4 * certain, *canonical.span(start, end))


def pending(canonical: Canonical) -> int:
    """Where in the original the run begins that the text ends with, if more of the same may follow; else its end."""
    data = np.frombuffer(canonical.data, np.uint8)
    start = len(data)
    for unit in range(1, min(MAX_UNIT, len(data) - 1) + 1):
        differs = np.flatnonzero(data[:-unit] != data[unit:])
        begin = int(differs[-1]) + 1 if len(differs) else 0
        if begin < len(data) - unit:
            start = min(start, begin)
    return canonical.span(start, start)[0]


def _periodic(text: str, data: Octets, begins: NDArray[np.bool_], unit: int) -> Iterator[tuple[int, int]]:
    """Where each character equals the one `unit` further on, at least `LEAST_RUN` characters long.

    `begins` says where `SAMPLES` samples in a row do; only there is every character compared.
    """
    places = np.flatnonzero(begins)
    if not len(places):
        return
    cuts = np.flatnonzero(np.diff(places) > 1)
    firsts, lasts = places[np.concatenate([[0], cuts + 1])], places[np.concatenate([cuts, [-1]])]
    for start, end in zip(firsts.tolist(), (lasts + SAMPLES).tolist(), strict=True):
        # Whatever is in it, the run is no longer than to the next samples on both sides.
        if (end - start + 2) * STRIDE + unit < _least(text[start * STRIDE : start * STRIDE + unit]):
            continue
        low, high = max(0, (start - 1) * STRIDE), min(len(data) - unit, (end + 1) * STRIDE)
        same = data[low:high] == data[low + unit : high + unit]
        for first, last in _stretches(same, LEAST_RUN - unit):
            yield from _confirmed(text, low + first, low + last + unit, unit)


def _confirmed(text: str, start: int, end: int, unit: int) -> Iterator[tuple[int, int]]:
    """The run itself, or the parts of it that are runs also where narrowed text had one sign for many characters."""
    run = text[start:end]
    if run.isascii():
        yield start, end
        return
    points = np.frombuffer(run.encode("utf-32-le"), np.uint32)
    for first, last in _stretches(points[:-unit] == points[unit:], LEAST_RUN - unit):
        yield start + first, start + last + unit


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
