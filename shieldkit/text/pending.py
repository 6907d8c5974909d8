"""From where on a text is not settled: what comes after it could still change how its last part is folded and decoded.

For text that comes bit by bit. All before `pending` reads the same whatever follows. Each decoder has its entry here: what it
has begun to see and not seen the end of. Linear in the length of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import re2

from shieldkit.text import decoding
from shieldkit.text.canonical import Canonical
from shieldkit.text.decoding import MARGIN, Decoded

Decoder: TypeAlias = Callable[[str], Iterator[Decoded]]

SPOT_CHARS = 16
"""The longest beginning of a spot that is not one yet."""

CONTEXT_CHARS = MARGIN + SPOT_CHARS
"""A decoded region takes so many characters with it that stand before its first spot."""


def pending(canonical: Canonical) -> int:
    """The index, in the original, of the first character that is not settled yet. len(original) when all of it is."""
    text = canonical.text
    folded = min(max(0, len(text) - CONTEXT_CHARS), *(PENDING[decode](text) for decode in decoding.ON_FOLDED))
    return min(
        canonical.span(folded, folded)[0], *(PENDING[decode](canonical.original) for decode in decoding.ON_ORIGINAL)
    )


def _tail(pattern: str) -> Callable[[str], int]:
    """Where the stretch begins that fits `pattern` and reaches the end of the text."""
    compiled = re2.compile(rf"(?:{pattern})\z")

    def start(text: str) -> int:
        found = compiled.search(text)
        return found.start() if found is not None else len(text)

    return start


def _chain(*kinds: tuple[Any, int]) -> Callable[[str], int]:
    """Where a region begins that spots (of a pattern, with gaps of at most so many characters) may still be added to."""

    def start(text: str) -> int:
        return min(_open_region(pattern, gap, text) for pattern, gap in kinds)

    return start


def _open_region(pattern: Any, gap: int, text: str) -> int:
    first = last = -1
    for match in pattern.finditer(text):
        if first < 0 or match.start() - last > gap:
            first = match.start()
        last = match.end()
    is_open = first >= 0 and len(text) - last <= max(gap, MARGIN) + SPOT_CHARS
    return max(0, first - MARGIN) if is_open else len(text)


def _earliest(*starts: Callable[[str], int]) -> Callable[[str], int]:
    return lambda text: min(start(text) for start in starts)


_run = _tail(r"[A-Za-z0-9+/_\-]+")
_hex_groups = _tail(r"(?i)\b(?:(?:0x)?[0-9a-f]{2}[ ,:]{1,2})+(?:0x?)?[0-9a-f]{0,2}")
_digits_for_letters = _tail(r"[a-z@$][0134578@$!]+")

PENDING: Mapping[Decoder, Callable[[str], int]] = {
    decoding.blobs: _earliest(_run, _hex_groups),
    decoding.selectors: _tail("[\ufe00-\ufe0f\U000e0100-\U000e01ef]+"),
    decoding.escapes: _chain((decoding._ESCAPE, MARGIN)),
    decoding.spaced: _tail(r"(?:[^\s.,_*\-][ .,_*\-\n]{1,3})*[^\s.,_*\-][ .,_*\-\n]{0,3}"),
    decoding.leet: _earliest(_chain((decoding._LEET_SPOT, 40)), _digits_for_letters),
    decoding.rot13: _chain((decoding._ROT13_LONG, 120), (decoding._ROT13_SHORT, 60)),
    decoding.backwards: _chain((decoding._REVERSED_LONG, 120), (decoding._REVERSED_SHORT, 60)),
}
