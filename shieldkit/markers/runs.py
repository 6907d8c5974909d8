"""Padding: long runs of one character, or of a short unit again and again.

Long runs of newlines, delimiters or one token push instructions out of a context window, or park attention (attention
sinks: Xiao et al. 2023). Rows of dots and fields to fill in are ordinary up to a thousand characters or so, and are said with
a score below the threshold of the default policy; so are rules on a line of their own up to some thousands, and masks, empty
rows or cells and the zeros of encoded files up to many thousands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from shieldkit.markers.engine import Marker
from shieldkit.text import Canonical

Octets: TypeAlias = NDArray[np.uint8]

LEAST_RUN, LEAST_WORDS, LEAST_BLANK = 400, 1200, 6000
"""From which length on a run of signs, of words, or of blanks is said."""
LONG_RUN, LONG_RULE, LONG_DATA = 2000, 5000, 20_000
"""From which length on it blocks: of whatever is neither a rule nor data; of a rule on a line of its own; of data."""
CERTAIN_RUN = 8000
INDENTED = 4
"""How many characters a line has at least in a run of blank lines that are blanks for the most part."""
LONG, SHORT, SHORT_DATA = 0.55, 0.4, 0.3
MAX_UNIT = 16
CONTEXT = 16
"""How many characters before a run are looked at."""
STRIDE = 64
SAMPLES = LEAST_RUN // STRIDE - 1

_FIELDS = re.compile(r"[a-z\s.+\-\"'()\[\]{}]*[0-9,;][a-z0-9\s.,;+\-\"'()\[\]{}]*")
_LITERALS = frozenset("".join(sorted(word)) for word in ("", "null", "none", "nan", "true", "false"))
_CELL = re.compile(r"<(t[dhr]|li|dt|dd|p|div|span)>(?:\s|&nbsp;)*</\1>\s*")
_RULES, _LINE_ENDS = frozenset(".-=_*#"), frozenset({"", "\n", "\r"})
_ENCODED = re.compile("[a-z0-9+/_-]*")


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
    found = [
        (start, end, unit)
        for unit, begins in enumerate(several, 1)
        for start, end in _periodic(canonical.text, data, begins, unit)
    ]
    taken = 0
    # What has a period has its multiples too. Runs of two periods overlap by no more than both (Fine and Wilf 1965).
    for start, end, unit in sorted(found, key=lambda run: (run[0], -run[1])):
        if start >= taken - 2 * MAX_UNIT and (score := _score(canonical.text, start, end, unit)):
            taken = end
            yield Marker("sink_run", score, *canonical.span(start, end))


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
        # Indentation makes samples alike in their first characters. Of so few, the three in the middle are in any run.
        middle = (start + end) // 2 * STRIDE
        if end - start <= SAMPLES + 2 and not _repeats(text[middle - STRIDE : middle + STRIDE + MAX_UNIT], unit):
            continue
        # Whatever is in it, the run is no longer than to the next samples on both sides.
        low, high = max(0, (start - 1) * STRIDE), min(len(data) - unit, (end + 1) * STRIDE)
        same = data[low:high] == data[low + unit : high + unit]
        for first, last in _stretches(same, LEAST_RUN - unit):
            yield from _confirmed(text, low + first, low + last + unit, unit)


def _repeats(sample: str, unit: int) -> bool:
    return sample[:-unit] == sample[unit:]


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
    bounds = np.concatenate([[-1], np.flatnonzero(~same), [len(same)]])
    for k in np.flatnonzero(np.diff(bounds) > least).tolist():
        yield int(bounds[k]) + 1, int(bounds[k + 1])


def _score(text: str, start: int, end: int, unit: int) -> float:
    """0 for what is ordinary. Tables are padded with blanks, and lists repeat a word: those must be longer to count."""
    repeated, length = text[start : start + unit], end - start
    if repeated.isspace() and INDENTED * repeated.count("\n") < len(repeated):
        least = long = LEAST_BLANK
    else:
        least = LEAST_WORDS if any(c.isalnum() for c in repeated) else LEAST_RUN
        long = LONG_RUN
    short = SHORT
    if repeated.isspace():
        length -= text.count("\r", start, end)  # a line end of two characters is one
    if _is_data(repeated) or _is_encoded(text[max(0, start - CONTEXT) : start], repeated):
        long, short = LONG_DATA, SHORT_DATA
    elif repeated in _RULES and {text[max(0, start - 1) : start], text[end : end + 1]} <= _LINE_ENDS:
        long = LONG_RULE  # a heading's, as wide as a table, or the dots of a test run
    if length < least:
        return 0.0
    return short if length < long else LONG + 0.4 * min(1.0, (length - long) / CERTAIN_RUN)


def _is_data(repeated: str) -> bool:
    return _is_literal(repeated) or _is_row(repeated) or _is_cell(repeated)


def _is_cell(repeated: str) -> bool:
    """An empty element of HTML, from whichever of its characters on."""
    cell = _CELL.search(2 * repeated)
    return cell is not None and len(cell[0]) == len(repeated)


def _is_literal(repeated: str) -> bool:
    """Numbers, `null` and the like, or nothing at all, with separators: an array, a mask, or empty rows."""
    letters = "".join(sorted(filter(str.isalpha, repeated)))
    return letters in _LITERALS and _FIELDS.fullmatch(repeated) is not None


def _is_row(repeated: str) -> bool:
    """A line of a table or of a log, again and again: with a separator or a number, and something between."""
    separated = repeated.count("|") > 1 or any(c in ",;" or c.isdigit() for c in repeated)
    return "\n" in repeated and separated


def _is_encoded(before: str, repeated: str) -> bool:
    """Whether it goes on what looks like base64 or hex: zeros of a file."""
    return len(before) == CONTEXT and _ENCODED.fullmatch(before + repeated) is not None
