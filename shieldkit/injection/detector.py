"""The cascade: the sweep reads every position, the encoder what the sweep cannot settle.

Most ordinary text is settled by the sweep alone. A window around each peak is read by the encoder: every peak that is as
high as one in a thousand ordinary windows, and up to `MOST_LIKELY` lower ones, so that a short text is read with more
care than its share of a long one. Logits become scores by a logistic map per head and stage (Platt 1999), made on
sources that the weights had not seen; 0.5 stands for the same share of false alarms in each.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from shieldkit.embedding.model import vocabulary
from shieldkit.errors import ModelFileError
from shieldkit.injection.encoder import Encoder
from shieldkit.injection.sweep import Sweep
from shieldkit.injection.windows import WINDOW, Window, around_peaks
from shieldkit.text import Canonical, digest

DIRECT, DATA = 0, 1
MOST_LIKELY = 192
HIGHEST = (9.0, 10.5)
"""Logits that no window reaches: of 3,956 windows of the development corpora the highest got 8.3 (direct) and 9.9 (data)."""
REPORTED = 0.3
_CACHED_VIEWS = 16_384
_FOLDER = Path(__file__).parent / "data"
_SHA256 = {
    "sweep.npz": "0da0a092a41447081b25695c1f3c2a296751da2865f42cb637a3e0fb786649d1",
    "encoder.onnx": "2cbcaaa4a381460bbc572585620db05c0b337fe4f0d4018249b9b44489acaef1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hit:
    """A window `[start, end)` of the original text, and its calibrated score, 0..1."""

    score: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The highest score of any window, the hits from `REPORTED` on, and how many windows the encoder read.

    `complete` is False when the text holds more encoded text than was decoded.
    """

    score: float
    hits: tuple[Hit, ...] = ()
    encoded: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage's map from logits to scores, for each head: `1 / (1 + exp(-scale * (logit - shift)))`."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    def score(self, logits: NDArray[np.float32], heads: list[int]) -> float:
        """The higher score of the heads asked."""
        odds = self.scale[heads] * (logits[heads].astype(np.float64) - self.shift[heads])
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, float(odds.max())))))


class Detector:
    """Sweep and encoder with their calibration. Safe under threads; remembers windows by keyed digest, never text."""

    def __init__(self, sweep: Sweep, encoder: Encoder, calibration: NDArray[np.float64]) -> None:
        """`calibration` has a row a head: sweep scale and shift, encoder scale and shift, likely, certain."""
        self.sweep, self.encoder = sweep, encoder
        self._swept = Stage(calibration[:, 0], calibration[:, 1])
        self._encoded = Stage(calibration[:, 2], calibration[:, 3])
        self._likely, self._certain = calibration[:, 4].astype(np.float32), calibration[:, 5].astype(np.float32)
        self._cache: LRUCache[bytes, NDArray[np.float32]] = LRUCache(_CACHED_VIEWS)
        self._lock = threading.Lock()

    def judge(
        self,
        canonical: Canonical,
        *,
        data: bool = False,
        most_likely: int = MOST_LIKELY,
        proceed: Callable[[], bool] = lambda: True,
    ) -> Judgement:
        """Judge a text and all that is decoded from it. `proceed` is asked before each window; `TimeoutError` on no.

        What tries to override instructions has no place in data either: with `data`, both heads are asked.
        """
        found = [self._read(canonical.text, data, most_likely, proceed)]
        top, hits, encoded = found[0].score, [], found[0].encoded
        hits += [Hit(h.score, *canonical.span(h.start, h.end)) for h in found[0].hits]
        for child in canonical.children:
            inner = self._read(child.text, data, most_likely, proceed)
            top, encoded = max(top, inner.score), encoded + inner.encoded
            if inner.hits:
                hits.append(Hit(inner.score, child.start, child.end))
        hits = _merged(sorted(hits, key=lambda h: (h.start, h.end)))
        return Judgement(top, tuple(hits), encoded, canonical.complete)

    def _read(self, text: str, data: bool, most: int, proceed: Callable[[], bool]) -> Judgement:
        heads = [DIRECT, DATA] if data else [DIRECT]
        swept = self.sweep.read(text)
        if not len(swept.logits):
            return Judgement(0.0)
        # How far above what is likely to be an attack, for the head that is most so: 0 is likely, 1 is certain.
        margin = swept.logits[:, heads] - self._likely[heads]
        margin /= self._certain[heads] - self._likely[heads]
        windows = around_peaks(
            margin.max(axis=1), swept.begins, swept.ends, len(text), certain=1.0, likely=0.0, most=most
        )
        top = self._swept.score(swept.logits.max(axis=0), heads) if not windows else 0.0
        hits: list[Hit] = []
        for window in windows:
            if not proceed():
                raise TimeoutError
            score = self._score(window, text, heads)
            top = max(top, score)
            if score >= REPORTED:
                hits.append(Hit(score, window.start, window.end))
        return Judgement(top, tuple(hits), len(windows))

    def _score(self, window: Window, text: str, heads: list[int]) -> float:
        """The score of the mean of the window's two views: its line first, the rest only where that can matter.

        A line so low that not even a whole window of `HIGHEST` would make an alarm is read alone.
        """
        logits = self._logits(window.line(text))
        if len(text) <= WINDOW or ((logits + np.array(HIGHEST)) / 2 >= self._encoded.shift)[heads].any():
            logits = (logits + self._logits(window.whole(text))) * np.float32(0.5)
        return self._encoded.score(logits, heads)

    def _logits(self, view: str) -> NDArray[np.float32]:
        """The encoder's logits of a view, from memory where it has read the same before."""
        key = digest(view)
        with self._lock:
            known = self._cache.get(key)
        if known is None:
            known = self.encoder.read(view)
            with self._lock:
                self._cache[key] = known
        return known


def _merged(hits: list[Hit]) -> list[Hit]:
    """Hits that overlap as one."""
    merged: list[Hit] = []
    for hit in hits:
        if merged and hit.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Hit(max(last.score, hit.score), last.start, max(last.end, hit.end))
        else:
            merged.append(hit)
    return merged


@lru_cache(maxsize=1)
def load() -> Detector:
    """The shipped weights. Raises `ModelFileError` when a file is missing or is not the one that was measured."""
    with np.load(io.BytesIO(_verified("sweep.npz")), allow_pickle=False) as file:
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    encoder = Encoder(_verified("encoder.onnx"), vocabulary())
    return Detector(Sweep.of(arrays), encoder, arrays["calibration"].astype(np.float64))


def _verified(name: str) -> bytes:
    path = _FOLDER / name
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != _SHA256[name]:
        raise ModelFileError(name, "is missing or changed", mend="Install shieldkit anew")
    return data
