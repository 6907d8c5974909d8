"""A linear model over every position of a text.

Each feature has a weight; a window's evidence is the sum of the weights of its words. A running sum gives it for every
window in one pass, so that nothing is skipped at any length. Windows of 48 and of 16 words overlap by three quarters, so
that a short attack is not diluted by what stands around it, and a longer one stands whole in one of them. Scores are
calibrated: 0.5 is the evidence that one clean text in two hundred reaches (see the model card).
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shieldkit.errors import ModelFileError
from shieldkit.injection.features import SIZE, features, words

WINDOW = 48
STEP = 12
WINDOWS = ((WINDOW, STEP), (16, 4))
"""Size and step, in words."""
_FILE = Path(__file__).parent / "data" / "sweep.npz"
_SHA256 = "7d825cf1fd041e2b3c348b4c391ec40bf4356587b1596f5927c34a09fd8f8f31"


@dataclass(frozen=True, slots=True)
class Hit:
    """A window `[start, end)` of the text, and its calibrated score, 0..1."""

    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Head:
    """Weights for one kind of text: `weights` has `SIZE + 1` entries, the last one 0 for "no feature"."""

    weights: NDArray[np.float32]
    bias: float
    scale: float
    shift: float

    def score(self, evidence: float) -> float:
        """Calibrated: 0.5 at the evidence that the chosen share of clean texts reaches."""
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, self.scale * (evidence - self.shift)))))


@dataclass(frozen=True, slots=True)
class Sweep:
    """The detector's two heads: `direct` for what users say, `data` for documents and tool results."""

    direct: Head
    data: Head

    def hits(self, text: str, head: Head, least: float) -> tuple[float, list[Hit]]:
        """The highest score of any window of (canonical) `text`, and the windows from `least` on, merged where they overlap."""
        hashed, begins, ends = words(text)
        if not len(hashed):
            return 0.0, []
        evidence, first, last = window_evidence(head, hashed)
        top = head.score(float(evidence.max()))
        if top < least:
            return top, []
        bar = head.shift + math.log(least / (1.0 - least)) / head.scale if least > 0 else -math.inf
        found = [
            Hit(head.score(float(evidence[k])), int(begins[first[k]]), int(ends[last[k] - 1]))
            for k in np.flatnonzero(evidence >= bar).tolist()
        ]
        return top, list(_merged(sorted(found, key=lambda h: (h.start, h.end))))


def window_evidence(
    head: Head, hashed: NDArray[np.uint64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Evidence of each window, and its first and last (exclusive) word."""
    weights = head.weights[features(hashed)].sum(axis=1, dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    count = len(hashed)
    firsts, lasts = [], []
    for size, step in WINDOWS:
        first = np.arange(0, max(1, count - size + step), step, dtype=np.int64)
        firsts.append(first)
        lasts.append(np.minimum(first + size, count))
    first, last = np.concatenate(firsts), np.concatenate(lasts)
    return sums[last] - sums[first] + head.bias, first, last


def _merged(hits: list[Hit]) -> Iterator[Hit]:
    current: Hit | None = None
    for hit in hits:
        if current is not None and hit.start < current.end:
            current = Hit(max(current.score, hit.score), current.start, max(current.end, hit.end))
            continue
        if current is not None:
            yield current
        current = hit
    if current is not None:
        yield current


@lru_cache(maxsize=1)
def load() -> Sweep:
    """The shipped weights. Raises `ModelFileError` when the file is missing or is not the one that was measured."""
    data = _FILE.read_bytes() if _FILE.is_file() else b""
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise ModelFileError(_FILE.name, "is missing or changed", mend="Install shieldkit anew")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        heads = [
            Head(
                _unpacked(file[f"{name}_weights"], float(file[f"{name}_step"])),
                *map(float, file[f"{name}_calibration"]),
            )
            for name in ("direct", "data")
        ]
    return Sweep(*heads)


def _unpacked(packed: NDArray[np.int8], step: float) -> NDArray[np.float32]:
    """Weights are shipped as whole multiples of a step, which compresses well."""
    weights = np.zeros(SIZE + 1, np.float32)
    weights[:SIZE] = packed.astype(np.float32) * step
    return weights
