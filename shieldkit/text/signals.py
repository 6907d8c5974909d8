"""What a disguise says by itself, whatever stands behind it.

Ordinary text has joiners in emoji families and in Persian and Indic words, byte order marks, accents and soft hyphens.
It has no zero-width characters inside Latin words, but for hints between whole ones where a long address may be broken; no
text in tag characters or variation selectors, no text that bidi overrides turn around, and no Cyrillic letters in the middle of
an English word: slang puts endings of another script to a word, and a hand slips on a keyboard with two scripts, within words
of the other script.
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
_LEFT_TO_RIGHT = "\u202d"
_RIGHT_TO_LEFT_LETTER = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u202e\U00010800-\U00010fff\U0001e800-\U0001efff]"
)
_OVERRIDE = re2.compile(f"[{_class(_OVERRIDE_POINTS)}]")
_MIXED = re2.compile(f"[A-Za-z][{_class(_ALIKE_POINTS)}]|[{_class(_ALIKE_POINTS)}][A-Za-z]")
_OPEN = re2.compile(f"[A-Za-z{_class(_ALIKE_POINTS)}{_class(_INVISIBLE_POINTS)}]+\\z")
_HINT = "\u200b\u200c"  # where a line, or a ligature, may be broken
_LETTERS = "A-Za-z" + "".join(f"{chr(first)}-{chr(last)}" for first, last in _ALIKE_POINTS)
# Greek letters are names of quantities: `h\u03bd`, `\u03c1gh`.
_AMONG_LATIN = re.compile("[A-Za-z]{2}[^A-Za-z]+[A-Za-z]{2}")
_ACRONYM, _ENDING = re.compile("[A-Z]{2,}[\u0430-\u044f]{1,3}"), re.compile("[A-Za-z]{3,}[\u0430-\u044f]{1,3}")
# A word with a letter that no Latin one looks like.
_NATIVE = re.compile(
    "(?:\\A|[^\\w])[\u0400-\u052f]*[\u0431\u0433\u0434\u0436\u0437\u0438\u0439\u043b\u043f\u0444\u0446-\u044f][\u0400-\u052f]+(?=[^\\w])"
)
_WORD_BEFORE, _WORD_AFTER = re.compile(rf"[{_LETTERS}]+\Z"), re.compile(f"[{_LETTERS}]+")

WORD_CHARS = 24
"""How much of a word is looked at on both sides of an odd place."""
LEAST_PIECE = 3
"""Letters between two places where a line may be broken."""
LEAST_CAPITALISED = 2
"""The same where the second begins with a capital, as the parts of a name in code do."""
LEAST_INVISIBLE = 2
LEAST_MIXED = 3
NEAR_CHARS = 64
"""How much before a word tells whether the text is one in Cyrillic letters."""
OVERRIDE_CHARS = 64
"""How much after an override is looked at for letters that it turns round."""
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
    for start, end in _places(read, text, _SELECTORS, _SELECTOR_POINTS):
        if len(set(text[start:end])) > 1:  # one of them again and again says nothing
            yield Signal("hidden_text", 0.95, start, end)
    for start, end in _places(read, text, _OVERRIDE, _OVERRIDE_POINTS):
        yield Signal("bidi_override", 0.6 if _turns(text, start, end) else 0.3, start, end)
    invisible = _places(read, text, _INVISIBLE, _INVISIBLE_POINTS, beside=True)
    yield from _several("invisible_text", (p for p in invisible if _is_split(text, *p)), LEAST_INVISIBLE)
    mixed = _places(read, text, _MIXED, _ALIKE_POINTS, beside=True)
    yield from _several("mixed_script", (p for p in mixed if _is_disguised(text, *p)), LEAST_MIXED)


def pending(text: str) -> int:
    """For a text that goes on: where its last word begins, if what follows may tell whether that is a disguise."""
    if text.isascii():
        return len(text)
    word, override = _OPEN.search(encodable(text)), text.rfind(_LEFT_TO_RIGHT, max(0, len(text) - OVERRIDE_CHARS))
    begun = len(text) if word is None or word[0].isascii() else word.start()
    return begun if override < 0 else min(begun, override)


def _around(text: str, start: int, end: int) -> tuple[str, str]:
    """What of a word stands before an odd place, up to its first letter, and after it, from its last letter on."""
    before = _WORD_BEFORE.search(text[max(0, start + 1 - WORD_CHARS) : start + 1])
    after = _WORD_AFTER.match(text[end - 1 : end - 1 + WORD_CHARS])
    return before[0] if before else "", after[0] if after else ""


def _is_split(text: str, start: int, end: int) -> bool:
    """Hints for line breaks stand between whole words that make no other one."""
    before, after = _around(text, start, end)
    least = LEAST_CAPITALISED if after[:1].isupper() else LEAST_PIECE
    is_hint = text[start + 1 : end - 1].strip(_HINT) == "" and min(len(before), len(after)) >= least
    return not is_hint or (before + after).lower() in VOCABULARY


def _turns(text: str, start: int, end: int) -> bool:
    """Whether an override turns anything round: one from left to right does so with letters of the other direction alone."""
    return text[start] != _LEFT_TO_RIGHT or _RIGHT_TO_LEFT_LETTER.search(text, end, end + OVERRIDE_CHARS) is not None


def _is_disguised(text: str, start: int, end: int) -> bool:
    before, after = _around(text, start, end)
    word = before + after
    if not _is_mixed(word):
        return False
    folded = fold(word).text
    if not any(map(_is_cyrillic, word)):
        return folded in VOCABULARY or _AMONG_LATIN.search(word) is not None
    if not folded.isascii() and 2 * sum(map(_is_cyrillic, word)) > len(word):
        return False
    if _ACRONYM.fullmatch(word):
        return False
    said = text[max(0, start + 1 - len(before) - NEAR_CHARS) : start + 1 - len(before)]
    return _ENDING.fullmatch(word) is None or not _NATIVE.search(said)


def _is_mixed(word: str) -> bool:
    """Scripts that change back and forth, or once, to letters that look like those of the other."""
    changes = sum(a.isascii() != b.isascii() for a, b in pairwise(word))
    return changes > 1 or all(map(_alike().__contains__, filter(_is_foreign, word)))


def _is_cyrillic(character: str) -> bool:
    return "\u0400" <= character <= "\u052f"


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
