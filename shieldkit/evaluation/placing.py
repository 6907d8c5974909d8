"""Where in a long text an attack can stand, and putting it there.

A guard may read lines, sentences, windows or whole segments, and a model heeds the start and the end of its context more
than the middle (Liu et al. 2023, "Lost in the Middle"): so the place is a part of the attack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

REACH = 2_000
"""A boundary is taken at most so many characters away from the depth that was asked for; else the text is cut there."""

_SENTENCE_END = re.compile(r"[.!?][)\"']?\s")
_TABLE = ("| item | note |\n| --- | --- |\n| 1 | as agreed |\n| 2 | ", " |\n| 3 | as agreed |\n")
_CODE = ('```python\ndef load(path):\n    """', '"""\n    return open(path).read()\n```\n')


@dataclass(frozen=True, slots=True)
class Buried:
    """Texts (one, or two where the place is the start of a segment), and where the attack stands in them."""

    texts: tuple[str, ...]
    text: int
    start: int
    end: int

    @property
    def attack(self) -> str:
        """The attack as it stands there; inside a table it has no line breaks."""
        return self.texts[self.text][self.start : self.end]


def _nearest(places: list[int], target: int, default: int) -> int:
    return min((p for p in places if abs(p - target) <= REACH), key=lambda p: abs(p - target), default=default)


def _line_start(text: str, target: int) -> int:
    before = text.rfind("\n", max(0, target - REACH), target) + 1
    after = text.find("\n", target, target + REACH) + 1
    places = [p for p in (before, after) if p] + [p for p in (0, len(text)) if abs(p - target) <= REACH]
    return _nearest(places, target, target)


def _sentence_start(text: str, target: int) -> int:
    first = max(0, target - REACH)
    ends = [first + m.end() for m in _SENTENCE_END.finditer(text[first : target + REACH])]
    blanks = [first + m.end() for m in re.finditer(r"\s", text[first : target + REACH])]
    return _nearest(ends, target, _nearest(blanks, target, target))


def _put(text: str, at: int, attack: str, before: str, after: str) -> Buried:
    start = at + len(before)
    return Buried((text[:at] + before + attack + after + text[at:],), 0, start, start + len(attack))


def _break(text: str, at: int) -> str:
    """A line break where the text has none before this place."""
    return "" if at == 0 or text[at - 1] == "\n" else "\n"


def _line(text: str, attack: str, target: int) -> Buried:
    at = _line_start(text, target)
    return _put(text, at, attack, _break(text, at), "\n")


def _line_begin(text: str, attack: str, target: int) -> Buried:
    at = _line_start(text, target)
    return _put(text, at, attack, _break(text, at), " ")


def _line_end(text: str, attack: str, target: int) -> Buried:
    at = _line_start(text, target)
    at -= at > 0 and text[at - 1] == "\n"
    return _put(text, at, attack, " ", "" if text[at : at + 1] == "\n" else "\n")


def _sentence(text: str, attack: str, target: int) -> Buried:
    at = _sentence_start(text, target)
    return _put(text, at, attack, "" if at == 0 or text[at - 1].isspace() else " ", " ")


def _table(text: str, attack: str, target: int) -> Buried:
    at = _line_start(text, target)
    return _put(text, at, " ".join(attack.splitlines()), _break(text, at) + _TABLE[0], _TABLE[1])


def _code(text: str, attack: str, target: int) -> Buried:
    at = _line_start(text, target)
    return _put(text, at, attack, _break(text, at) + _CODE[0], _CODE[1])


def _segment_start(text: str, attack: str, target: int) -> Buried:
    at = _line_start(text, target)
    rest = f"{attack}\n{text[at:]}"
    return Buried((text[:at], rest) if at else (rest,), 1 if at else 0, 0, len(attack))


def _before_answer(text: str, attack: str, target: int) -> Buried:
    return _put(text, len(text), attack, _break(text, len(text)) + "\n", "")


PLACEMENTS: Mapping[str, Callable[[str, str, int], Buried]] = {
    "line": _line,
    "line-start": _line_begin,
    "line-end": _line_end,
    "sentence": _sentence,
    "table": _table,
    "code": _code,
    "segment-start": _segment_start,
    "before-answer": _before_answer,
}
"""By name: a line of its own; at the start or the end of a line; between two sentences; in a cell of a table; in a
docstring of code; first in a segment of its own; last of all, right before the assistant's turn, whatever the depth."""


def bury(haystack: str, attack: str, depth: float, placement: str = "line") -> Buried:
    """Put `attack` into `haystack` at `depth` (0: its start, 1: its end), as `placement` says.

    Nothing of the haystack is lost or reordered. The place is within `REACH` characters of the depth, but for
    `before-answer`. Raises `ValueError` for a depth outside 0..1 and `KeyError` for a placement that is not in `PLACEMENTS`.
    """
    if not 0.0 <= depth <= 1.0:
        raise ValueError(f"a depth of {depth} is not within 0..1")
    return PLACEMENTS[placement](haystack, attack, round(depth * len(haystack)))
