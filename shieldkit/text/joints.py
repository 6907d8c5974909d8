"""Joints: what stands inside words, or between them where a blank should be, and is not seen by who reads them rendered.

Tags, comments, links and colours of terminals; soft line ends; invisible characters. Each has a place in ordinary text: what
comes out without them counts where it says words that were not to be read before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from shieldkit.text.folding import Characters, Indices, narrowed, unseen
from shieldkit.text.regions import MARGIN, Decoded, regions, spots, with_margin
from shieldkit.text.sieve import compiled
from shieldkit.text.words import VOCABULARY, speaks

GAP = 60
"""How far apart two joints of one attempt are."""
LEAST = 2
LEAST_WORDS, LEAST_INVISIBLE, LEAST_RUN = 4, 3, 8
"""Words in a row that make a sentence of English, with marks or with invisible characters between; such characters in a row
that stand for blanks in any language."""
SOFT_HYPHEN = "\xad"
_JOINING = frozenset(
    "all any the your you this that these those and with what how are not now must should will from which".split()
)
"""Lists, menus and tables have no words that join others to a sentence."""


def _is_sentence(words: Iterable[str], least: int = LEAST_WORDS) -> bool:
    common = [word for word in words if word in VOCABULARY]
    return len(common) >= least and not _JOINING.isdisjoint(common)


# -- markup ------------------------------------------------------------------------------------------------------------

WORD_CHARS = 16
MOST = 256  # characters of a tag, a comment, an address
_BB = "(?:b|i|u|s|sub|sup|url|size|font|color|code|quote)"
# Folding has taken the escape character from before `[0m`.
MARK = (
    rf"<!--[\s\S]{{0,{MOST}}}?-->|<(?:[a-z/!?][^<>]{{0,{MOST}}})?>|/\*[^*]{{0,64}}\*/"
    rf"|\[/?{_BB}(?:=[^\[\]]{{0,64}})?\]|\[[0-9;]{{1,12}}[mk]"
)
_SHORT_MARK = rf"<(?:[a-z/!?][^<>]*)?>|/\*[^*]*\*/|\[/?{_BB}(?:=[^\[\]]*)?\]|\[[0-9;]+[mk]"
_ADDRESS = rf"\]\([^()]{{0,{MOST}}}\)"
_BLOCK = (
    r"/?(?:article|blockquote|br|d[dlt]|div|footer|form|h[1-6r]|header|li|main|nav|[ou]l|p|pre|section"
    r"|t(?:able|body|[drh]|foot|head))\b"
)
LINK = rf"\[[^\[\]]{{0,64}}{_ADDRESS}"
TAGS = (
    f"[a-z](?:{_SHORT_MARK})+[a-z]",
    "[a-z]<!--",
    r"[a-z]\[[^\[\]]+\]\(",
    r"\]\([^()]*\)[a-z]",
)
_BROKEN = compiled(f"[a-z](?:{MARK})+[a-z]|[a-z]{LINK}|{LINK}[a-z]")
_WORD = re.compile("[a-z]+")
_CUT = re.compile(r"\A[^<>]*>|<[^<>]*\Z")
_GLUED = compiled(f"[a-z]{{1,{WORD_CHARS}}}(?:(?:{MARK})+[a-z]{{1,{WORD_CHARS}}}[.,;:!?]?)+")
# Each alternative is bounded, and begins with a sign that stops it: linear also in the standard engine, and faster for many.
_MARKS = re.compile(rf"(?P<block><{_BLOCK}[^<>]{{0,{MOST}}}>)|{MARK}|\[(?P<said>[^\[\]]{{0,64}}){_ADDRESS}")


def tags(text: str) -> Iterator[Decoded]:
    """Words in which tags, comments or links stand (`ig<b></b>nore`, `ig[nore](a.b)`), and words with tags alone between."""
    data = narrowed(text)
    for start, end in with_margin(text, broken(text, data, least=LEAST, gap=GAP)):
        part = text[start:end]
        # Not what the tags say themselves, those that the margin cuts among them: an attribute is not read.
        pieces, by_block, whole = _without(part, (" ", " "), (" ", ""), ("", ""))
        pieces = _CUT.sub("", pieces)
        said = dict.fromkeys((by_block, whole))
        yield from (Decoded("markup", text, start, end) for text in said if speaks(text, beside=pieces))
    rows = (s for s in spots(_GLUED, data) if _is_sentence(_WORD.findall(_without(text[slice(*s)], (" ", " "))[0])))
    for start, end in with_margin(text, regions(rows, least=1, gap=GAP)):
        yield Decoded("markup", _without(text[start:end], (" ", " "))[0], start, end)


def broken(text: str, data: bytes, *, least: int, gap: int) -> Iterator[tuple[int, int]]:
    """Regions of broken words, `gap` characters apart at most that are no marks: a tag may be long."""
    first = last = count = 0
    for start, end in spots(_BROKEN, data):
        if count and not is_near(text[last:start], gap):
            if count >= least:
                yield first, last
            count = 0
        if not count:
            first = start
        last, count = end, count + 1
    if count >= least:
        yield first, last


def is_near(between: str, gap: int) -> bool:
    """Whether that is `gap` characters long at most without its marks."""
    return len(between) <= gap or len(_MARKS.sub("", between)) <= gap


def _without(text: str, *instead: tuple[str, str]) -> list[str]:
    """Text with each pair in the place of its marks, those of blocks and others, and links as what they show."""
    parts: list[str] = []
    kinds: list[int] = []
    at = 0
    for mark in _MARKS.finditer(text):
        parts.append(text[at : mark.start()])
        kinds.append(0 if mark["block"] else 1)
        if mark["said"] is not None:
            parts.append(mark["said"])
            kinds.append(1)
        at = mark.end()
    return [
        "".join(chain.from_iterable(zip(parts, map(pair.__getitem__, kinds), strict=True))) + text[at:]
        for pair in instead
    ]


# -- soft line ends ----------------------------------------------------------------------------------------------------

_END = r"[ \t]{0,2}\r?\n"
SOFT = (rf"[a-z][=\\]{_END}[a-z]", rf"[a-z]-{_END}[ \t]{{0,4}}[a-z]")
_SOFT, _HYPHENATED = map(compiled, SOFT)
_SOFT_ENDS = re.compile(rf"[=\\]{_END}|(?<=[^\W\d_])-{_END}[ \t]{{0,4}}(?=[^\W\d_])")
SOFT_GAP, HYPHEN_GAP = 100, 40
"""A line of quoted-printable; less than a line of a book, in which words are parted at some ends of lines."""


def soft_ends(text: str) -> Iterator[Decoded]:
    """Words that go on in the next line, behind `=` (quoted-printable), a backslash or a hyphen."""
    data = narrowed(text)
    soft, hyphenated = (
        regions(spots(pattern, data), least=LEAST, gap=gap)
        for pattern, gap in ((_SOFT, SOFT_GAP), (_HYPHENATED, HYPHEN_GAP))
    )
    for start, end in with_margin(text, [*soft, *hyphenated]):
        part = text[start:end]
        decoded = _SOFT_ENDS.sub("", part)
        if speaks(decoded, beside=part):
            yield Decoded("soft_line_ends", decoded, start, end)


# -- invisible characters ----------------------------------------------------------------------------------------------

MOST_PIECE, LEAST_MEAN = 24, 3.5
"""Letters between two of them, at most; and on average, where they are words of any language and no syllables."""
_BLANK = "\x1f"  # folded text has none
_BREAKS = (0x0B, 0x0C, *range(0x1C, 0x20))
_NO_BREAKS = dict.fromkeys(_BREAKS)
_GLUED_BY = re.compile(f"[a-z]+(?:{_BLANK}[a-z]+)+")


def invisible(text: str, read: Characters) -> Iterator[Decoded]:
    """Words with nothing but invisible characters between them, which folding makes one word of.

    Between letters of ASCII: Thai and Khmer have them between words, Persian and the Indic scripts within.
    """
    found = between_letters(unseen(read), read.data)
    edges = np.flatnonzero(found[1:, 0] - found[:-1, 1] > MOST_PIECE) + 1
    for group in np.split(found, edges):
        if len(group) < LEAST:
            continue
        first, last = int(group[0, 0]), int(group[-1, 1])
        start, end = max(0, first - MARGIN), min(len(text), last + MARGIN)
        parts: list[str] = []
        at = start
        for low, high in group.tolist():
            parts += text[at:low], _BLANK
            at = high
        said = "".join(parts) + text[at:end]
        glued = _GLUED_BY.findall(said.lower())
        row = (
            len(group) >= LEAST_RUN and (last - first) / len(group) > LEAST_MEAN and SOFT_HYPHEN not in text[first:last]
        )
        if row or _is_sentence(" ".join(glued).replace(_BLANK, " ").split(), LEAST_INVISIBLE):
            yield Decoded("invisible", said.replace(_BLANK, " "), start, end)


def breaks(text: str, read: Characters) -> Iterator[Decoded]:
    """Words in pieces by controls that fold to a blank: page breaks and separators, which part words elsewhere."""
    found = between_letters(break_places(read), read.data)
    for start, end in with_margin(text, regions(map(tuple, found.tolist()), least=LEAST, gap=GAP)):
        part = text[start:end]
        decoded = part.translate(_NO_BREAKS)
        if speaks(decoded.lower(), beside=part.lower()):
            yield Decoded("invisible", decoded, start, end)


def break_places(read: Characters) -> Indices:
    """Where there are such controls."""
    # Quicker than to look for each in the list: they are few.
    is_break = (read.points - np.uint32(0x1C) < 4) | (read.points - np.uint32(0x0B) < 2)
    places: Indices = read.odd[is_break]
    return places


def between_letters(places: Indices, data: bytes) -> Indices:
    """The runs of places, (runs, 2), that have a letter of ASCII on both sides."""
    if not len(places):
        return np.zeros((0, 2), np.int64)
    edges = np.flatnonzero(np.diff(places) != 1)
    starts, ends = places[np.r_[0, edges + 1]], places[np.r_[edges, len(places) - 1]] + 1
    inner = (starts > 0) & (ends < len(data))
    starts, ends = starts[inner], ends[inner]
    octets = np.frombuffer(data, np.uint8)
    both = _is_letter(octets[starts - 1]) & _is_letter(octets[ends])
    return np.stack([starts[both], ends[both]], axis=1)


def _is_letter(octets: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray((octets | np.uint8(32)) - np.uint8(97) < 26, np.bool_)
