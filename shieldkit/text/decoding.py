"""Encodings and spellings, each found in one linear sweep, and decoded as a view of its own.

A decoder looks at folded text (`escapes`, `spaced`, `leet`, `rot13`, `reversed`) or at the original (`base64`, `hex`,
`variation_selectors`, where case or format characters matter) and yields `Decoded`: the text, and the span that it stood
in. Which one is meant cannot be known; what comes out is screened beside the text, not in its place.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import re2
from numpy.typing import NDArray

MARGIN = 64
"""Characters around a decoded spot that are kept with it, so that what it completes can be seen."""

_LEET = str.maketrans(
    {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "@": "a", "$": "s", "!": "i"}
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder read out of `[start, end)` of the text it was given."""

    disguise: str
    text: str
    start: int
    end: int


def _regions(text: str, spots: Iterator[tuple[int, int]], *, least: int, gap: int) -> Iterator[tuple[int, int]]:
    """Spots that stand near each other as one region with a margin, where there are at least `least` of them."""
    first = last = count = 0
    for start, end in spots:
        if count and start - last > gap:
            if count >= least:
                yield max(0, first - MARGIN), min(len(text), last + MARGIN)
            count = 0
        if not count:
            first = start
        last, count = end, count + 1
    if count >= least:
        yield max(0, first - MARGIN), min(len(text), last + MARGIN)


def _spots(pattern: Any, text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in pattern.finditer(text))


# -- escapes: HTML entities, URL escapes, backslash escapes ------------------------------------------------------------

_ESCAPE = re2.compile(
    r"(&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,9});?)|((?:%[0-9a-f]{2})+)"
    r"|\\u\{?([0-9a-f]{4,6})\}?|\\x([0-9a-f]{2})|\\([0-3][0-7]{2})"
)


def escapes(text: str) -> Iterator[Decoded]:
    """HTML entities, URL escapes and backslash escapes."""
    if "&" in text or "%" in text or "\\" in text:
        for start, end in _regions(text, _spots(_ESCAPE, text), least=1, gap=MARGIN):
            decoded = _ESCAPE.sub(_unescaped, text[start:end])
            if decoded != text[start:end]:
                yield Decoded("escapes", decoded, start, end)


def _unescaped(match: Any) -> str:
    entity, percent, *digits = match.groups()
    if entity:
        return html.unescape(entity)
    if percent:
        return bytes.fromhex(percent.replace("%", "")).decode("utf-8", "replace")
    code = int(digits[2], 8) if digits[2] else int(digits[0] or digits[1], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


# -- runs of an alphabet: base64, hex ----------------------------------------------------------------------------------

LEAST_BASE64, LEAST_HEX = 12, 10


def _alphabet(chars: str) -> NDArray[np.bool_]:
    table = np.zeros(256, np.bool_)
    table[[ord(c) for c in chars]] = True
    return table


_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BASE64 = _alphabet(_DIGITS + _LETTERS + _LETTERS.upper() + "+/-_")
SHORT = 8192
# A run of one class: linear also in the standard engine, which is quicker to call.
_SHORT_RUN = re.compile(rf"[A-Za-z0-9+/_\-]{{{LEAST_HEX},}}")


def _runs(inside: NDArray[np.bool_], least: int) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    for k in np.flatnonzero(ends - starts >= least).tolist():
        yield int(starts[k]), int(ends[k])


def _long_runs(text: str) -> Iterator[tuple[int, int]]:
    """As `_SHORT_RUN`, an order of magnitude faster where numpy's fixed costs do not matter."""
    # One byte a character: what is not ASCII is in no alphabet.
    return _runs(_BASE64[np.frombuffer(text.encode("ascii", "replace"), np.uint8)], LEAST_HEX)


def blobs(text: str) -> Iterator[Decoded]:
    """Runs of base64 and hex in the original text that decode to something readable."""
    if len(text) < LEAST_HEX:
        return
    for start, end in _spots(_SHORT_RUN, text) if len(text) < SHORT else _long_runs(text):
        run = text[start:end]
        for disguise, decoded in (("hex", _unhex(run)), ("base64", _unbase64(run))):
            if decoded is not None:
                yield Decoded(disguise, decoded, start, end)
                break
    if " " in text:
        yield from _spaced_hex(text)


_SPACED_HEX = re2.compile(r"(?i)\b(?:(?:0x)?[0-9a-f]{2}[ ,:]{1,2}){11,}(?:0x)?[0-9a-f]{2}\b")


def _spaced_hex(text: str) -> Iterator[Decoded]:
    for match in _SPACED_HEX.finditer(text):
        digits = "".join(c for c in match.group().lower().replace("0x", "") if c in "0123456789abcdef")
        decoded = _unhex(digits)
        if decoded is not None:
            yield Decoded("hex", decoded, *match.span())


def _unhex(run: str) -> str | None:
    if len(run) < LEAST_HEX:
        return None
    try:
        return _readable(bytes.fromhex(run[: len(run) // 2 * 2]))
    except ValueError:
        return None


def _unbase64(run: str) -> str | None:
    if len(run) < LEAST_BASE64:
        return None
    plain = run.replace("-", "+").replace("_", "/")
    plain = plain[: len(plain) - (len(plain) % 4 == 1)]
    try:
        return _readable(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _readable(data: bytes) -> str | None:
    """Text, if the bytes are printable UTF-8; identifiers and digests decode to noise."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    readable = all(c.isprintable() or c in "\t\n\r" or unicodedata.category(c) in ("Cf", "Mn") for c in text)
    return text if text and readable else None


# -- spellings ---------------------------------------------------------------------------------------------------------

_SPACED = re2.compile(r"(?:[^\s.,_*\-][ .,_*\-\n]{1,3}){4,}[^\s.,_*\-]")
_GAP = re2.compile(r"[ .,_*\-\n]+")
_LEET_SPOT = re2.compile(r"[a-z@$][0134578@$!]+[a-z]|[a-z][0134578@$]{2,}|\b[013457@$][a-z]{2,}")
_COMMON = (
    "the and you that was for are with his they this have from one had not but what all were when your can said there "
    "use each which she how their will other about out many then them these some her would make like him into time has "
    "look two more write see number way could people than first water been call who its now find long down did get come "
    "made may part ignore system prompt instruction instructions previous prior rules reveal bypass override pretend "
    "forget disregard restrictions unrestricted safety guidelines guideline assistant developer secret password hidden "
    "output print respond repeat answer follow following above before after without never always must should please "
    "help tell show give explain write act mode user message task context policy filter filters admin access enable "
    "disable execute code command guidelines training data confidential everything anything nothing because again "
    "really continue purpose information request question response"
).split()
_STRONG_LETTERS = 6
# What the other spelling of a common word makes an ordinary word of its own.
_ORDINARY = frozenset({"was", "saw", "now", "won", "not", "ton", "who", "part", "trap", "may", "yam", "see", "data", "atad",
                       "are", "era", "her", "all", "lla", "mode", "edom", "there", "than", "user", "resu", "code", "edoc",
                       "use", "way", "yaw", "time", "emit", "did", "ner", "him", "you", "she"})  # fmt: skip


def _other(spell: Callable[[str], str]) -> tuple[Any, Any]:
    """Patterns for common words in another spelling: long ones, one of which is enough, and short ones."""
    words = {spell(w) for w in _COMMON if len(w) >= 3} - set(_COMMON) - _ORDINARY
    long = sorted(w for w in words if len(w) >= _STRONG_LETTERS)
    short = sorted(w for w in words if len(w) < _STRONG_LETTERS)
    return re2.compile(rf"\b(?:{'|'.join(long)})\b"), re2.compile(rf"\b(?:{'|'.join(short)})\b")


_ROT13_LONG, _ROT13_SHORT = _other(lambda w: codecs.encode(w, "rot13"))
_REVERSED_LONG, _REVERSED_SHORT = _other(lambda w: w[::-1])


def spaced(text: str) -> Iterator[Decoded]:
    """Letters set apart: `i g n o r e   a l l`. One gap is between letters, a wider one between words.

    A sign in the middle of a gap (`e _ t`) is one of the letters.
    """
    for match in _SPACED.finditer(text):
        words = _GAP.sub(lambda m: "" if len(m.group()) == 1 else m.group().strip() or " ", match.group())
        yield Decoded("spaced", words, *match.span())


def leet(text: str) -> Iterator[Decoded]:
    """Digits and signs for letters, where several words near each other are written so."""
    for start, end in _regions(text, _spots(_LEET_SPOT, text), least=3, gap=40):
        yield Decoded("leet", text[start:end].translate(_LEET), start, end)


def rot13(text: str) -> Iterator[Decoded]:
    """Where one long common English word, or two short ones near each other, stand in rot13."""
    for start, end in _spelt_otherwise(text, _ROT13_LONG, _ROT13_SHORT):
        yield Decoded("rot13", codecs.encode(text[start:end], "rot13"), start, end)


def backwards(text: str) -> Iterator[Decoded]:
    """Where one long common English word, or two short ones near each other, stand backwards."""
    for start, end in _spelt_otherwise(text, _REVERSED_LONG, _REVERSED_SHORT):
        yield Decoded("reversed", text[start:end][::-1], start, end)


def _spelt_otherwise(text: str, long: Any, short: Any) -> Iterator[tuple[int, int]]:
    yield from _regions(text, _spots(long, text), least=1, gap=120)
    yield from _regions(text, _spots(short, text), least=2, gap=60)


# -- hidden bytes ------------------------------------------------------------------------------------------------------

_SELECTORS = re2.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{3,}")


def selectors(text: str) -> Iterator[Decoded]:
    """Bytes in runs of variation selectors: selector *n* is byte *n* - 1."""
    if text.isascii():
        return
    for match in _SELECTORS.finditer(text):
        points = (ord(c) for c in match.group())
        data = bytes(p - 0xFE00 if p < 0xE0100 else p - 0xE0100 + 16 for p in points)
        yield Decoded("variation_selectors", data.decode("utf-8", "replace"), *match.span())


STACKED = frozenset({"base64", "hex", "escapes"})
ON_ORIGINAL: tuple[Callable[[str], Iterator[Decoded]], ...] = (blobs, selectors)
ON_FOLDED: tuple[Callable[[str], Iterator[Decoded]], ...] = (escapes, spaced, leet, rot13, backwards)
