"""Encodings: escapes, runs of base64 and hex, lists of character codes, bytes in variation selectors.

What comes out is screened beside the text, not in its place: which one is meant cannot be known.
"""

from __future__ import annotations

import binascii
import html
import re
from collections.abc import Iterator
from functools import lru_cache
from html.entities import html5
from itertools import pairwise

import numpy as np
import re2

from shieldkit.text.folding import Characters, fold, narrowed
from shieldkit.text.regions import MARGIN, Decoded, regions, spots, with_margin
from shieldkit.text.sieve import Window, compiled
from shieldkit.text.words import VOCABULARY, speaks

# -- escapes: HTML entities, URL escapes, quoted-printable, backslash escapes ------------------------------------------

ESCAPES = (
    r"&(?:#x?[0-9a-f]|[a-z][a-z])",
    r"%(?:[0-9a-f]|u[0-9a-f]{2})[0-9a-f]",
    r"=[0-9a-f][0-9a-f]=[0-9a-f][0-9a-f]=",
    r"=[2-7][0-9a-f]=[2-7][0-9a-f]",
    r"[a-z]=c2=a[0d][a-z]",
    r"\\(?:u\{?[0-9a-f]{2}|x[0-9a-f]{2}|[0-3][0-7]{2}|0{0,4}[2-7][0-9a-f])",
    r"u\+[0-9a-f]{4,6}[ ,;]{0,2}u\+[0-9a-f]",
    r"[a-z](?:\\+[nrt]|=(?:20|09|a0|0[ad]))+[a-z]+[.,;:!?]?(?:\\|=(?:20|09|a0|0[ad]))",
)
# What is escaped again and again, as addresses within addresses are, is read to the end at once.
_NESTED = "(?:(?:amp|#38|#x26);)*"
# Alternatives that begin with signs of their own, and no repeat of what follows it: linear also in the standard engine, which is
# several times as fast for many short matches, as long as the signs stand outside of the groups.
_ESCAPE = re.compile(
    rf"&{_NESTED}(?P<entity>(?:#[0-9]{{1,12}}|#x[0-9a-f]{{1,12}}|[a-z][a-z][a-z0-9]{{0,30}});?)"
    r"|%(?P<percent>(?:25)*[0-9a-f]{2}(?:%(?:25)*[0-9a-f]{2})*)|=(?P<quoted>[0-9a-f]{2}(?:=[0-9a-f]{2})+)"
    r"|\\u(?P<pair>d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|u\+(?P<listed>[0-9a-f]{4,6}(?:[ ,;]{0,2}u\+[0-9a-f]{4,6})+)"
    r"|\\u\{(?P<braced>[0-9a-f]{1,6})\}|\\u(?P<long>000[01][0-9a-f]{4})|\\u(?P<short>[0-9a-f]{4})|%u(?P<old>[0-9a-f]{4})"
    r"|\\x(?P<byte>[0-9a-f]{2})|\\(?P<octal>[0-3][0-7]{2}|[0-7]{2})"
)
# In style sheets the digits are hex, and a blank may end them.
_STYLE = re.compile(r"\\0{0,4}([2-7][0-9a-f])(?![0-9a-f])[ \t\r\n]?")
_ENTITIES = {name.lower(): said for name, said in html5.items()} | html5
"""Folded text has no capitals; where two names differ in them alone, it is the one without."""
# Escaped control characters alone say nothing; tags and variation selectors hide something.
_TELLING = re.compile("[^\\W_]|[ -~\U000e0020-\U000e01ef]")
# Blanks that are no escapes where they stand alone: in a path, in a formula, between the fields of a query.
_SEPARATOR = r"(?:\\{1,4}[nrt]|=(?:20|09|a0|0[ad]))+"
_SEPARATORS, _QUOTED = re.compile(_SEPARATOR), re.compile("=[0-9a-f]{2}")
_GLUED = re2.compile(rf"[a-z](?:{_SEPARATOR}[a-z]{{1,24}}[.,;:!?]?)+{_SEPARATOR}[a-z]")
WORD_GAP = 24
"""Characters between two escaped blanks that are in the place of those between words."""


def escapes(text: str) -> Iterator[Decoded]:
    """HTML entities, URL escapes, quoted-printable, and escapes of program code and style sheets."""
    telling: list[Window] = []
    others: list[tuple[int, int, str]] = []
    for match in _ESCAPE.finditer(text):
        said = _unescaped(match)
        if _TELLING.search(said):
            telling.append(match.span())
        else:
            others.append((*match.span(), said))
    joints = [*_joints(text, others)]
    if joints:
        telling = sorted({*telling, *joints})
    for start, end in with_margin(text, regions(telling, least=1, gap=2 * MARGIN)):
        decoded = _ESCAPE.sub(_unescaped, text[start:end])
        if decoded != text[start:end]:
            yield Decoded("escapes", decoded, start, end)
    for start, end in with_margin(text, regions(spots(_STYLE, text), least=2, gap=2 * MARGIN)):
        yield Decoded("escapes", _STYLE.sub(lambda m: chr(int(m[1], 16)), text[start:end]), start, end)
    for start, end in with_margin(text, regions(spots(_GLUED, text), least=1, gap=MARGIN)):
        part = text[start:end]
        decoded = _SEPARATORS.sub(" ", part)
        if speaks(decoded, beside=_QUOTED.sub("", part)):
            yield Decoded("escapes", decoded, start, end)


def _joints(text: str, found: list[tuple[int, int, str]]) -> Iterator[Window]:
    """Regions of escapes between letters that stand for nothing to be seen, where words are in pieces without them, or for
    blanks, where they are all that stands between words.
    """
    nothing: list[Window] = []
    blanks: list[Window] = []
    for start, end, said in _runs(found):
        if text[start - 1 : start].isalpha() and text[end : end + 1].isalpha():
            (blanks if _folded(said) else nothing).append((start, end))
    for start, end in regions(nothing, least=2, gap=2 * MARGIN):
        part = text[max(0, start - MARGIN) : end + MARGIN]
        if speaks(_ESCAPE.sub(_shown, part), beside=part):
            yield start, end
    yield from regions(blanks, least=3, gap=WORD_GAP)
    for start, end in regions(blanks, least=2, gap=WORD_GAP):
        if not VOCABULARY.isdisjoint(_ESCAPE.sub(_unescaped, text[start:end]).split()):
            yield start, end


def _runs(found: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Escapes of what is not seen, those side by side as one."""
    before: tuple[int, int, str] | None = None
    for start, end, said in found:
        if _folded(said).strip():
            continue
        if before is not None and before[1] == start:
            before = before[0], end, before[2] + said
            continue
        if before is not None:
            yield before
        before = start, end, said
    if before is not None:
        yield before


@lru_cache(maxsize=256)
def _folded(said: str) -> str:
    return fold(said).text


def _shown(match: re.Match[str]) -> str:
    said = _unescaped(match)
    return said if _TELLING.search(said) else _folded(said)


def _unescaped(match: re.Match[str]) -> str:
    form, said = str(match.lastgroup), str(match[str(match.lastgroup)])
    if form == "entity":
        return _ENTITIES.get(said) or html.unescape(f"&{said}")
    if form in ("percent", "quoted"):
        octets = "".join(octet[-2:] for octet in re.split("[%=]", said))
        return bytes.fromhex(octets).decode("utf-8", "replace")
    if form == "pair":
        return bytes.fromhex(said.replace("\\u", "")).decode("utf-16-be", "replace")
    if form == "octal":
        return chr(int(said, 8))
    return "".join(_character(int(point, 16)) for point in re.findall("[0-9a-f]+", said))


def _character(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


# -- runs of an alphabet: base64, hex ----------------------------------------------------------------------------------

LEAST_BASE64, LEAST_HEX, LEAST_GROUP = 12, 10, 4
# Base64 of ASCII text, at the beginning of a run: the top bit of each byte is 0, so that two thirds of the letters
# cannot stand in one place or another; the same in groups. Base64 of other bytes: small letters after others, again and
# again. Hex.
_QUANTUM = "[A-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589][A-Za-z0-9+/_-]"
_BEFORE = r"(?:\A|[^A-Za-z0-9+])"
BLOBS = (
    f"{_BEFORE}(?:{_QUANTUM}){{3}}",
    rf"{_BEFORE}(?:(?:{_QUANTUM})+[ \t\r\n>]{{1,3}}){{3}}{_QUANTUM}",
    "(?:[A-Z0-9+/]+[a-z]{1,3}){2}[A-Z0-9+/]",
    "[0-9a-fA-F]{10}",
)
_BLOB = compiled("|".join(BLOBS))
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_ALPHABET = _LETTERS.encode()
_RUN = re.compile(r"[A-Za-z0-9+/_\-]*")  # a run of one class: linear also in the standard engine
_HEX = re.compile(f"[0-9a-fA-F]{{{LEAST_HEX},}}")
_WRAP = re.compile(r"[ \t]{1,3}|[ \t]{0,3}\r?\n[ \t>]{0,8}")
_UNWRAP = re.compile(r"(?:[ \t]{1,3}|[ \t]{0,3}\r?\n[ \t>]{0,8})\Z")
_WIDEST_WRAP = 14
_URL_SAFE = str.maketrans("-_", "+/")


def blobs(text: str) -> Iterator[Decoded]:
    """Runs of base64 and hex that decode to something readable; runs of one length, side by side, as one.

    What stands against a run (`/d/SWdub3Jl`, `0x49676e`) shifts it: each way to begin is tried.
    """
    data, at = narrowed(text), 0
    while (match := _BLOB.search(data, at)) is not None:  # not again in the same run: a search may read to its end
        start = at + len(text[at : match.end()].rstrip(_LETTERS))
        end = _end(text, match.end())
        group = _grouped(text, start, end, at)
        at = group[-1][1]
        yield from _of_group(text, group)


def _of_group(text: str, group: list[Window]) -> Iterator[Decoded]:
    """What the runs say together, or else each by itself."""
    found = list(_of_run("".join(text[start:end] for start, end in group)))
    if found or len(group) == 1:
        yield from (Decoded(disguise, said, group[0][0], group[-1][1]) for disguise, said in found)
        return
    for start, end in group:
        yield from (Decoded(disguise, said, start, end) for disguise, said in _of_run(text[start:end]))


def _end(text: str, at: int) -> int:
    run = _RUN.match(text, at)
    return run.end() if run is not None else at


def _grouped(text: str, start: int, end: int, floor: int) -> list[Window]:
    """A run with those of its length before it, down to `floor`, and after it. The last line, or third run, may be shorter."""
    group, width = [(start, end)], end - start
    if width < LEAST_GROUP:
        return group
    while (gap := _UNWRAP.search(text, max(floor, start - _WIDEST_WRAP), start)) is not None:
        first = gap.start() - width
        whole = first == floor or (first > floor and text[first - 1] not in _LETTERS)
        if not whole or _end(text, first) != gap.start():
            break
        group.append((first, gap.start()))
        start = first
    group.reverse()
    while end - group[-1][0] == width and (wrap := _WRAP.match(text, end)) is not None:
        after = _end(text, wrap.end())
        least = 1 if len(group) > 1 or "\n" in wrap.group() else width
        if not least <= after - wrap.end() <= width:
            break
        group.append((wrap.end(), after))
        end = after
    return group


def _of_run(run: str) -> list[tuple[str, str]]:
    """What a run says in hex, or else in base64, from the beginning or else from any of the places where it may begin."""
    for disguise, shifts in (("hex", _unhex(run)), ("base64", _unbase64(run))):
        found = [(disguise, said) for said in map(_readable, shifts) if said is not None]
        if found:
            return found
    return []


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


_PAIR, _APART = r"(?:0x)?[0-9a-f]{2}h?", "[^0-9a-z]{1,5}"
_UNITS = (_PAIR, "(?:0x)?[0-9a-f]{4}", "(?:0x)?[0-9a-f]{8}", "(?:0x)?[0-9a-f]{6}")
SPACED_HEX = tuple(rf"\b(?:{unit}{_APART}){{3}}{unit}(?:\b|_)" for unit in _UNITS)
_SPACED_HEX = re2.compile(
    r"\b(?:"
    + "|".join(rf"(?:{unit}{_APART}){{{least},}}{unit}" for unit, least in zip(_UNITS, (9, 7, 3, 4), strict=True))
    + rf")(?:{_APART}(?:[0-9a-f]{{2}}){{1,3}})?\b"
)
# As dumps of bytes are written; what is apart in other ways must say words.
_DUMP = re.compile(r"(?:0x)?(?:(?:[0-9a-f]{2}){1,2}|[0-9a-f]{8})h?[ \t\r\n,:;|/\-]{1,3}(?:0x)?[0-9a-f]")
_ODDLY_APART = re.compile(r"[^0-9a-z \t\r\n,:;|/\-]|[^0-9a-z]{4}")
_PREFIX_OR_SEPARATOR = re.compile("0x|[^0-9a-f]")


def spaced_hex(text: str) -> Iterator[Decoded]:
    """Bytes in hex, set apart, one, two or four together. A table of numbers says nothing."""
    for match in _SPACED_HEX.finditer(text):
        run = _PREFIX_OR_SEPARATOR.sub("", match.group())
        decoded = _readable(bytes.fromhex(run))
        if decoded is None:
            continue
        dump = _DUMP.match(match.group()) is not None and _ODDLY_APART.search(match.group()) is None
        if (dump and (not run.isdigit() or decoded.isalnum())) or speaks(decoded.lower()):
            yield Decoded("hex", decoded, *match.span())


def _unhex(run: str) -> Iterator[bytes]:
    """The bytes of a run of hex, and of each long stretch of hex in it, from its first digit and from its second."""
    for match in _HEX.finditer(run):
        digits = match.group()
        for shift in (0, 1):
            data = bytes.fromhex(digits[shift : len(digits) - (len(digits) - shift) % 2])
            if len(data) >= LEAST_STRETCH or (digits == run and not shift):
                yield data


def _unbase64(run: str) -> Iterator[bytes]:
    """The bytes of a run, from each of its first four letters."""
    # A dozen letters of base64 are never all small, nor all of them one identifier's.
    if len(run) < LEAST_BASE64 or run.islower():
        return
    plain = run.translate(_URL_SAFE)
    for shift in range(4):
        part = plain[shift:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        yield binascii.a2b_base64(part + "=" * (-len(part) % 4))


MOST_ODD, LEAST_STRETCH, LEAST_WIDE = 1 / 16, 8, 8
_ALPHABETS = range(1, 16)
_SHOWN = r"\t\n\r -~\xa0-\ud7ff\uf900-\ufffc\U00010000-\U000effff"
_STRETCH = re.compile(f"[{_SHOWN}]{{{LEAST_STRETCH},}}")
_ODD = re.compile(f"[^{_SHOWN}]")


def _readable(data: bytes) -> str | None:
    """Text, if nearly all bytes are printable, or the printable stretches of it, if they say words.

    Identifiers and digests decode to noise.
    """
    for text in _texts(data):
        if len(text) > LEAST_STRETCH and _STRETCH.search(text) is None:
            continue
        if text and len(_ODD.findall(text)) <= MOST_ODD * len(text):
            return text
        said = " ".join(_STRETCH.findall(text))
        if said and speaks(said.lower()):
            return said
    return None


def _texts(data: bytes) -> Iterator[str]:
    """Bytes as UTF-8, and as UTF-16 where most of every other byte are that of one alphabet, or 0 as in blanks and signs.

    Certificates and the like have small bytes everywhere, which would be letters of one alphabet after the other.
    """
    yield data.decode("utf-8", "replace")
    if 0 not in data:  # as in each blank
        return
    for encoding, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        of_one = high.count(0) + max(map(high.count, _ALPHABETS))
        of_others = sum(map(high.count, (0, *_ALPHABETS))) - of_one
        if len(high) >= LEAST_WIDE and 2 * of_one > len(high) and of_others <= MOST_ODD * len(high):
            yield data.decode(encoding, "replace").removeprefix("\ufeff")


# -- lists of character codes ------------------------------------------------------------------------------------------

# Letters and signs in decimal or in octal; what may stand between two: `, `, `-`, `)+chr(`, ` 0o`.
_CODE = "0?(?:32|39|4[04-6]|5[46]|6[3-9]|[78][0-9]|90|9[5-9]|1[0-7][0-9])"
_APART_CODES = r"[^0-9a-z]{1,4}(?:(?:chr|char)\(|0o)?"
CODES = (
    rf"\b(?:0o)?(?:{_CODE}{_APART_CODES}){{5}}{_CODE}\b",
    "[01]{21}",
    "(?:[01]{7,8}[^0-9a-z]{1,3}(?:0b)?){2}[01]{7}",
    "(?:[01]{4}[^0-9a-z]{1,3}){5}[01]{4}",
)
_CODES = re2.compile(rf"\b(?:0o)?(?:[0-9]{{2,3}}{_APART_CODES}){{7,}}[0-9]{{2,3}}\b")
_LISTED = re2.compile(CODES[0])
_BITS = re2.compile("(?:[01]{4,8}[^0-9a-z]{0,4}(?:0b)?){4,}[01]{4,8}")


def codes(text: str) -> Iterator[Decoded]:
    """Character codes in decimal, octal or bits, as in JSON: `[105, 103, 110, …]`, where they say words."""
    for match in _CODES.finditer(text):
        if _LISTED.search(match.group()):
            numbers = re.findall("[0-9]{2,3}", match.group().replace("0o", ""))
            yield from _saying_words((_characters(numbers, base) for base in (10, 8)), match.span())
    for match in _BITS.finditer(text):
        bits = "".join(re.findall("[01]+", match.group().replace("0b", "")))
        cut = ([bits[k : k + width] for k in range(0, len(bits), width)] for width in (8, 7))
        yield from _saying_words((_characters(octets, 2) for octets in cut), match.span())


def _characters(numbers: list[str], base: int) -> str:
    try:
        return "".join(chr(int(number, base)) for number in numbers)
    except ValueError:  # 8 and 9 are no digits of octal
        return ""


def _saying_words(readings: Iterator[str], place: tuple[int, int]) -> Iterator[Decoded]:
    for decoded in readings:
        if speaks(decoded.lower()):
            yield Decoded("codes", decoded, *place)


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
