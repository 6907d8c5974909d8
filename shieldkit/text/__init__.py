"""Canonical text: folded so that disguises fall away, with a map back to the original offsets.

Its modules:

    folding.py    one code point to what it stands for (Unicode NFKD, case folding, UTS #39 confusables)
    sieve.py      where in a long text anything of a set of patterns can be
    encodings.py  escapes, base64, hex, character codes, hidden bytes
    mail.py       UTF-7, and quoted-printable where few signs are escaped
    literals.py   string literals put together
    pieces.py     base64 and hex in pieces, chunks of one width
    unspaced.py   words without blanks
    spellings.py  letters set apart, digits for letters, rot13, backwards, Morse
    joints.py     tags, soft line ends and invisible characters inside words, or in the place of blanks
    words.py      what tells a text that was decoded rightly from noise
    regions.py    places that belong together, and how much around them is read with them
    decoding.py   all decoders, and the sweep that leads to them
    canonical.py  folding and decoding together, and the map back
    pending.py    from where on a text that goes on is not settled
    digests.py    what caches know a text by
    signals.py    what a disguise says by itself: invisible text, bidi overrides, hidden payloads
"""

from shieldkit.text.canonical import Canonical, Child, canonicalise
from shieldkit.text.digests import digest
from shieldkit.text.signals import Signal, signals

__all__ = ["Canonical", "Child", "Signal", "canonicalise", "digest", "signals"]
