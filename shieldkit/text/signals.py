"""What a disguise says by itself, whatever stands behind it.

Ordinary text has joiners in emoji families and in Persian and Indic words, byte order marks, accents and soft hyphens.
It has no zero-width characters inside Latin words, but for hints between whole ones where a long address may be broken; no
text in tag characters or variation selectors, no bidi overrides, and no Cyrillic letters in the middle of an English word:
slang puts endings of another script to a word, in letters that look like none of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any, TypeAlias

import numpy as np
import re2

from shieldkit.text.folding import Characters, characters, encodable, fold
from shieldkit.text.words import VOCABULARY


@dataclass(frozen=True, slots=True)
class Signal:
    """A disguise at `[start, end)` of the original text. `rule` names it; `score` is in 0..1."""

    rule: str
    score: float
    start: int
    end: int


Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges of code points, both ends included."""

_TAG_POINTS: Ranges = ((0xE0020, 0xE007F),)
_SELECTOR_POINTS: Ranges = ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
_OVERRIDE_POINTS: Ranges = ((0x202D, 0x202E),)
_INVISIBLE_POINTS: Ranges = (
    (0x034F, 0x034F), (0x180E, 0x180E), (0x200B, 0x200D), (0x2060, 0x2064), (0x3164, 0x3164), (0xFEFF, 0xFEFF),
)  # fmt: skip
# Cyrillic. Greek letters stand beside Latin ones in formulas: of them only those that look like Latin ones count.
_ALIKE_POINTS: Ranges = ((0x0400, 0x052F), *((ord(c), ord(c)) for c in "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρ"))


def _class(points: Ranges) -> str:
    return "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in points)


_TAGS = re2.compile(r"[\x{e0020}-\x{e007e}]{2,}\x{e007f}?")
_FLAG = re2.compile(r"\x{1f3f4}[\x{e0020}-\x{e007e}]{2,7}\x{e007f}")
_SELECTORS = re2.compile(f"[{_class(_SELECTOR_POINTS)}]{{3,}}")
_INVISIBLE = re2.compile(f"[A-Za-z][{_class(_INVISIBLE_POINTS)}]+[A-Za-z]")
_OVERRIDE = re2.compile(f"[{_class(_OVERRIDE_POINTS)}]")
_MIXED = re2.compile(f"[A-Za-z][{_class(_ALIKE_POINTS)}]|[{_class(_ALIKE_POINTS)}][A-Za-z]")
_OPEN = re2.compile(f"[A-Za-z{_class(_ALIKE_POINTS)}{_class(_INVISIBLE_POINTS)}]+\\z")
_HINT = "\u200b"
_LETTERS = "A-Za-z" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _ALIKE_POINTS)
_WORD_BEFORE, _WORD_AFTER = re.compile(rf"[{_LETTERS}]+\Z"), re.compile(f"[{_LETTERS}]+")

WORD_CHARS = 24
"""How much of a word is looked at on both sides of an odd place."""
LEAST_PIECE = 3
"""Letters between two places where a line may be broken."""
LEAST_INVISIBLE = 2
LEAST_MIXED = 3
MOST_SPANS = 64
"""How many are told of; the score is at its highest long before."""


def signals(text: str) -> Iterator[Signal]:
    """Every disguise in a text. ASCII has none."""
    if text.isascii():
        return
    read, text = characters(text), encodable(text)
    for start, end in _near(read, _TAG_POINTS, 2):
        part = text[start:end]
        # A flag's tags end where the flag ends.
        flags = {match.end() for match in _FLAG.finditer(part)}
        for match in _TAGS.finditer(part):
            if match.end() not in flags:
                yield Signal("hidden_text", 0.95, start + match.start(), start + match.end())
    for place in _places(read, text, _SELECTORS, _SELECTOR_POINTS):
        yield Signal("hidden_text", 0.95, *place)
    for place in _places(read, text, _OVERRIDE, _OVERRIDE_POINTS):
        yield Signal("bidi_override", 0.6, *place)
    invisible = _places(read, text, _INVISIBLE, _INVISIBLE_POINTS, beside=True)
    yield from _several("invisible_text", (p for p in invisible if _is_split(text, *p)), LEAST_INVISIBLE)
    mixed = _places(read, text, _MIXED, _ALIKE_POINTS, beside=True)
    yield from _several("mixed_script", (p for p in mixed if _is_mixed("".join(_around(text, *p)))), LEAST_MIXED)


def pending(text: str) -> int:
    """For a text that goes on: where its last word begins, if what follows may tell whether that is a disguise."""
    word = None if text.isascii() else _OPEN.search(encodable(text))
    return len(text) if word is None or word[0].isascii() else word.start()


def _around(text: str, start: int, end: int) -> tuple[str, str]:
    """What of a word stands before an odd place, up to its first letter, and after it, from its last letter on."""
    before = _WORD_BEFORE.search(text[max(0, start + 1 - WORD_CHARS) : start + 1])
    after = _WORD_AFTER.match(text[end - 1 : end - 1 + WORD_CHARS])
    return before[0] if before else "", after[0] if after else ""


def _is_split(text: str, start: int, end: int) -> bool:
    """Hints for line breaks stand between whole words that make no other one."""
    before, after = _around(text, start, end)
    is_hint = text[start + 1 : end - 1].strip(_HINT) == "" and min(len(before), len(after)) >= LEAST_PIECE
    return not is_hint or (before + after).lower() in VOCABULARY


def _is_mixed(word: str) -> bool:
    """Scripts that change back and forth, or once, to letters that look like those of the other."""
    changes = sum(a.isascii() != b.isascii() for a, b in pairwise(word))
    return changes > 1 or all(map(_alike().__contains__, filter(_is_foreign, word)))


def _is_foreign(character: str) -> bool:
    return not character.isascii()


@lru_cache(maxsize=1)
def _alike() -> frozenset[str]:
    """The letters that folding takes for Latin ones."""
    letters = [chr(point) for first, last in _ALIKE_POINTS for point in range(first, last + 1)]
    return frozenset(letter for letter in letters if fold(letter).text.isascii())


def _places(
    read: Characters, text: str, pattern: Any, points: Ranges, beside: bool = False
) -> Iterator[tuple[int, int]]:
    """Where a pattern matches whose matches all hold a character of `points`."""
    for start, end in _near(read, points, 1, beside):
        for match in pattern.finditer(text[start:end]):
            yield start + match.start(), start + match.end()


def _near(read: Characters, points: Ranges, margin: int, beside: bool = False) -> Iterator[tuple[int, int]]:
    """The surroundings of the characters in some ranges of code points, in order; what touches is one.

    With `beside` only those that have an ASCII letter beside them.
    """
    inside = np.zeros(len(read.points), np.bool_)
    for first, last in points:
        inside |= read.points - np.uint32(first) <= last - first
    places = read.odd[inside]
    if beside and len(places):
        letters = np.frombuffer(read.data, np.uint8) | np.uint8(32)
        left, right = letters[np.maximum(places - 1, 0)], letters[np.minimum(places + 1, len(letters) - 1)]
        # Inside a run of such characters there is none; a run is kept from end to end.
        kept = (left - np.uint8(97) < 26) | (right - np.uint8(97) < 26)
        kept[1:] |= np.diff(places) == 1
        kept[:-1] |= np.diff(places) == 1
        places = places[kept]
    if not len(places):
        return
    cuts = np.flatnonzero(np.diff(places) > 2 * margin) + 1
    for a, b in pairwise([0, *cuts.tolist(), len(places)]):
        yield max(0, int(places[a]) - margin), int(places[b - 1]) + 1 + margin


def _several(rule: str, places: Iterator[tuple[int, int]], least: int) -> Iterator[Signal]:
    """One odd word is a slip; several are a disguise. The score grows with their number."""
    spans = list(islice(places, MOST_SPANS))
    score = 0.3 if len(spans) < least else min(0.9, 0.6 + 0.05 * (len(spans) - least))
    for span in spans:
        yield Signal(rule, score, *span)
