"""The third stage: a small transformer that reads the windows which sweep and skim could not settle.

Six layers of multilingual-e5-small (Wang et al. 2024; MIT), fine-tuned here (`training/encoder.py`), as int8 on ONNX Runtime,
in two halves: after the lower one most ordinary windows can be let go, the upper one reads the others to the end (early exit;
Xin et al. 2020, "DeeBERT"). Like the sweep it answers two logits, `direct` and `data`. More pieces than it was
trained on are read in parts that overlap; nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shieldkit.embedding.model import printable
from shieldkit.injection.pieces import unigram
from shieldkit.injection.session import session

MOST_PIECES = 158
OVERLAP = 32


class Encoder:
    """Text to logits. Safe under threads."""

    def __init__(
        self,
        words: bytes,
        lower: bytes,
        upper: bytes,
        pieces: Sequence[tuple[str, float]],
        let_go: NDArray[np.float32],
    ) -> None:
        """`words` (the embeddings), `lower` and `upper` are the ONNX files' content, `pieces` the vocabulary.

        What the lower half gives less than `let_go`, shape (2,), is not read further. Raises `ModelFileError`.
        """
        self._words = session("encoder_words.onnx", words)
        self._lower, self._upper = session("encoder_lower.onnx", lower), session("encoder_upper.onnx", upper)
        self._let_go = let_go
        self._tokenizer = unigram(pieces)
        self._first, self._last = self._tokenizer.encode("").ids

    def embedded(self, text: str) -> list[NDArray[np.float32]]:
        """What the first layer reads of a text: its parts, (1, pieces, width) each."""
        ids = self._tokenizer.encode(printable(text), add_special_tokens=False).ids
        rows = (np.array([[self._first, *part, self._last]], np.int64) for part in _parts(ids))
        return [self._words.run(None, {"ids": row})[0] for row in rows]

    def read(self, text: str, heads: Sequence[int] = (0, 1)) -> NDArray[np.float32]:
        """The logits of a text, shape (2,): of its highest part, for each head; read to the end if one of `heads` needs it.

        Each part is run by itself: int8 activations are scaled by what is run together, and the same text is to get
        the same answer in any company.
        """
        parts = self.embedded(text)
        return np.asarray(np.max([self._part(part, list(heads)) for part in parts], axis=0), np.float32)

    def _part(self, x: NDArray[np.float32], heads: list[int]) -> NDArray[np.float32]:
        hidden, early = self._lower.run(None, {"x": x})
        if (early[0] < self._let_go)[heads].all():
            return np.asarray(early[0], np.float32)
        return np.asarray(self._upper.run(None, {"hidden": hidden})[0][0], np.float32)


def _parts(ids: list[int]) -> list[list[int]]:
    if len(ids) <= MOST_PIECES:
        return [ids]
    step = MOST_PIECES - OVERLAP
    return [ids[start : start + MOST_PIECES] for start in range(0, len(ids) - OVERLAP, step)]
