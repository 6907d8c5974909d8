"""Canonical text (being built)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Canonical:
    """Folded text with a map back to the original."""

    original: str
    text: str

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Original offsets of a span of folded text."""
        return start, end


def canonicalise(text: str) -> Canonical:
    """Fold."""
    return Canonical(text, text)
