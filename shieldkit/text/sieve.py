"""Where in a long text patterns can match at all: one pass of an RE2 set, block by block.

A set tells which of its patterns match a text, not where, at about the speed of reading (half a gigabyte a second),
and in linear time whatever the text (Cox 2010, "Regular Expression Matching in the Wild"). Asked block by block, it
leaves the places to be looked at closely: none, in most text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import re2

BLOCK, OVERLAP = 2048, 128
MAX_MEM = 64 << 20  # bytes; reached on hostile text alone

Window = tuple[int, int]
_NOTHING = [0]


def compiled(pattern: str) -> Any:
    """A pattern for narrowed text: a byte is a character."""
    return re2.compile(pattern.encode("latin-1"), _options())


def matches(pattern: Any, data: bytes, windows: Sequence[Window]) -> Iterator[Any]:
    """The matches that begin in one of the windows; they may end outside."""
    for start, end in windows:
        for match in pattern.finditer(data, start, min(len(data), end + OVERLAP)):
            if match.start() >= end:
                break
            yield match


def _options() -> Any:
    options = re2.Options()
    options.max_mem = MAX_MEM
    options.encoding = re2.Options.Encoding.LATIN1
    return options


class Sieve:
    """Groups of patterns over narrowed text (`folding.narrowed`). Safe to share between threads.

    A match of up to `OVERLAP` characters is never missed, wherever it stands. Counted repeats of more than a few make
    the automaton of all patterns together explode (`[a-z]{80,}` alone costs hundreds of megabytes on hostile text):
    leave them out, and look closely afterwards.
    """

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._set: Any = re2.Set.SearchSet(_options())
        # Matches every text: its absence says that the set could not do its work.
        self._set.Add(rb"\z")
        self._group = [-1]
        for number, patterns in enumerate(groups):
            for pattern in patterns:
                self._set.Add(pattern.encode("latin-1"))
                self._group.append(number)
        self._set.Compile()
        self._count = len(groups)

    def windows(self, data: bytes) -> list[list[Window]]:
        """For each group, where its matches begin: blocks, in order, those side by side as one."""
        found: list[list[Window]] = [[] for _ in range(self._count)]
        view, length = memoryview(data), len(data)
        for start in range(0, max(length, 1), BLOCK):
            end = min(start + BLOCK, length)
            matched: list[int] | None = self._set.Match(view[start : end + OVERLAP])
            if matched == _NOTHING:
                continue
            for number in self._groups(matched):
                windows = found[number]
                if windows and windows[-1][1] == start:
                    windows[-1] = (windows[-1][0], end)
                else:
                    windows.append((start, end))
        return found

    def _groups(self, matched: list[int] | None) -> set[int]:
        """All of them, when the set failed: what could not be ruled out is looked at."""
        if matched is None or 0 not in matched:
            return set(range(self._count))
        return {self._group[k] for k in matched if k}
