"""From where on a text is not settled: what comes after it could still change how its last part is folded and decoded.

For text that comes bit by bit. All before `pending` reads the same whatever follows. Each decoder has its entry here: what it
has begun to see and not seen the end of. Linear in the length of the text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import re2

from shieldkit.text import decoding, encodings, joints, literals, mail, pieces, spellings, unspaced
from shieldkit.text.canonical import Canonical
from shieldkit.text.decoding import Read
from shieldkit.text.folding import characters, encodable, narrowed, unseen
from shieldkit.text.regions import LINE, MARGIN, regions

SPOT_CHARS = 16
"""The longest beginning of a spot that is not one yet."""

CONTEXT_CHARS = MARGIN + SPOT_CHARS
"""A decoded region takes so many characters with it that stand before its first spot."""

_SELECTOR = r"[\x{fe00}-\x{fe0f}\x{e0100}-\x{e01ef}]"


def pending(canonical: Canonical) -> int:
    """The index, in the original, of the first character that is not settled yet. len(original) when all of it is."""
    text, original = canonical.text, encodable(canonical.original)
    folded = min(max(0, len(text) - CONTEXT_CHARS), _chunks(text), *(PENDING[d.read](text) for d in decoding.FOLDED))
    return min(
        canonical.span(folded, folded)[0],
        _hidden(original),
        _invisible(original),
        *(PENDING[d.read](original) for d in decoding.ORIGINAL),
    )


def _tail(pattern: str) -> Callable[[str], int]:
    """Where the stretch begins that fits `pattern` and reaches the end of the text."""
    compiled = re2.compile(rf"(?:{pattern})\z")

    def start(text: str) -> int:
        found = compiled.search(text)
        return found.start() if found is not None else len(text)

    return start


def _chain(*kinds: tuple[Any, int], after: int = MARGIN) -> Callable[[str], int]:
    """Where a region begins that spots (of a pattern, with gaps of at most so many characters) may still be added to.

    `after` is what a region takes with it behind its last spot.
    """

    def start(text: str) -> int:
        return min(_open_region(pattern, gap, after, text) for pattern, gap in kinds)

    return start


def _narrow_chain(*kinds: tuple[Any, int]) -> Callable[[str], int]:
    """The same for patterns of bytes."""
    return lambda text: min(_open_region(pattern, gap, MARGIN, narrowed(text)) for pattern, gap in kinds)


def _open_region(pattern: Any, gap: int, after: int, text: str | bytes) -> int:
    # Regions whose surroundings touch are read as one.
    apart = max(gap, MARGIN + after)
    first = last = -1
    for match in pattern.finditer(text):
        if first < 0 or match.start() - last > apart:
            first = match.start()
        last = match.end()
    is_open = first >= 0 and len(text) - last <= apart + SPOT_CHARS
    return max(0, first - MARGIN) if is_open else len(text)


def _open(found: Iterable[tuple[int, int]], length: int) -> int:
    """The same of the places of spots, of which there may be many, in a text of that length."""
    first, last = _last(regions(found, least=1, gap=2 * MARGIN))
    return max(0, first - MARGIN) if first >= 0 and length - last <= 2 * MARGIN + SPOT_CHARS else length


def _last(found: Iterator[tuple[int, int]]) -> tuple[int, int]:
    """The last place; (-1, 0) where there is none."""
    return next(iter(deque(found, maxlen=1)), (-1, 0))


def _invisible(text: str) -> int:
    """Where words begin between which nothing is seen, so far."""
    read = characters(text)
    places = np.union1d(unseen(read), joints.break_places(read))
    if not len(places):
        return len(text)
    at = _open(map(tuple, joints.between_letters(places, read.data).tolist()), len(text))
    if places[-1] < len(text) - 1:
        return at
    run = np.flatnonzero(np.diff(places) != 1)
    return min(at, max(0, int(places[run[-1] + 1 if len(run) else 0]) - MARGIN))


def _in_marks(text: str) -> int:
    """Where words begin that have marks in them, or nothing else between them."""
    data = narrowed(text)
    first, last = _last(joints.broken(text, data, least=1, gap=2 * MARGIN))
    is_open = first >= 0 and joints.is_near(text[last:], 2 * MARGIN + SPOT_CHARS)
    begun = _mark_begun(text)
    return max(0, min(first if is_open else len(text), begun) - joints.WORD_CHARS - MARGIN)


def _earliest(*starts: Callable[[str], int]) -> Callable[[str], int]:
    return lambda text: min(start(text) for start in starts)


def _earlier(start: Callable[[str], int]) -> Callable[[str], int]:
    """With what a region takes along from before it."""
    return lambda text: max(0, start(text) - MARGIN)


_chunks = _tail(pieces.CHUNKS_BEGUN)
_hidden = _earliest(_tail(f"{_SELECTOR}+"), _chain((re2.compile(f"{_SELECTOR}{{3,}}"), MARGIN)))
_letters_apart = _tail(r"(?:(?:[a-z0-9]|[^\x00-\x7f])(?:[^a-z0-9]){1,12})*(?:[a-z0-9]|[^\x00-\x7f])?[^a-z0-9]{0,12}")
_digits_for_letters = _tail(r"[a-z@$][0134578@$!]+")
_row_begun = _tail(
    rf"\b(?:{spellings._COMMON}{spellings._MARKED_GAP}){{0,2}}(?:{spellings._COMMON}[^a-z]{{0,30}}|[a-z]{{0,16}})"
)
_numbers = _tail(r"\b(?:[0-9]{2,3}[^0-9]{1,4}(?:char?\(|chr\(|0o?|c|ch|cha|char)?)+(?:[0-9]{0,3})")
_bits = _tail(r"(?:[01]{4,8}[^0-9a-z]{0,4}(?:0b?)?)*[01]{0,8}")
_mark_begun = _tail(
    rf"[a-z]{{0,{joints.WORD_CHARS}}}(?:{joints.LINK}|{joints.MARK})*"
    rf"(?:<[^<>]{{0,{joints.MOST}}}|<!--[\s\S]{{0,{joints.MOST}}}|/(?:\*[^*]{{0,64}}\*?)?|\[[^\[\]]{{0,64}}(?:\](?:\([^()]{{0,{joints.MOST}}})?)?)?"
)
_blank_begun = _tail(rf"[a-z](?:{encodings._SEPARATOR}[a-z]{{0,24}}[.,;:!?]?)+(?:\\+|=[0-9a-f]?)?")

_DOT = ".\u00b7\u2022\u2219\u22c5\u30fb\u25cf\u2212\u2500"

PENDING: Mapping[Read, Callable[[str], int]] = {
    encodings.blobs: _tail(r"(?:[A-Za-z0-9+/_\-]{4,}[ \t\r\n>]+)*[A-Za-z0-9+/_\-]*[ \t\r\n>]*"),
    encodings.escapes: _earliest(
        _chain((encodings._ESCAPE, 2 * MARGIN), (encodings._STYLE, 2 * MARGIN), (encodings._GLUED, MARGIN)),
        _earlier(_blank_begun),
    ),
    mail.utf7: _earliest(_earlier(_tail(r"\+[A-Za-z0-9+/]*-?")), _narrow_chain((mail._RUN, 2 * MARGIN))),
    mail.quoted: _narrow_chain((mail._QUOTED, 2 * MARGIN)),
    literals.names: _earliest(_earlier(_tail(literals.NAMES_BEGUN)), _narrow_chain((literals._SPOT, 2 * MARGIN))),
    encodings.spaced_hex: _tail(
        rf"\b(?:(?:0x)?(?:[0-9a-f]{{2}}){{1,4}}h?{encodings._APART})+(?:0x?)?[0-9a-f]{{0,8}}h?"
    ),
    encodings.codes: _earliest(_numbers, _bits),
    spellings.spaced: _earliest(_letters_apart, _narrow_chain((spellings._SPACED, 40), (spellings._SIGNS_APART, 40))),
    spellings.marked: _earliest(_earlier(_row_begun), _narrow_chain((spellings._ROW, 60), (spellings._BROKEN, 60))),
    joints.tags: _in_marks,
    joints.soft_ends: _narrow_chain((joints._SOFT, joints.SOFT_GAP), (joints._HYPHENATED, joints.HYPHEN_GAP)),
    spellings.leet: _earliest(_chain((spellings._LEET_SPOT, 60), after=LINE), _digits_for_letters),
    spellings.rot13: _chain((spellings._ROT13_LONG, 120), (spellings._ROT13_SHORT, 60), after=LINE),
    spellings.backwards: _chain((spellings._BACKWARDS_LONG, 120), (spellings._BACKWARDS_SHORT, 60), after=LINE),
    spellings.morse: _tail(rf"(?:[{_DOT}\-]{{1,5}}[ /|]{{1,3}})+[{_DOT}\-]{{0,5}}"),
    pieces.encoded: pieces.encoded_begun,
    literals.words: _tail(literals.WORDS_BEGUN),
    unspaced.unspaced: _tail("[a-z]+"),
}
