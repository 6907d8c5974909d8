"""The first stage: a small convolutional network over words that reads every position of a text.

Four convolutions with growing gaps see 31 words around each position (Kim 2014; Yu and Koltun 2016 for the gaps), each
position gets two logits: `direct` for what users say, `data` for documents and tool results. Half of them is the mean over the
words next to it, since what stands out alone is seldom an attack. Nothing is skipped, cost is linear in length, and what a
position gets depends on the 35 words around it alone, wherever they stand. The weights are made by
`training/sweep_model.py`; the arithmetic here is numpy's, in pieces that fit a processor's cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shieldkit.injection.features import Places, Vocabulary, words
from shieldkit.injection.parallel import in_parallel

Floats = NDArray[np.float32]
GAPS = (1, 2, 4, 8)
NEAR = 2
"""How many words to each side of a position count for half of its logits."""
REACH = sum(GAPS) + NEAR
"""How many words to each side of a position it sees."""
_PIECE, _SLICE = 4096, 128
_PART = 1 << 18  # characters
_BLANK = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Swept:
    """Where the words of a text begin, in characters, the `logits` of each, (words, 2) or what was made of them, and the
    highest logit of each head, `top` (2,).
    """

    begins: Places
    logits: Floats
    top: Floats


@dataclass(frozen=True, slots=True)
class Sweep:
    """The network. `embeddings` (rows, 32); `kernels` three matrices a layer; `head` (channels, 2)."""

    vocabulary: Vocabulary
    embeddings: Floats
    kernels: tuple[tuple[Floats, Floats, Floats], ...]
    biases: tuple[Floats, ...]
    head: Floats
    head_bias: Floats

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> Sweep:
        """From the arrays that training writes."""
        table = arrays["embeddings"].astype(np.float32) * arrays["embedding_scale"].astype(np.float32)
        layers = range(len(GAPS))
        return cls(
            Vocabulary.of(arrays["vocabulary"]),
            table,
            tuple(_three(arrays[f"kernel{i}"]) for i in layers),
            tuple(arrays[f"bias{i}"].astype(np.float32) for i in layers),
            arrays["head"].astype(np.float32),
            arrays["head_bias"].astype(np.float32),
        )

    def read(self, text: str, of: Callable[[Floats], Floats] = lambda logits: logits) -> Swept:
        """Read all of a (canonical) text. `of` is applied piece by piece, in two threads, so that not all logits are kept."""
        rows, begins = self._words(text)
        kept = np.empty((len(rows), *of(np.zeros((0, 2), np.float32)).shape[1:]), np.float32)

        def piece(start: int) -> Floats:
            logits = self._piece(rows, start, min(start + _PIECE, len(rows)))
            kept[start : start + _PIECE] = of(logits)
            return np.asarray(logits.max(axis=0))

        tops = in_parallel(piece, range(0, len(rows), _PIECE))
        return Swept(begins, kept, np.max(tops, axis=0) if tops else np.full(2, -np.inf, np.float32))

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
        rows = np.concatenate(of_rows)
        of_rows.clear()
        return rows, np.concatenate(of_begins)

    def _piece(self, rows: NDArray[np.uint16], start: int, end: int) -> Floats:
        """Positions `[start, end)`, from what they can see. Beyond the text's ends stand zeros, in every layer."""
        first, last = start - REACH, end + REACH
        low, high = max(0, first), min(len(rows), last)
        x = np.zeros((last - first, self.embeddings.shape[1]), np.float32)
        x[low - first : high - first] = self.embeddings[rows[low:high]]
        for (before, here, after), bias, gap in zip(self.kernels, self.biases, GAPS, strict=True):
            size = len(x) - 2 * gap
            y = _product(x[:size], before)
            y += _product(x[gap : gap + size], here)
            y += _product(x[2 * gap :], after)
            y += bias
            np.maximum(y, 0.0, out=y)
            first, last = first + gap, last - gap
            if first < 0:
                y[:-first] = 0.0
            if last > len(rows):
                y[len(rows) - first :] = 0.0
            x = y
        return _steadied(_product(x, self.head) + self.head_bias, first, len(rows))


def _product(x: Floats, matrix: Floats) -> Floats:
    """`x @ matrix`, in products so small that the library for them does not spread each over threads that wait for each other."""
    if len(x) <= 2 * _SLICE:
        return np.asarray(x @ matrix)
    many = len(x) // _SLICE * _SLICE
    y = np.empty((len(x), matrix.shape[1]), np.float32)
    np.matmul(x[:many].reshape(-1, _SLICE, x.shape[1]), matrix, out=y[:many].reshape(-1, _SLICE, matrix.shape[1]))
    np.matmul(x[many:], matrix, out=y[many:])
    return y


def _steadied(logits: Floats, first: int, words: int) -> Floats:
    """Logits of positions from `first` on, with the mean over up to `NEAR` words to each side as half of each.

    The `NEAR` positions at both ends are there for that alone. What lies beyond the text's `words` is not counted.
    """
    inside = np.zeros((len(logits), 1), np.float32)
    inside[max(0, -first) : words - first] = 1.0
    logits *= inside
    size = len(logits) - 2 * NEAR
    around, count = np.zeros((size, logits.shape[1]), np.float32), np.zeros((size, 1), np.float32)
    for shift in range(2 * NEAR + 1):
        around += logits[shift : shift + size]
        count += inside[shift : shift + size]
    return np.asarray((logits[NEAR : NEAR + size] + around / count) / 2)


def _three(kernel: Any) -> tuple[Floats, Floats, Floats]:
    """(3, in, out) as three matrices."""
    before, here, after = np.ascontiguousarray(kernel, np.float32)
    return before, here, after
