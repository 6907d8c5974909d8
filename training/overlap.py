"""Finds near copies: no text that is measured on may stand in what was trained on, also not in another source."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHINGLE = 7


def _shingles(text: str) -> set[int]:
    words = re.findall(r"\w+", text.casefold())
    if len(words) < SHINGLE:
        return {hash(tuple(words))} if words else set()
    return {hash(tuple(words[i : i + SHINGLE])) for i in range(len(words) - SHINGLE + 1)}


class Overlap:
    """Tells whether a text shares a fifth of its runs of seven words (or, if shorter, all of them) with any known one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._known: set[int] = set()
        for text in texts:
            self._known |= _shingles(text)

    def __contains__(self, text: object) -> bool:
        mine = _shingles(str(text))
        return bool(mine) and len(mine & self._known) >= max(1, len(mine) / 5)
