"""Pieces of one text: base64 and hex cut up by anything, chunks of one width.

Each is put together again without what stands between. What comes out counts where it says words that its pieces do not.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shieldkit.text.encodings import _QUANTUM, BLOBS, blobs, spaced_hex
from shieldkit.text.folding import Folded, narrowed
from shieldkit.text.regions import MARGIN, Decoded, regions, with_margin
from shieldkit.text.sieve import compiled
from shieldkit.text.spellings import SPACED
from shieldkit.text.unspaced import put_together
from shieldkit.text.words import speaks

# -- base64 and hex, cut up --------------------------------------------------------------------------------------------

_DIGIT, _APART = "[A-Za-z0-9+/]", "[^A-Za-z0-9+/]+"
_BETWEEN = f"{_APART}(?:(?:[bB][rR]/?|[+/]|[0-9]+){_APART})?"
# Words have no capitals or digits like these after small letters, names of programs seldom three in a row.
_ODD = (
    rf"{_DIGIT}*(?:[a-z]{{1,2}}[0-9]|[a-z][A-Z](?:[A-Z0-9]|{_APART})|[0-9][A-Za-z]|[A-Z](?:[0-9]|[A-Z][a-z]|[a-z][A-Z0-9]))"
    rf"{_DIGIT}*"
)
_PAIRS = "(?:0x)?(?:[2-7][0-9a-fA-F]){3,}"
_NO_DIGIT = "[^A-Za-z0-9]+"
ENCODED = ("[a-z](?:[A-Z][^a-z]|[0-9][A-Z])", f"(?i:{SPACED[0]})", BLOBS[3])
ENCODED_CLOSELY = (
    rf"(?:{_ODD}{_BETWEEN}){{3}}",
    rf"(?:{_APART}{_DIGIT}){{6}}{_APART}",
    rf"{_NO_DIGIT}(?:{_PAIRS}{_NO_DIGIT}){{2}}{_PAIRS}",
)
# What stands between two pieces and has letters, digits or signs of the alphabet: the number or name of a line, a line end of
# HTML, a plus, `0x`.
_MARK = compiled(
    r"(?i:<br ?/?>)|\b0x|\A[ \t]*[0-9]{1,3}[.):][ \t]|\n[ \t>|]{0,8}[0-9]{1,3}[.):][ \t]|[\s\x22'`](?:[+/]|//|\+\+)[\s\x22'`]"
    r"|[\n;][ \t]{0,8}(?:(?:let|var|const|my) )?[$A-Za-z_][A-Za-z_0-9]{0,11}[ \t]{0,2}[+.]?=[ \t]{0,2}[\x22'`]"
)
_MARK_BEGUN = compiled(
    r"(?:(?i:<b?r? ?/?)|0|[\s\x22'`](?:[+/]|//|\+\+)|[\n;][ \t>|]{0,8}[0-9]{0,3}[.):]?"
    r"|[\n;][ \t]{0,8}[a-z]{0,5} ?[$A-Za-z_]?[A-Za-z_0-9]{0,11}[ \t]{0,2}[+.]?=?[ \t]{0,2})\z"
)
_BLOCK = 1 << 16
LEAST_PIECES, WIDEST_GAP = 3, 16
"""How many pieces there are at least, and how many characters stand between two of them at the most."""
LEAST_HINT, LEAST_QUANTA, LEAST_PAIRS = 3, 5, 10
"""From how many groups of four characters of base64, and pairs of hex, that can be ASCII text on it is looked at, and read."""
MOST_BY_CHANCE = 12
"""Characters beside what is encoded that may fit its alphabet."""
_IN_BASE64 = np.isin(
    np.arange(256), np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)
)
_IN_HEX = np.isin(
    np.arange(256), np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
)
_TEXT64 = f"(?:{_QUANTUM.replace('_-', '')})"
_TEXT16 = "(?:[2-7][0-9a-fA-F]|0[aA])"
_BASE64 = compiled(rf"{_TEXT64}{{{LEAST_QUANTA},}}{_DIGIT}{{0,3}}")
_HEX = compiled(rf"{_TEXT16}{{{LEAST_PAIRS},}}")
_BASE64_OPEN, _HEX_OPEN = compiled(rf"{_TEXT64}*{_DIGIT}{{0,3}}\z"), compiled(rf"{_TEXT16}*[0-9a-fA-F]?\z")

# A text whose letters and digits have none of these in them is soon done with.
_HINT = compiled(rf"{_TEXT64}{{{LEAST_HINT}}}|{_TEXT16}{{{LEAST_PAIRS}}}")
_BETWEEN_PIECES = bytes(np.flatnonzero(~_IN_HEX).astype(np.uint8))

Alphabet: TypeAlias = NDArray[np.bool_]
Places: TypeAlias = NDArray[np.intp]
_ALPHABETS: tuple[tuple[str, Alphabet, Any, Any], ...] = (
    ("base64", _IN_BASE64, _BASE64, _BASE64_OPEN),
    ("hex", _IN_HEX, _HEX, _HEX_OPEN),
)


def encoded(text: str) -> Iterator[Decoded]:
    """Base64 and hex of ASCII text in pieces, whatever up to `WIDEST_GAP` characters stand between two of them.

    All letters and digits are read as one; where base64 of a text begins shows by which of them stand where.
    """
    data = narrowed(text)
    if _HINT.search(data.translate(None, _BETWEEN_PIECES)) is None:
        return
    data = _without_marks(data)
    for disguise, alphabet, pattern, _ in _ALPHABETS:
        places = _places(data, alphabet)
        for start, end in _stretches(data, places):
            together = _at(data, places[start:end])
            for match in pattern.finditer(together):
                yield from _read(text, disguise, places[start + match.start() : start + match.end()], data)


def _without_marks(data: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    for match in _MARK.finditer(data):
        parts += data[at : match.start()], b" " * len(match.group())
        at = match.end()
    return b"".join([*parts, data[at:]])


def _places(data: bytes, alphabet: Alphabet) -> Places:
    return np.flatnonzero(alphabet[np.frombuffer(data, np.uint8)])


def _at(data: bytes, places: Places) -> bytes:
    return np.frombuffer(data, np.uint8)[places].tobytes()


def _stretches(data: bytes, places: Places) -> Iterator[tuple[int, int]]:
    """Runs of places without a wide gap in them."""
    edges = np.flatnonzero(np.diff(places) > WIDEST_GAP + 1) + 1
    starts, ends = [0, *edges.tolist()], [*edges.tolist(), len(places)]
    yield from zip(starts, ends, strict=True)


def _read(text: str, disguise: str, places: Places, data: bytes) -> Iterator[Decoded]:
    cuts = np.flatnonzero(np.diff(places) > 1) + 1
    if len(cuts) + 1 < LEAST_PIECES:
        return
    # A letter or two of a word before fit by chance: what is encoded begins with a piece.
    size = 4 if disguise == "base64" else 2
    before = int(places[0])
    if before and (_IN_HEX[data[before - 1]]):
        aligned = cuts[(cuts % size == 0) & (cuts <= MOST_BY_CHANCE)]
        places = places[aligned[0] :] if len(aligned) else places
    run = _at(data, places)
    if disguise == "base64":
        run = run[: len(run) - (len(run) % 4 == 1)]
        octets = binascii.a2b_base64(run + b"=" * (-len(run) % 4))
    else:
        octets = bytes.fromhex(run.decode("ascii"))
    said = octets.decode("ascii", "replace")
    start, end = int(places[0]), int(places[-1]) + 1
    if _is_text(said) and not _is_known(said, text[start:end]):
        yield Decoded(disguise, said, start, end)


_STRANGE = re.compile("[^\\t\\n\\r -~]")


def _is_text(said: str) -> bool:
    return len(_STRANGE.findall(said)) * 8 <= len(said) and speaks(said.lower())


def _is_known(said: str, part: str) -> bool:
    """Whether another decoder reads the same: then what it reads is here, too."""
    core = said[MOST_BY_CHANCE:-MOST_BY_CHANCE]
    return any(core in other.text for other in (*blobs(part), *spaced_hex(part.lower())))


def encoded_begun(text: str) -> int:
    """Where pieces begin that may go on after the end of the text."""
    width = 1024
    while True:
        low = max(0, len(text) - width)
        data = narrowed(text[low:])
        begun = _MARK_BEGUN.search(data)
        data = _without_marks(data[: begun.start()] if begun is not None else data)
        first = len(data)
        for _, alphabet, _, still_open in _ALPHABETS:
            places = _places(data, alphabet)
            match = still_open.search(_at(data, places))
            if match is not None and match.start() < len(places):
                first = min(first, int(places[match.start()]))
        if low == 0 or first > WIDEST_GAP:
            return low + first
        width *= 4


# -- chunks of one width -----------------------------------------------------------------------------------------------

WIDTHS, LEAST_CHUNKS = (2, 3, 4, 5), 8
_CUT = "[^a-z0-9\\s]"
_CHUNKED = [
    (width, compiled(rf"(?:[^\r\n]{{{width}}}{between}){{{LEAST_CHUNKS - 1},}}[^\r\n]{{1,{width}}}"))
    for width in WIDTHS
    for between in (" ", _CUT)
]
CHUNKS_BEGUN = "|".join(
    rf"(?:[^\r\n]{{{width}}}{between})*[^\r\n]{{0,{width}}}" for width in WIDTHS for between in (" ", _CUT)
)


def chunks(folded: Folded) -> Iterator[Decoded]:
    """Text cut after every so many characters (`Ig no re  a ll`, `Ign.ore. al.l p`), put together again."""
    for start, end in _periodic(folded.data):
        for part in _chunks(folded.text[start:end]):
            yield replace(part, start=start + part.start, end=start + part.end)


def _periodic(data: bytes) -> Iterator[tuple[int, int]]:
    """Where no letter and no digit stands at `LEAST_CHUNKS` places in a row, each as far from the one before."""
    long = 8 + LEAST_CHUNKS * (WIDTHS[-1] + 1)
    found = (
        (at, at + long) for low in range(0, len(data), _BLOCK) for at in _rows(data[low : low + _BLOCK + long], low)
    )
    yield from with_margin(data, regions(found, least=1, gap=2 * MARGIN))


def _rows(data: bytes, offset: int) -> Iterator[int]:
    """Where such rows begin, to eight places.

    No pattern of a set tells that. All places are tried at once, as the bits of one number.
    """
    read = np.frombuffer(data, np.uint8)
    packed = np.packbits((read - np.uint8(97) > 25) & (read - np.uint8(48) > 9), bitorder="little")
    cuts = int.from_bytes(packed.tobytes(), "little")
    cuts &= ~((cuts >> 1) & (cuts << 1))  # rulers and wide gaps
    found = 0
    for step in (width + 1 for width in WIDTHS):
        rows = cuts & (cuts >> step)
        rows &= rows >> 2 * step
        found |= rows & (rows >> 4 * step)
    if found:
        octets = np.frombuffer(found.to_bytes(len(packed), "little"), np.uint8)
        yield from (offset + 8 * np.flatnonzero(octets)).tolist()


def _chunks(text: str) -> Iterator[Decoded]:
    data = narrowed(text)
    for width, pattern in _CHUNKED:
        for match in pattern.finditer(data):
            start, end = match.span()
            part = text[start:end]
            said = "".join(part[k : k + width] for k in range(0, len(part), width + 1))
            yield from put_together(said, part, start, end)
