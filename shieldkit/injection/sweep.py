"""The first stage: a small convolutional network over words that reads every position of a text.

Four convolutions with growing gaps see 31 words around each position (Kim 2014; Yu and Koltun 2016 for the gaps), each
position gets two logits: `direct` for what users say, `data` for documents and tool results. Half of them is the mean over the
words next to it, since what stands out alone is seldom an attack. Nothing is skipped, cost is linear in length, and what a
position gets depends on the 35 words around it alone, wherever they stand. The weights are made by
`training/sweep_model.py`; ONNX Runtime does the arithmetic, in pieces that fit a processor's cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shieldkit.injection.features import Places, Vocabulary, words
from shieldkit.injection.parallel import in_parallel
from shieldkit.injection.session import session

Floats = NDArray[np.float32]
GAPS = (1, 2, 4, 8)
NEAR = 2
"""How many words to each side of a position count for half of its logits."""
REACH = sum(GAPS) + NEAR
"""How many words to each side of a position it sees."""
_PIECE = 4096
_PART = 1 << 16  # characters
_BLANK = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Swept:
    """Where the words of a text begin, in characters, the `logits` of each, (words, 2) or what was made of them, and the
    highest logit of each head, `top` (2,).
    """

    begins: Places
    logits: Floats
    top: Floats


class Sweep:
    """The network, and the words that it knows. Safe under threads."""

    def __init__(self, vocabulary: Vocabulary, model: bytes) -> None:
        """`model` is the ONNX file's content: rows of the vocabulary, (words,), to logits, (words, 2).

        Beyond both ends of what it is given stand zeros, in every layer. Raises `ModelFileError`.
        """
        self.vocabulary = vocabulary
        self._session: Any = session("sweep.onnx", model)

    def read(self, text: str, of: Callable[[Floats], Floats] = lambda logits: logits) -> Swept:
        """Read all of a (canonical) text. `of` is applied piece by piece, in two threads, so that not all logits are kept."""
        rows, begins = self._words(text)
        if not len(rows):
            return Swept(begins, of(np.zeros((0, 2), np.float32)), np.full(2, -np.inf, np.float32))
        if len(rows) <= _PIECE:
            logits = self._piece(rows, 0, len(rows))
            top = logits.max(axis=0)
            return Swept(begins, of(logits), top)
        kept = np.empty((len(rows), *of(np.zeros((0, 2), np.float32)).shape[1:]), np.float32)

        def piece(start: int) -> Floats:
            logits = self._piece(rows, start, min(start + _PIECE, len(rows)))
            kept[start : start + _PIECE] = of(logits)
            return np.asarray(logits.max(axis=0))

        return Swept(begins, kept, np.max(in_parallel(piece, range(0, len(rows), _PIECE)), axis=0))

    def _words(self, text: str) -> tuple[NDArray[np.uint16], Places]:
        """Row and begin of each word, made in parts of the text so that the memory it takes stays small."""
        of_rows: list[NDArray[np.uint16]] = []
        of_begins: list[Places] = []
        start = 0
        while not of_rows or start < len(text):
            blank = _BLANK.search(text, start + _PART)
            end = blank.end() if blank else len(text)
            part = text[start:end]
            hashed, begins, ends = words(part)
            of_rows.append(self.vocabulary.numbers(part, hashed, begins, ends))
            of_begins.append((begins + start).astype(np.int32))
            start = end
        if len(of_rows) == 1:
            return of_rows[0], of_begins[0]
        rows = np.concatenate(of_rows)
        of_rows.clear()
        return rows, np.concatenate(of_begins)

    def _piece(self, rows: NDArray[np.uint16], start: int, end: int) -> Floats:
        """Positions `[start, end)`, from what they can see: what is nearer to a cut than that is wrong, and left out."""
        low, high = max(0, start - REACH), min(len(rows), end + REACH)
        logits: Floats = self._session.run(None, {"rows": rows[low:high]})[0]
        return logits[start - low : end - low]
