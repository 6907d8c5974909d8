"""Encodings: escapes, runs of base64 and hex, lists of character codes, bytes in variation selectors.

What comes out is screened beside the text, not in its place: which one is meant cannot be known.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import re2

from shieldkit.text.folding import Characters
from shieldkit.text.regions import MARGIN, Decoded, regions, with_margin
from shieldkit.text.words import speaks

# -- escapes: HTML entities, URL escapes, quoted-printable, backslash escapes ------------------------------------------

ESCAPES = (
    r"&(?:#x?[0-9a-f]|[a-z][a-z])",
    r"%[0-9a-f][0-9a-f]",
    r"=[0-9a-f][0-9a-f]=[0-9a-f][0-9a-f]=",
    r"\\(?:u\{?[0-9a-f]{2}|x[0-9a-f]{2}|[0-3][0-7]{2})",
)
# Alternatives that begin with signs of their own, and no repeat of what follows it: linear also in the standard engine, which is
# several times as fast for many short matches, as long as the signs stand outside of the groups.
_ESCAPE = re.compile(
    r"&((?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z][a-z0-9]{0,8});?)"
    r"|%([0-9a-f]{2}(?:%[0-9a-f]{2})*)|=([0-9a-f]{2}(?:=[0-9a-f]{2}){2,})"
    r"|\\u\{?([0-9a-f]{4,6})\}?|\\x([0-9a-f]{2})|\\([0-3][0-7]{2})"
)
# Escaped control characters alone say nothing.
_TELLING = re.compile(r"[^\W_]|[ -~]")


def escapes(text: str) -> Iterator[Decoded]:
    """HTML entities, URL escapes, quoted-printable and backslash escapes."""
    telling = (match.span() for match in _ESCAPE.finditer(text) if _TELLING.search(_unescaped(match)))
    for start, end in with_margin(text, regions(telling, least=1, gap=2 * MARGIN)):
        decoded = _ESCAPE.sub(_unescaped, text[start:end])
        if decoded != text[start:end]:
            yield Decoded("escapes", decoded, start, end)


def _unescaped(match: Any) -> str:
    entity, percent, quoted, *digits = match.groups()
    if entity:
        return html.unescape("&" + entity)
    if percent or quoted:
        octets = percent.replace("%", "") if percent else quoted.replace("=", "")
        return bytes.fromhex(octets).decode("utf-8", "replace")
    code = int(digits[2], 8) if digits[2] else int(digits[0] or digits[1], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


# -- runs of an alphabet: base64, hex ----------------------------------------------------------------------------------

LEAST_BASE64, LEAST_HEX = 12, 10
_RUN = re.compile(rf"[A-Za-z0-9+/_\-]{{{LEAST_HEX},}}")  # a run of one class: linear also in the standard engine
# Base64 of ASCII text, at the beginning of a run: the top bit of each byte is 0, so that two thirds of the letters
# cannot stand in one place or another. Base64 of other bytes: small letters after others, again and again. Hex.
_QUANTUM = "[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]"
BLOBS = (rf"(?:\A|[^A-Za-z0-9+/_-])(?:{_QUANTUM}){{3}}", "(?:[A-Z0-9+/]+[a-z]{1,3}){2}[A-Z0-9+/]", "[0-9a-fA-F]{10}")
_BLOB = re2.compile("|".join(BLOBS))
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_HEX = re.compile("[0-9a-fA-F]+")
_WRAPPED = re.compile(r"\r?\n[ \t>]*")


def blobs(text: str) -> Iterator[Decoded]:
    """Runs of base64 and hex that decode to something readable; lines of one length as one run."""
    for start, end, run in _joined(text):
        disguise = "hex" if _HEX.fullmatch(run) else "base64"
        decoded = _unhex(run) if disguise == "hex" else _unbase64(run)
        if decoded is None and disguise == "hex":
            disguise, decoded = "base64", _unbase64(run)
        if decoded is not None and _BLOB.search(run):
            yield Decoded(disguise, decoded, start, end)


def _joined(text: str) -> Iterator[tuple[int, int, str]]:
    """The runs of a text. As mail wraps them: as long as a line is as long as the one before, the next goes on with it."""
    first, last, run, width = 0, 0, "", 0
    for match in _RUN.finditer(text):
        start, end = match.span()
        if run and last - first >= width > 0 and _WRAPPED.fullmatch(text, last, start) and end - start <= width:
            run, last, width = run + match.group(), end, width if end - start == width else 0
            continue
        if run:
            yield first, last, run
        first, last, run = start, end, match.group()
        width = end - start if end - start >= 32 and (end - start) % 4 == 0 else 0
    if run:
        yield first, last, run


def whole_runs(data: bytes, start: int, end: int, floor: int) -> tuple[int, int]:
    """A window of narrowed text, made to hold its first and its last run whole. It grows down to `floor` at most."""
    step = 256
    while start > floor:
        low = max(floor, start - step)
        rest = len(data[low:start].rstrip(_ALPHABET))
        if rest:
            start = low + rest
            break
        start, step = low, step * 2
    step = 256
    while end < len(data):
        high = min(len(data), end + step)
        rest = len(data[end:high].lstrip(_ALPHABET))
        if rest:
            end = high - rest
            break
        end, step = high, step * 2
    return start, end


_PAIR, _APART = "(?:0x)?[0-9a-f]{2}", "[ ,:]{1,2}"
SPACED_HEX = (rf"\b(?:{_PAIR}{_APART}){{3}}{_PAIR}\b",)
_SPACED_HEX = re2.compile(rf"\b(?:{_PAIR}{_APART}){{9,}}{_PAIR}\b")


def spaced_hex(text: str) -> Iterator[Decoded]:
    """Bytes in hex, set apart."""
    for match in _SPACED_HEX.finditer(text):
        decoded = _unhex("".join(c for c in match.group().replace("0x", "") if c in "0123456789abcdef"))
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
    # A dozen letters of base64 are never all small, nor all of them one identifier's.
    if len(run) < LEAST_BASE64 or run.islower():
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
    readable = text.isprintable() or all(map(_shown, text))
    return text if readable and text else None


def _shown(char: str) -> bool:
    return char.isprintable() or char in "\t\n\r" or unicodedata.category(char) in ("Cf", "Mn")


# -- lists of character codes ------------------------------------------------------------------------------------------

_CODE = "(?:32|39|4[4-6]|6[3-9]|[78][0-9]|90|9[5-9]|1[01][0-9]|12[0-6])"
CODES = (rf"\b(?:{_CODE}[\s,;]+){{5}}{_CODE}\b", r"(?:\b[01]{8}[\s,;]*){2}[01]{8}")
_CODES = re2.compile(r"\b(?:(?:10|13|3[2-9]|[4-9][0-9]|1[01][0-9]|12[0-6])[\s,;]+){7,}[0-9]{2,3}\b")
_LISTED = re2.compile(CODES[0])
_BITS = re2.compile(r"\b(?:[01]{8}[\s,;]*){4,}")


def codes(text: str) -> Iterator[Decoded]:
    """Character codes in decimal or in bits, as in JSON: `[105, 103, 110, …]`, where they say words."""
    for match in _CODES.finditer(text):
        decoded = "".join(chr(int(number)) for number in re.findall("[0-9]+", match.group()))
        if speaks(decoded.lower()) and _LISTED.search(match.group()):
            yield Decoded("codes", decoded, *match.span())
    for match in _BITS.finditer(text):
        bits = "".join(c for c in match.group() if c in "01")
        decoded = bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)).decode("latin-1")
        if speaks(decoded.lower()):
            yield Decoded("codes", decoded, *match.span())


# -- hidden bytes ------------------------------------------------------------------------------------------------------

LEAST_SELECTORS = 3


def selectors(read: Characters) -> Iterator[Decoded]:
    """Bytes in runs of variation selectors: selector *n* is byte *n* - 1."""
    if len(read.points) < LEAST_SELECTORS:
        return
    near, far = read.points - np.uint32(0xFE00), read.points - np.uint32(0xE0100)
    inside = (near < 16) | (far < 240)
    if np.count_nonzero(inside) < LEAST_SELECTORS:
        return
    octets = np.where(near < 16, near, far + np.uint32(16))[inside].astype(np.uint8)
    places = read.odd[inside]
    edges = np.concatenate([[0], np.flatnonzero(np.diff(places) != 1) + 1, [len(places)]])
    long = np.diff(edges) >= LEAST_SELECTORS
    firsts, lasts = edges[:-1][long], edges[1:][long]
    if not len(firsts):
        return
    # Runs near each other are one payload: a visible character between its bytes hides nothing.
    cuts = np.flatnonzero(places[firsts[1:]] - places[lasts[:-1] - 1] > MARGIN) + 1
    for a, b in pairwise([0, *cuts.tolist(), len(firsts)]):
        data = b"".join(octets[firsts[k] : lasts[k]].tobytes() for k in range(a, b))
        start, end = int(places[firsts[a]]), int(places[lasts[b - 1] - 1]) + 1
        yield Decoded("variation_selectors", data.decode("utf-8", "replace"), start, end)
