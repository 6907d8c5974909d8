"""How much of one text stands in another: runs of words, in linear time.

A text is taken as its words; every run of `SHINGLE` of them is a shingle (Broder 1997). Containment is the share of the
prompt's shingles that the answer holds. It is robust to added and cut text, changed case and punctuation, and to a word
changed here and there; a paraphrase or translation has few shingles in common and is out of reach.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHINGLE = 4
MIN_WORDS = 6
TAIL_CHARS = 512

_WORD = re.compile(r"[^\W_]+")  # one run of one class: linear also in the standard engine, and quicker to call


@dataclass(frozen=True, slots=True)
class Overlap:
    """`share` of the prompt (0..1) that stands in the text, and the span of the text from first to last of it."""

    share: float
    start: int
    end: int


def shingles(text: str) -> list[tuple[str, int, int]]:
    """Each run of words, with where it starts and ends."""
    words = [(m.group().casefold(), m.start(), m.end()) for m in _WORD.finditer(text)]
    return [
        (" ".join(w[0] for w in words[i : i + SHINGLE]), words[i][1], words[i + SHINGLE - 1][2])
        for i in range(len(words) - SHINGLE + 1)
    ]


def pending(text: str) -> int:
    """Where the last `SHINGLE` words begin: with what follows, or cut off as the last may be, they may be in a run."""
    starts = [match.start() for match in _WORD.finditer(text, max(0, len(text) - TAIL_CHARS))]
    if len(starts) < SHINGLE and len(text) > TAIL_CHARS:
        starts = [match.start() for match in _WORD.finditer(text)]
    return starts[-SHINGLE:][0] if starts else len(text)


def runs_of(prompt: str) -> frozenset[str]:
    """The runs of words of a prompt, to look for with `containment`."""
    return frozenset(run for run, _, _ in shingles(prompt))


def containment(wanted: frozenset[str], text: str) -> Overlap | None:
    """How many of the `wanted` runs stand in `text`; None when none does, or there are too few to tell."""
    if len(wanted) < MIN_WORDS - SHINGLE + 1:
        return None
    found = [(run, start, end) for run, start, end in shingles(text) if run in wanted]
    if not found:
        return None
    share = len({run for run, _, _ in found}) / len(wanted)
    return Overlap(share, min(f[1] for f in found), max(f[2] for f in found))
