"""Canonical text: what a reader, or a model, would make of it, and where in the original each part stands.

`text` is folded in one pass. What is encoded or spelled out is decoded into `children`, each folded in turn, down to a
bounded depth and size: three decodings deep, and no more decoded text in all than twice the original and 4096 characters.
What lies deeper is not read, and `complete` says so.
Everything is linear in the length of the text, and nothing in it raises, whatever the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, takewhile

from shieldkit.text import decoding
from shieldkit.text.folding import Offsets, characters, fold, folded
from shieldkit.text.regions import Decoded

MAX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Child:
    """Decoded text, folded, and the span of the original in which it stood. `disguise` names how, outermost first."""

    disguise: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Canonical:
    """A text, folded, with its decoded parts. `complete` is False when decoding was cut short by a bound."""

    original: str
    text: str
    _narrowed: bytes | None = field(repr=False)  # None for ASCII, which is narrowed when asked for, and not kept
    offsets: Offsets | None = field(default=None, repr=False)
    children: tuple[Child, ...] = ()
    complete: bool = True

    @property
    def data(self) -> bytes:
        """The folded text as bytes, one for each character (`folding.Characters`)."""
        return self.text.encode("ascii") if self._narrowed is None else self._narrowed

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original span of the folded span `[start, end)`, 0 ≤ start ≤ end ≤ len(text).

        Invisible characters inside the span belong to it.
        """
        if self.offsets is None:
            return start, end
        if start >= end:
            at = self.offsets.original(start) if start < len(self.text) else len(self.original)
            return at, at
        return self.offsets.original(start), self.offsets.original(end - 1) + 1

    @property
    def disguised(self) -> bool:
        """Whether much of it is in letters that nobody writes a text in: fullwidth, mathematical, circled, tags."""
        if self.original.isascii():
            return False
        styled = len(_STYLED.findall(_FLAG.sub("", self.original)))
        return styled >= LEAST_STYLED and styled > MUCH * sum(map(len, self.text.split()))

    def in_place(self) -> str | None:
        """Folded text with what was encoded in it decoded where it stood: an order to decode something, and what that says.

        None where nothing was, or where nothing stands beside it.
        """
        found = {(c.start, c.end): c.text for c in self.children if _OPAQUE.issuperset(c.disguise.split())}
        parts: list[str] = []
        at, beside = 0, ""
        for (start, end), text in sorted(found.items()):
            if start >= at:
                beside += self.original[at:start]
                parts += self.original[at:start], text
                at = end
        beside += self.original[at:]
        return fold("".join(parts) + self.original[at:]).text if at and _WORD.search(beside) else None

    def native(self, start: int, end: int) -> str:
        """Folded text `[start, end)` with its Cyrillic, Greek and Vietnamese words as they were written, in lower case.

        Folding takes Cyrillic and Greek letters for Latin ones that look alike, and marks off Latin letters. In a word that is
        wholly of one such script, or where several words have letters that only Vietnamese has, that is not what is meant.
        """
        text = self.text[start:end]
        if self.original.isascii():
            return text
        low, high = self.span(start, end)
        marked = len(_VIETNAMESE.findall(self.original, low, high)) >= LEAST_VIETNAMESE
        if text.isascii() and not marked:
            return text
        return _WORD.sub(lambda word: self._as_written(word, start, marked), text)

    def _as_written(self, word: re.Match[str], at: int, marked: bool) -> str:
        foreign = any(map(_is_native, word.group()))
        written = self._letters(at + word.start(), at + word.end()) if foreign or marked else ""
        return written.lower() if written and all(map(_is_native if foreign else _is_latin, written)) else word.group()

    def _letters(self, start: int, end: int) -> str:
        """The letters that folded text `[start, end)` was folded from, composed with up to `MOST_MARKS` marks each.

        What stands between them and folds to nothing is left out, however much it is.
        """
        found: list[str] = []
        last = -1
        for at in range(start, end):
            place = at if self.offsets is None else self.offsets.original(at)
            if place == last:
                continue
            last = place
            letter = self.original[place]
            for mark in self.original[place + 1 : place + 1 + MOST_MARKS]:
                if not _is_mark(mark):
                    break
                letter += mark
            found.append(unicodedata.normalize("NFC", letter))
        return "".join(found)


_OPAQUE = frozenset({"base64", "hex", "codes", "morse", "variation_selectors"})
"""What is decoded without anything around it."""
# Not their digits and signs, with which people write telephone numbers.
_STYLED = re.compile(
    "[\u2100-\u214f\u249c-\u24e9\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7cb\U0001f110-\U0001f189\U000e0041-\U000e007a]"
)
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007e]{2,7}\U000e007f")
MUCH, LEAST_STYLED = 0.3, 16
"""The share of styled letters in what is visible, and how many there have to be: a word or two are decoration."""
_WORD = re.compile(r"[^\W\d_]+")
_VIETNAMESE = re.compile("[\u1ea0-\u1ef9\u01a0\u01a1\u01af\u01b0\u0309\u031b\u0323]")
LEAST_VIETNAMESE = 4
"""Letters, or marks, that few other languages have; Vietnamese text has one in every four or five."""
MOST_MARKS = 2


def _is_mark(character: str) -> bool:
    return "\u0300" <= character <= "\u036f"


def _is_native(character: str) -> bool:
    return "\u0370" <= character <= "\u052f" and character.isalpha()


def _is_latin(character: str) -> bool:
    return character.isalpha() and (character < "\u0250" or "\u1e00" <= character <= "\u1eff")


def canonicalise(text: str) -> Canonical:
    """Fold and decode a text. Never raises; time and memory are linear in its length."""
    read = characters(text)
    own = folded(read)
    plain = Canonical(text, own.text, None if own.text.isascii() else own.data, own.offsets)
    budget = _Budget(2 * len(text) + 4096)
    on_original, on_folded = decoding.decoded(text, read, own)
    children = (
        *_children(on_original, lambda start, end: (start, end), budget),
        *_children(on_folded, plain.span, budget),
    )
    return replace(plain, children=children, complete=budget.left >= 0)


@dataclass(slots=True)
class _Budget:
    """How many more characters may be decoded."""

    left: int


def _children(
    found: Iterable[Decoded], place: Callable[[int, int], tuple[int, int]], budget: _Budget
) -> Iterator[Child]:
    for decoded in filter(_is_telling, found):
        yield from _grown(decoded.disguise, decoded.text, *place(decoded.start, decoded.end), 1, budget)


def _is_telling(decoded: Decoded) -> bool:
    """Whether it is more than one character again and again: a number such as 0.333… is hex of threes, which are hex again."""
    return decoded.text.strip(f"{decoded.text[:1]} \n") != ""


def _grown(disguise: str, text: str, start: int, end: int, depth: int, budget: _Budget) -> Iterator[Child]:
    """The child, and what is decoded out of it again."""
    budget.left -= len(text)
    if budget.left < 0:
        return
    read = characters(text)
    own = folded(read)
    yield Child(disguise, own.text, start, end)
    inner = filter(_is_telling, chain(*decoding.decoded(text, read, own)))
    if depth == MAX_DEPTH:
        # What is still encoded at the bottom is not read.
        if any(decoded.disguise in decoding.STACKED for decoded in inner):
            budget.left = -1
        return
    for decoded in inner:
        if not _is_undone(decoded.disguise, disguise):
            yield from _grown(f"{disguise} {decoded.disguise}", decoded.text, start, end, depth + 1, budget)


def _is_undone(spelling: str, disguise: str) -> bool:
    """Whether a spelling was undone before, and nothing opaque has been decoded since.

    Rot13 and the like undo themselves: read again, they give back what there was. Encodings may be stacked.
    """
    since = takewhile(lambda name: name not in _OPAQUE, reversed(disguise.split()))
    return spelling not in decoding.STACKED and spelling in since
