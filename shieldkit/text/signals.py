"""What a disguise says by itself, whatever stands behind it.

Ordinary text has joiners in emoji families and in Persian and Indic words, byte order marks, accents and soft hyphens.
It has no zero-width characters inside Latin words, no text in tag characters or variation selectors, no bidi overrides,
and no Cyrillic letters in the middle of an English word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import re2

from shieldkit.text.folding import encodable


@dataclass(frozen=True, slots=True)
class Signal:
    """A disguise at `[start, end)` of the original text. `rule` names it; `score` is in 0..1."""

    rule: str
    score: float
    start: int
    end: int


_TAGS = re2.compile("[\U000e0020-\U000e007e]{2,}\U000e007f?")
_FLAG = re2.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,7}\U000e007f")
_SELECTORS = re2.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{3,}")
_INVISIBLE = re2.compile("[A-Za-z][\u200b-\u200d\u2060-\u2064\ufeff\u180e\u034f\u3164]+[A-Za-z]")
_OVERRIDE = re2.compile("[\u202d\u202e]")
# Greek letters stand beside Latin ones in formulas: of them only those that look like Latin ones count.
_ALIKE = (
    "\u0400-\u052f\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf\u03bd\u03c1"
)
_MIXED = re2.compile(f"[A-Za-z][{_ALIKE}]|[{_ALIKE}][A-Za-z]")

LEAST_INVISIBLE = 2
LEAST_MIXED = 3


def signals(text: str) -> Iterator[Signal]:
    """Every disguise in a text. ASCII has none."""
    if text.isascii():
        return
    text = encodable(text)
    # A flag's tags end where the flag ends.
    flags = {match.end() for match in _FLAG.finditer(text)}
    for match in _TAGS.finditer(text):
        if match.end() not in flags:
            yield Signal("hidden_text", 0.95, *match.span())
    for match in _SELECTORS.finditer(text):
        yield Signal("hidden_text", 0.95, *match.span())
    for match in _OVERRIDE.finditer(text):
        yield Signal("bidi_override", 0.6, *match.span())
    yield from _several("invisible_text", _INVISIBLE, text, LEAST_INVISIBLE)
    yield from _several("mixed_script", _MIXED, text, LEAST_MIXED)


def _several(rule: str, pattern: object, text: str, least: int) -> Iterator[Signal]:
    """One odd word is a slip; several are a disguise. The score grows with their number."""
    spans = [match.span() for match in pattern.finditer(text)]  # type: ignore[attr-defined]
    if spans:
        score = 0.3 if len(spans) < least else min(0.9, 0.6 + 0.05 * (len(spans) - least))
        for span in spans[:64]:
            yield Signal(rule, score, *span)
