"""How much of one text stands in another: runs of words, in linear time.

A text is taken as its words; every run of them is a shingle (Broder 1997). Containment is the share of the prompt's
shingles that the answer holds. It is robust to added and cut text, changed case and punctuation, and to a word changed
here and there; a paraphrase or translation has few shingles in common and is out of reach.

Scripts without blanks between words (UAX 14, classes ID and SA) have no words to be told apart without a dictionary: there
each character is taken by itself, and weighs as much of a word as it is on average. A run is four words, five Han
characters or ten letters of kana, Thai and their like: four letters would be one word, and every text has those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHINGLE = 4
MIN_WORDS = 6
TAIL_CHARS = 512

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Kana; Thai and Lao; Burmese; Khmer.
_LETTERS = (
    "\u3040-\u30ff\u31f0-\u31ff\U0001b000-\U0001b16f\u0e00-\u0eff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\u1780-\u17ff"
)
# One run of one class, or one character: linear also in the standard engine, and quicker to call.
_WORD = re.compile(rf"[^\W_{_HAN}{_LETTERS}]+|(?!\W)(?:([{_HAN}])|([{_LETTERS}]))")
_WEIGHTS = {None: 4, 1: 2, 2: 1}
"""In quarters of a word, by the group of `_WORD`: a Chinese word has about two characters, a Thai one four letters."""
RUN_WEIGHT = 10


@dataclass(frozen=True, slots=True)
class Overlap:
    """`share` of the prompt (0..1) that stands in the text, the span of the text from first to last of it, and its runs."""

    share: float
    start: int
    end: int
    runs: frozenset[str] = frozenset()


def _words(text: str, since: int = 0) -> list[tuple[str, int, int, int]]:
    """Each word, with where it starts and ends, and its weight."""
    return [(m.group().casefold(), m.start(), m.end(), _WEIGHTS[m.lastindex]) for m in _WORD.finditer(text, since)]


def shingles(text: str) -> Iterator[tuple[str, int, int]]:
    """From each word on the shortest run, with where it starts and ends."""
    words = _words(text)
    end = weight = 0
    for start, first in enumerate(words):
        while end - start < SHINGLE or weight < RUN_WEIGHT:
            if end == len(words):
                return
            weight += words[end][3]
            end += 1
        yield " ".join([word[0] for word in words[start:end]]), first[1], words[end - 1][2]
        weight -= first[3]


def pending(text: str) -> int:
    """Where the first run begins that the last word, which may be cut off, or what follows may belong to."""
    starts: list[int] = []
    for since in (max(0, len(text) - TAIL_CHARS), 0):
        words = _words(text, since)
        starts, weight = [start for _, start, _, _ in words], 0
        for count, (_, _, _, own) in enumerate(reversed(words[:-1]), 1):
            weight += own
            if count >= SHINGLE and weight >= RUN_WEIGHT:
                return starts[-count]
    return starts[0] if starts else len(text)


def runs_of(prompt: str) -> frozenset[str]:
    """The runs of words of a prompt, to look for with `containment`; none where there are too few words to tell."""
    if sum(weight for *_, weight in _words(prompt)) < MIN_WORDS * _WEIGHTS[None]:
        return frozenset()
    return frozenset(run for run, _, _ in shingles(prompt))


def containment(wanted: frozenset[str], text: str) -> Overlap | None:
    """How many of the `wanted` runs stand in `text`; None when none does."""
    found = [(run, start, end) for run, start, end in shingles(text) if run in wanted] if wanted else []
    if not found:
        return None
    runs = frozenset(run for run, _, _ in found)
    return Overlap(len(runs) / len(wanted), min(f[1] for f in found), max(f[2] for f in found), runs)


def together(wanted: frozenset[str], found: Sequence[Overlap]) -> Overlap:
    """What texts hold together, and the span over all of theirs."""
    runs = frozenset(run for each in found for run in each.runs)
    return Overlap(
        len(runs) / max(1, len(wanted)),
        min((f.start for f in found), default=0),
        max((f.end for f in found), default=0),
        runs,
    )
