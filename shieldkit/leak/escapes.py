r"""Text as it is read out of JSON: `\u0041KIA…` in a string is a key as soon as somebody parses it.

Escapes are undone wherever they stand: in JSON they stand in strings alone, and an answer may have JSON in the middle of
prose. JSON may be in a string of JSON again (arguments of tool calls are), and so what is read is read once more.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

MAX_DEPTH = 3
"""How often escapes are undone in what was read out of escapes."""

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_MEANT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Unescaped:
    """A text without its escapes; `at` is where each stood in it, `longer` by how much the escapes up to there were longer."""

    text: str
    at: tuple[int, ...]
    longer: tuple[int, ...]

    def place(self, index: int) -> int:
        """Where in the text with escapes character number `index` begins, or the text ends."""
        before = bisect_left(self.at, index)
        return index + (self.longer[before - 1] if before else 0)


def unescaped(text: str) -> Iterator[tuple[str, list[Unescaped]]]:
    """What is read out of a text, out of that, and so on, each with the way back to the text."""
    way: list[Unescaped] = []
    while len(way) < MAX_DEPTH and "\\" in text:
        found = list(_ESCAPE.finditer(text))
        if not found:
            return
        longer = tuple(accumulate(match.end() - match.start() - 1 for match in found))
        at = tuple(match.start() - before for match, before in zip(found, (0, *longer), strict=False))
        text = _ESCAPE.sub(_character, text)
        way = [Unescaped(text, at, longer), *way]
        yield text, way


def place(way: list[Unescaped], index: int) -> int:
    """Where in the first text the character `index` of the last begins."""
    for text in way:
        index = text.place(index)
    return index


def _character(escape: re.Match[str]) -> str:
    if escape[2] is not None:
        return _MEANT.get(escape[2], escape[2])
    point = int(escape[1], 16)
    return "\ufffd" if 0xD800 <= point <= 0xDFFF else chr(point)  # halves of a pair: no key has those
