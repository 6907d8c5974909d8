"""Canonical text: folded so that disguises fall away, with a map back to the original offsets."""

from shieldkit.text.canonical import Canonical, canonicalise

__all__ = ["Canonical", "canonicalise"]
