"""Canonical text: what a reader, or a model, would make of it, and where in the original each part stands.

`text` is folded in one pass. What is encoded or spelled out is decoded into `children`, each folded in turn, down to a
bounded depth and size: three decodings deep, and no more decoded text in all than twice the original and 4096 characters.
What lies deeper is not read, and `complete` says so.
Everything is linear in the length of the text, and nothing in it raises, whatever the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shieldkit.text import decoding
from shieldkit.text.folding import Offsets, encodable, fold

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
    offsets: Offsets | None = None
    children: tuple[Child, ...] = ()
    complete: bool = True

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


def canonicalise(text: str) -> Canonical:
    """Fold and decode a text. Never raises; time and memory are linear in its length."""
    folded, offsets = fold(text)
    budget = _Budget(2 * len(text) + 4096)
    own = Canonical(text, folded, offsets)
    children = tuple(
        child
        for decoded, (start, end) in _decoded(own)
        for child in _grown(decoded.disguise, decoded.text, start, end, 1, budget)
    )
    return Canonical(text, folded, offsets, children, complete=budget.left >= 0)


@dataclass(slots=True)
class _Budget:
    """How many more characters may be decoded."""

    left: int


def _decoded(canonical: Canonical) -> Iterator[tuple[decoding.Decoded, tuple[int, int]]]:
    original = encodable(canonical.original)
    for decode in decoding.ON_ORIGINAL:
        for found in decode(original):
            yield found, (found.start, found.end)
    for decode in decoding.ON_FOLDED:
        for found in decode(canonical.text):
            yield found, canonical.span(found.start, found.end)


def _grown(disguise: str, text: str, start: int, end: int, depth: int, budget: _Budget) -> Iterator[Child]:
    """The child, and what is decoded out of it again."""
    budget.left -= len(text)
    if budget.left < 0:
        return
    folded, offsets = fold(text)
    yield Child(disguise, folded, start, end)
    if depth == MAX_DEPTH:
        # What is still encoded at the bottom is not read.
        if any(inner.disguise in decoding.STACKED for inner in decoding.blobs(folded if folded == text else text)):
            budget.left = -1
    else:
        for inner, _ in _decoded(Canonical(text, folded, offsets)):
            # Rot13 and the like undo themselves; encodings may be stacked.
            if inner.disguise != disguise or disguise in decoding.STACKED:
                yield from _grown(f"{disguise} {inner.disguise}", inner.text, start, end, depth + 1, budget)
