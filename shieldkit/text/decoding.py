"""All decoders, and the one sweep that says which of them has anything to do, and where.

A decoder looks at folded text or, where case or format characters matter, at the original. Each comes with patterns for
what must be there for it to find anything; two passes of an RE2 set over the text (`sieve.py`), or three where folding
changes more than case, lead to the blocks that have it, a closer look to the places, and only there it is run. Text that has
none of it pays for the passes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from shieldkit.text import encodings, joints, literals, mail, pieces, spellings, unspaced
from shieldkit.text.folding import Characters, Folded
from shieldkit.text.regions import LINE, MARGIN, Decoded
from shieldkit.text.sieve import OVERLAP, Sieve, Window, compiled

STACKED = frozenset({"base64", "hex", "codes", "escapes"})
"""Encodings that may be laid over themselves; rot13 and the like undo themselves."""

Read: TypeAlias = Callable[[str], Iterator[Decoded]]


LOOK, STEP = 4096, 256
"""How many characters are searched at once, and after a match taken without another search."""


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """`read` runs where one of `triggers` matches, on that much more of the text to both sides as `reach` says.

    What would need many states of the automaton of all triggers together is looked for only where they match: `closely`.
    """

    read: Read
    triggers: tuple[str, ...]
    reach: int = 2 * MARGIN
    whole_runs: bool = False
    closely: tuple[str, ...] = ()


ORIGINAL = (
    Decoder(encodings.blobs, encodings.BLOBS, whole_runs=True),
    Decoder(mail.utf7, mail.UTF7, whole_runs=True),
    Decoder(pieces.encoded, pieces.ENCODED, closely=pieces.ENCODED_CLOSELY),
)
BY_SIGNS = (
    Decoder(encodings.escapes, encodings.ESCAPES),
    Decoder(mail.quoted, mail.QUOTED),
    Decoder(literals.names, literals.NAMES),
    Decoder(encodings.spaced_hex, encodings.SPACED_HEX),
    Decoder(encodings.codes, encodings.CODES),
    Decoder(spellings.spaced, spellings.SPACED),
    Decoder(joints.tags, joints.TAGS),
    Decoder(joints.soft_ends, joints.SOFT),
    Decoder(spellings.leet, spellings.LEET, 2 * (LINE + MARGIN)),
    Decoder(spellings.morse, spellings.MORSE),
    Decoder(literals.words, literals.WORDS),
)
# One automaton of these and the others would have four times the states of both: too many for a processor's cache.
BY_WORDS = (
    Decoder(spellings.marked, spellings.MARKED),
    Decoder(spellings.rot13, spellings.ROT13, LINE + MARGIN),
    Decoder(spellings.backwards, spellings.BACKWARDS, LINE + MARGIN),
    Decoder(unspaced.unspaced, unspaced.UNSPACED),
)
FOLDED = (*BY_SIGNS, *BY_WORDS)


@lru_cache(maxsize=16)
def _trigger(triggers: tuple[str, ...]) -> Any:
    return compiled("|".join(f"(?:{trigger})" for trigger in triggers))


@lru_cache(maxsize=3)
def _sieve(decoders: tuple[Decoder, ...]) -> Sieve:
    return Sieve([decoder.triggers for decoder in decoders])


@lru_cache(maxsize=1)
def _sieve_of_both() -> Sieve:
    """The triggers of `ORIGINAL` and `BY_SIGNS`, on text that folds to lower case alone."""
    on_original = [decoder.triggers for decoder in ORIGINAL]
    on_folded = [tuple(f"(?i:{trigger})" for trigger in decoder.triggers) for decoder in BY_SIGNS]
    return Sieve([*on_original, *on_folded])


def decoded(text: str, read: Characters, folded: Folded) -> tuple[Iterator[Decoded], Iterator[Decoded]]:
    """All that is decoded from a text: where it stands in the original, and where in folded text."""
    if len(read.odd):
        windows = _sieve(ORIGINAL).windows(read.data) + _sieve(BY_SIGNS).windows(folded.data)
    else:
        windows = _sieve_of_both().windows(read.data)
    windows += _sieve(BY_WORDS).windows(folded.data)
    on_original = _decoded(ORIGINAL, text, read.data, windows[: len(ORIGINAL)])
    on_folded = _decoded(FOLDED, folded.text, folded.data, windows[len(ORIGINAL) :])
    if len(read.odd):
        on_original = chain(
            on_original, encodings.selectors(read), joints.invisible(text, read), joints.breaks(text, read)
        )
    return on_original, chain(on_folded, pieces.chunks(folded))


def _decoded(decoders: tuple[Decoder, ...], text: str, data: bytes, found: list[list[Window]]) -> Iterator[Decoded]:
    for decoder, windows in zip(decoders, found, strict=True):
        for start, end in _widened(decoder, data, _spots(decoder, data, windows)) if windows else ():
            for part in decoder.read(text[start:end]):
                yield replace(part, start=start + part.start, end=start + part.end)


def _spots(decoder: Decoder, data: bytes, windows: list[Window]) -> Iterator[Window]:
    """Where in the windows its triggers match: each match with what is passed over after it, in which there may be more.

    A search may read to the end of what it is given: without a `STEP` between them, many matches would cost as many readings.
    """
    trigger = _trigger(decoder.closely or decoder.triggers)
    for start, end in windows:
        # Windows begin where a block of the sieve does: what is an edge there is one here.
        for low in range(start, end, LOOK):
            high, at = min(end, low + LOOK), 0
            block = data[low : high + OVERLAP]
            while (match := trigger.search(block, at)) is not None and low + match.start() < high:
                at = match.end() + STEP
                yield low + match.start(), low + at


def _widened(decoder: Decoder, data: bytes, spots: Iterator[Window]) -> Iterator[Window]:
    """The spots with what a decoder reads around them; what touches becomes one."""
    before: Window | None = None
    for start, end in spots:
        if before is not None and end + OVERLAP + decoder.reach <= before[1]:
            continue
        low, high = max(0, start - decoder.reach), min(len(data), end + OVERLAP + decoder.reach)
        if decoder.whole_runs:
            low, high = encodings.whole_runs(data, low, high, before[1] if before is not None else 0)
        if before is not None and low <= before[1]:
            before = before[0], max(high, before[1])
            continue
        if before is not None:
            yield before
        before = low, high
    if before is not None:
        yield before
