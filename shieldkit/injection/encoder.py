"""The second stage: a small transformer that reads the windows which the sweep could not settle.

The first layers of all-MiniLM-L6-v2 (Wang et al. 2020; Apache-2.0), fine-tuned here (`training/encoder.py`), as int8 on
ONNX Runtime. Like the sweep it answers two logits, `direct` and `data`. More word pieces than it was trained on are read
in parts that overlap; nothing is cut off.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shieldkit.embedding.model import printable, wordpiece
from shieldkit.errors import ModelFileError

MOST_PIECES = 158
OVERLAP = 32
_FIELD = "guards.injection"


class Encoder:
    """Text to logits. Safe under threads."""

    def __init__(self, model: bytes, vocabulary: str, *, threads: int | None = None) -> None:
        """`model` is the ONNX file's content, `vocabulary` WordPiece's, a word a line. Raises `ModelFileError`."""
        try:
            import onnxruntime as runtime
        except ImportError:
            mend = "Install it: pip install onnxruntime tokenizers"
            raise ModelFileError(_FIELD, "the package onnxruntime is not installed", mend=mend) from None
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or min(2, len(os.sched_getaffinity(0)) if _affine else 2)
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave idle cores to the application
        try:
            self._session: Any = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            mend = "Install shieldkit anew"
            raise ModelFileError(_FIELD, f"encoder.onnx is no ONNX model ({type(error).__name__})", mend=mend) from None
        self._tokenizer = wordpiece(vocabulary)
        self._first, self._last = self._tokenizer.encode("").ids

    def read(self, text: str) -> NDArray[np.float32]:
        """The logits of a text, shape (2,): of its highest part, for each head.

        Each part is run by itself: int8 activations are scaled by what is run together, and the same text is to get
        the same answer in any company.
        """
        ids = self._tokenizer.encode(printable(text), add_special_tokens=False).ids
        return np.asarray(np.max([self._part(part) for part in _parts(ids)], axis=0), np.float32)

    def _part(self, ids: list[int]) -> NDArray[np.float32]:
        row = np.array([[self._first, *ids, self._last]], np.int64)
        return np.asarray(self._session.run(None, {"ids": row})[0][0], np.float32)


_affine = hasattr(os, "sched_getaffinity")


def _parts(ids: list[int]) -> list[list[int]]:
    if len(ids) <= MOST_PIECES:
        return [ids]
    step = MOST_PIECES - OVERLAP
    return [ids[start : start + MOST_PIECES] for start in range(0, len(ids) - OVERLAP, step)]
