"""The cascade: the sweep reads every position, the encoder what the sweep cannot settle.

Most ordinary text is settled by the sweep alone. A window around each peak is read by the encoder: every peak that is as
high as one in a thousand ordinary windows, up to `MOST_LIKELY` lower ones, and in a short text all but the lowest, so
that it is read with more care than its share of a long one. Logits become scores by a logistic map per head and stage
(Platt 1999), made on sources that the weights had not seen; 0.5 stands for the same share of false alarms in each.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from shieldkit.errors import ModelFileError
from shieldkit.injection.encoder import Encoder
from shieldkit.injection.sweep import Sweep
from shieldkit.injection.windows import WINDOW, Window, around_peaks
from shieldkit.text import Canonical, digest
from shieldkit.text.canonical import Child

Native: TypeAlias = Callable[[int, int], str]
"""A part of a text as it was written (`Canonical.native`)."""
DIRECT, DATA = 0, 1
MOST_LIKELY = 288
CLOSELY = 16
"""How many windows of a text are read whole; of the others first what is next to the peak, which says for most that there
is nothing, in half of the time.
"""
GLANCE = -3.0
"""Logits: a window of which what is next to its peak is lower is let go: 81 in 100 windows of the haystacks, and none of 140
attacks that were found.
"""
HIGHEST = (8.0, 8.0)
"""Logits that no window reaches: of the first windows of 1,400 attacks the highest got 6.4 (direct) and 7.1 (data)."""
LINE = 0.2
"""How much the line of the peak counts by itself; the rest is the whole window's."""
ALONE = 1.5
"""How much lower a line counts whatever stands around it."""
WHATEVER = 1.0
"""How much lower a whole window counts whatever the line of its peak is: that may be what stands beside an attack."""
PLAIN = 0.5
"""From which height of a peak on (1 is certain) its line may be an attack that the whole window does not show."""
PEAK, HIGHEST_PEAK = 0.5, 2.0
"""What a sweep's peak that is certain adds to the encoder's logits, and how many times that at the most."""
HIDDEN = 2.0
"""What is added to the logits of a short text of a user that was hidden: who asks for something harmless need not."""
LEAST_HIDDEN = 3
"""Words that could not be read before they were decoded: fewer are an escape in an address, or a tag."""
SHORT = 2000
"""Characters: up to there the encoder reads all but what the sweep is sure of, since it costs little; and 0.5 stands for one
false alarm in 175 texts of users, not for so many a million tokens."""
REPORTED = 0.3
_CACHED_VIEWS = 16_384
_WORD = re.compile(r"\w{2,}")
_FOLDER = Path(__file__).parent / "data"
_SHA256 = {
    "sweep.npz": "1a99e4b4c33a84236178d8215cc1e16db532b3e6bdd3d28a6aa21d3ea5bb8bdf",
    "encoder_lower.onnx": "d1d9efb1d4c6c49b048611c1042537f0a26535b8ec799495686b046cba8d9ead",
    "encoder_upper.onnx": "79a43b5967c15e39894b2e080aa63822c82637df69723177d712fcd0f2f65ad8",
    "pieces.json": "c0f66d368ffbef6881229b29c6578d85d2846ef9258f0bb7f5f59cf74fe8e1eb",
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
        """`calibration` has a row a head: sweep scale and shift, encoder scale and shift, likely, certain, let go, least, and
        the encoder's shift for short texts of users.
        """
        self.sweep, self.encoder = sweep, encoder
        self._swept = Stage(calibration[:, 0], calibration[:, 1])
        self._encoded = Stage(calibration[:, 2], calibration[:, 3])
        self._brief = Stage(calibration[:, 2], calibration[:, 8])
        likely, certain, least = calibration[:, 4], calibration[:, 5], calibration[:, 7]
        self._likely, self._certain = likely.astype(np.float32), certain.astype(np.float32)
        self._least = (least - likely) / (certain - likely)
        self._cache: LRUCache[bytes, NDArray[np.float32]] = LRUCache(_CACHED_VIEWS)
        self._lock = threading.Lock()

    def judge(
        self,
        canonical: Canonical,
        *,
        data: bool = False,
        by_user: bool = True,
        most_likely: int = MOST_LIKELY,
        proceed: Callable[[], bool] = lambda: True,
    ) -> Judgement:
        """Judge a text and all that is decoded from it. `proceed` is asked before each window; `TimeoutError` on no.

        What tries to override instructions has no place in data either: with `data`, both heads are asked. The threshold of
        short texts holds for what comes `by_user`, on which it was set.
        """
        # What is decoded out of a long text is as long: there may be much of it.
        short = len(canonical.text) <= SHORT
        brief = short and by_user and not data
        stage, hidden = (self._brief, HIDDEN) if brief else (self._encoded, 0.0)
        read = partial(self._read, data=data, short=short, stage=stage, most=most_likely, proceed=proceed)
        found = [read(canonical.text, canonical.native, more=hidden if brief and canonical.disguised else 0.0)]
        top, hits, encoded = found[0].score, [], found[0].encoded
        hits += [Hit(h.score, *canonical.span(h.start, h.end)) for h in found[0].hits]
        for child in canonical.children:
            more = hidden if hidden and _hid(child, canonical) else 0.0
            inner = read(child.text, partial(_slice, child.text), more=more)
            top, encoded = max(top, inner.score), encoded + inner.encoded
            if inner.hits:
                hits.append(Hit(inner.score, child.start, child.end))
        hits = _merged(sorted(hits, key=lambda h: (h.start, h.end)))
        return Judgement(top, tuple(hits), encoded, canonical.complete)

    def _read(
        self,
        text: str,
        native: Native,
        *,
        more: float,
        data: bool,
        short: bool,
        stage: Stage,
        most: int,
        proceed: Callable[[], bool],
    ) -> Judgement:
        heads = [DIRECT, DATA] if data else [DIRECT]

        def margin(logits: NDArray[np.float32]) -> NDArray[np.float32]:
            # How far above what is likely to be an attack, for the head that is most so: 0 is likely, 1 is certain.
            above = logits[:, heads] - self._likely[heads]
            above /= self._certain[heads] - self._likely[heads]
            return np.asarray(above.max(axis=1), np.float32)

        swept = self.sweep.read(text, margin)
        if not len(swept.logits):
            return Judgement(0.0)
        likely = float(self._least[heads].min()) if short else 0.0
        windows = around_peaks(swept.logits, swept.begins, text, certain=1.0, likely=likely, most=most)
        top = self._swept.score(swept.top, heads) if not windows else 0.0
        hits: list[Hit] = []
        for rank, window in enumerate(windows):
            if not proceed():
                raise TimeoutError
            glance = rank >= CLOSELY and window.peak < PLAIN
            score = self._score(window, text, native, heads, stage, more, glance)
            top = max(top, score)
            if score >= REPORTED:
                hits.append(Hit(score, window.start, window.end))
        return Judgement(top, tuple(hits), len(windows))

    def _score(
        self, window: Window, text: str, native: Native, heads: list[int], stage: Stage, more: float, glance: bool
    ) -> float:
        """The score of both views of a window, and of its peak: the whole first, its line only where that can matter.

        That is in a short text, at a plain peak, and where a line of `HIGHEST` would make an alarm of the whole. At a `glance`
        what is next to the peak comes first, and may settle it.
        """
        from_sweep = np.float32(PEAK * min(window.peak, HIGHEST_PEAK) + more)
        if glance:
            near = self.view(text, native, *window.near(), heads)
            if (near < GLANCE)[heads].all():
                return stage.score(near + from_sweep, heads)
        logits = whole = self.view(text, native, window.start, window.end, heads)
        could_be = LINE * np.array(HIGHEST) + (1 - LINE) * whole + from_sweep
        if len(text) <= WINDOW or window.peak >= PLAIN or (could_be >= stage.shift)[heads].any():
            logits = together(self.view(text, native, *window.line(text), heads), whole)
        return stage.score(logits + from_sweep, heads)

    def view(self, text: str, native: Native, start: int, end: int, heads: list[int]) -> NDArray[np.float32]:
        """The encoder's logits of a part of a text; the higher ones where its words stand for others as they were written."""
        folded, written = text[start:end], native(start, end)
        logits = self._logits(folded, heads)
        return logits if written == folded else np.maximum(logits, self._logits(written, heads))

    def _logits(self, view: str, heads: list[int]) -> NDArray[np.float32]:
        """The encoder's logits of a view, from memory where it has read the same before."""
        key = digest(view) + bytes(heads)
        with self._lock:
            known = self._cache.get(key)
        if known is None:
            known = self.encoder.read(view, heads)
            with self._lock:
                self._cache[key] = known
        return known


def _hid(child: Child, canonical: Canonical) -> bool:
    """Whether most words of what was decoded could not be read before: not an address or a tag with an escape in it."""
    words, read = (
        set(_WORD.findall(text)) for text in (child.text, canonical.original[child.start : child.end].lower())
    )
    return len(words - read) >= max(LEAST_HIDDEN, len(words) / 2)


def _slice(text: str, start: int, end: int) -> str:
    return text[start:end]


def together(line: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of a window, from those of its two views."""
    both = LINE * line + (1 - LINE) * whole
    return np.asarray(np.maximum(both, np.maximum(line - ALONE, whole - WHATEVER)), np.float32)


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
    calibration = arrays["calibration"].astype(np.float64)
    let_go = calibration[:, 6].astype(np.float32)
    pieces = json.loads(_verified("pieces.json"))
    encoder = Encoder(_verified("encoder_lower.onnx"), _verified("encoder_upper.onnx"), pieces, let_go)
    return Detector(Sweep.of(arrays), encoder, calibration)


def _verified(name: str) -> bytes:
    path = _FOLDER / name
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != _SHA256[name]:
        raise ModelFileError(name, "is missing or changed", mend="Install shieldkit anew")
    return data
