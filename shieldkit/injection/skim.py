"""The second stage: a small convolutional network over the encoder's embeddings, for what is around the sweep's peaks.

It sees the same pieces as the encoder, in the order in which they stand, and costs a fifteenth of half of its layers. Most peaks
of ordinary text are let go here. Like the sweep and the encoder it answers two logits, `direct` and `data`. The weights are made
by `training/skim.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shieldkit.injection.session import session


class Skim:
    """Embeddings to logits. Safe under threads."""

    def __init__(self, model: bytes) -> None:
        """`model` is the ONNX file's content. Raises `ModelFileError`."""
        self._session: Any = session("skim.onnx", model)

    def read(self, parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The logits of a text, shape (2,): of its highest part. `parts` are `Encoder.embedded`."""
        return np.asarray(np.max([self._session.run(None, {"x": x})[0][0] for x in parts], axis=0), np.float32)
