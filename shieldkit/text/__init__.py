"""Canonical text: folded so that disguises fall away, with a map back to the original offsets.

Its modules:

    folding.py    one code point to what it stands for (Unicode NFKD, case folding, UTS #39 confusables)
    decoding.py   encodings and spellings, each found in one linear sweep and decoded as a view of its own
    canonical.py  both together, and the map back
    digests.py    what caches know a text by
    signals.py    what a disguise says by itself: invisible text, bidi overrides, hidden payloads
"""

from shieldkit.text.canonical import Canonical, Child, canonicalise
from shieldkit.text.digests import digest
from shieldkit.text.signals import Signal, signals

__all__ = ["Canonical", "Child", "Signal", "canonicalise", "digest", "signals"]
