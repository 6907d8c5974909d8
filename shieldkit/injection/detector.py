"""The cascade: the sweep reads every position, the skim what is around its peaks, the encoder what they cannot settle.

Most ordinary text is settled by the sweep alone. Around each peak the skim reads: every peak that is as high as one in a
thousand ordinary windows, up to `PEAKS` lower ones, and in a short text all but the lowest, so that it is read with more care
than its share of a long one. What it does not let go the encoder reads, up to `MOST_LIKELY` windows beside those that are plain.
The calibration was made on sources that the weights had not seen.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shieldkit.errors import ModelFileError
from shieldkit.injection.encoder import Encoder
from shieldkit.injection.features import Vocabulary
from shieldkit.injection.markup import unmarked
from shieldkit.injection.reading import LIKELY_EACH, Logits, Native, Reading, Stage
from shieldkit.injection.skim import Skim
from shieldkit.injection.sweep import Sweep
from shieldkit.injection.windows import WINDOW, around_peaks
from shieldkit.remembered import Remembered
from shieldkit.text import Canonical, digest
from shieldkit.text.canonical import Child

DIRECT, DATA = 0, 1
PEAKS = 512
"""How many peaks of a text the skim reads beside those that it must."""
MOST_LIKELY = 128
"""How many windows the encoder reads beside those that it must, highest of the skim first."""
DECODED_TIMES = 4
"""How many times as many it reads in all that was decoded from a text: decoys by the thousand would cost seconds."""
ALWAYS = 0.4
"""How high a peak is read whatever else a text holds, so that decoys do not crowd it out: some 220 are in a million tokens of
ordinary text.
"""
LEAST_LIKELY = -0.1
"""How high a peak of a long text must be at least (0 is higher than three of four ordinary windows, 1 than all but one in a
thousand): that of 30 to 60 windows in 10,000 tokens of ordinary text."""
HIDDEN = 4.4
"""What is added to the logits of a short text of a user that was hidden: who asks for something harmless need not. Some three in
a hundred ordinary chats that are hidden are refused."""
GUESSED = {"leet": 4.1, "reversed": 2.5}
"""Less where decoding may read something into an ordinary text, for the same share: letters for digits, a line from its end."""
LEAST_HIDDEN = 3
"""Words that could not be read before they were decoded: fewer are an escape in an address, or a tag."""
SHORT = 2000
"""Characters: up to there all is read but what the sweep or the skim are sure of, since it costs little; and 0.5 stands for one
false alarm in 175 texts of users, or in 125 of data at the most, not for so many a million tokens."""
REPORTED = 0.3
_CACHED_VIEWS = 16_384
_WORD = re.compile(r"\w{2,}")
_FOLDER = Path(__file__).parent / "data"
_SHA256 = {
    "sweep.onnx": "7bd80365a4d127ede392253c4eea85f6eccd1cf2e796bdaa5d754f58b61abe75",
    "sweep.npz": "67f97bc6e41d53267f23c5b3b02ec48cede999563d0255816c295378b8e564bb",
    "skim.onnx": "b28188a3cede99f4b2e073a1a89d4c913963eeb9214e6c4cffeee0d46e6567d6",
    "encoder_words.onnx": "9b879687f2ca25ecef0f85fce10e6f56a6d8576bef244c227ac2741899471d90",
    "encoder_lower.onnx": "eed3bfb982d5aa91995b8199eb3584216fcf41bd594defa9c4b921ef4b3277c4",
    "encoder_upper.onnx": "c8d420e06d506580eae47fb6042f8cd40757dec829af1f20430ddc6b9451be3d",
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
    """The highest score of any window, the hits from `REPORTED` on, and how many windows were skimmed, and read by the encoder.

    `complete` is False when the text holds more encoded text than was decoded, or more that is suspect than could be read.
    """

    score: float
    hits: tuple[Hit, ...] = ()
    skimmed: int = 0
    encoded: int = 0
    complete: bool = True


class Detector:
    """Sweep, skim and encoder with their calibration. Safe under threads; remembers windows by keyed digest, never text."""

    def __init__(self, sweep: Sweep, skim: Skim, encoder: Encoder, calibration: NDArray[np.float64]) -> None:
        """`calibration` has a row a head: sweep scale and shift, encoder scale and shift, likely, certain, let go, least, and
        the encoder's shifts for short texts of users and for short data.
        """
        self.sweep, self.skim, self.encoder = sweep, skim, encoder
        self._swept = Stage(calibration[:, 0], calibration[:, 1])
        self._encoded = Stage(calibration[:, 2], calibration[:, 3])
        self._brief = Stage(calibration[:, 2], calibration[:, 8])
        self._short_data = Stage(calibration[:, 2], calibration[:, 9])
        likely, certain, least = calibration[:, 4], calibration[:, 5], calibration[:, 7]
        self._likely, self._certain = likely.astype(np.float32), certain.astype(np.float32)
        self._least = (least - likely) / (certain - likely)
        self._views: Remembered[bytes, Logits] = Remembered(_CACHED_VIEWS)

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

        What tries to override instructions has no place in data either: with `data`, both heads are asked. Short texts have
        thresholds of their own, for data and for what comes `by_user`, on which they were set.
        """
        # What is decoded out of a long text is as long: there may be much of it.
        short = len(canonical.text) <= SHORT
        brief = short and by_user and not data
        heads = [DIRECT, DATA] if data else [DIRECT]
        stage = self._brief if brief else self._short_data if short and data else self._encoded

        def read(text: str, native: Native, more: float, most: int = most_likely) -> Judgement:
            stages = stage, self.skimmed, self.view
            return self._judged(Reading(text, native, short, more if brief else 0.0, heads, *stages, most, proceed))

        page = canonical if short else replace(canonical, text=unmarked(canonical.text))
        own = read(page.text, page.native, HIDDEN if canonical.disguised else 0.0)
        parts = [own]
        hits = [Hit(h.score, *canonical.span(h.start, h.end)) for h in own.hits]
        room = DECODED_TIMES * most_likely + len(canonical.text) // (LIKELY_EACH * WINDOW)
        for child in canonical.children:
            if room < 0:
                break
            hiding, text = _for_hiding(child, canonical), child.text if short else unmarked(child.text)
            parts.append(inner := read(text, partial(_slice, text), hiding, min(room, most_likely)))
            room -= inner.encoded
            if inner.hits:
                hits.append(Hit(inner.score, child.start, child.end))
        if short and (decoded := canonical.in_place()) is not None:
            parts.append(inner := read(decoded, partial(_slice, decoded), 0.0))
            if inner.hits:
                hits.append(Hit(inner.score, 0, len(canonical.original)))
        hits = _merged(sorted(hits, key=lambda h: (h.start, h.end)))
        skimmed, encoded = sum(part.skimmed for part in parts), sum(part.encoded for part in parts)
        complete = canonical.complete and room >= 0 and all(part.complete for part in parts)
        return Judgement(max(part.score for part in parts), tuple(hits), skimmed, encoded, complete)

    def _judged(self, reading: Reading) -> Judgement:
        """Sweep a text, and read what that leaves to be read."""
        heads = reading.heads
        swept = self.sweep.read(reading.text, partial(self.margin, heads=heads))
        if not len(swept.logits):
            return Judgement(0.0)
        likely = float(self._least[heads].min()) if reading.short else LEAST_LIKELY
        windows = around_peaks(swept.logits, swept.begins, reading.text, certain=ALWAYS, likely=likely, most=PEAKS)
        if not windows:
            return Judgement(self._swept.score(swept.top, heads))
        scores, read, over = reading.scores(windows)
        hits = [Hit(score, w.start, w.end) for score, w in zip(scores, windows, strict=True) if score >= REPORTED]
        return Judgement(max(scores), tuple(hits), len(windows), read, not over)

    def margin(self, logits: Logits, heads: list[int]) -> Logits:
        """How far the sweep's logits, (words, 2), are above what is likely to be an attack, for the head that is most so: 0 is
        likely, 1 is certain.
        """
        above = logits[:, heads] - self._likely[heads]
        above /= self._certain[heads] - self._likely[heads]
        return np.asarray(above.max(axis=1), np.float32)

    def view(self, text: str, native: Native, start: int, end: int, heads: list[int]) -> Logits:
        """The encoder's logits of a part of a text, for these heads."""
        return self._of_both(
            bytes(heads), lambda view: self.encoder.read(view, heads), text[start:end], native(start, end)
        )

    def skimmed(self, text: str, native: Native, start: int, end: int) -> Logits:
        """The skim's logits of a part of a text."""
        return self._of_both(b"skim", self._skim, text[start:end], native(start, end))

    def _skim(self, view: str) -> Logits:
        return self.skim.read(self.encoder.embedded(view))

    def _of_both(self, by: bytes, read: Callable[[str], Logits], folded: str, written: str) -> Logits:
        """The higher logits of folded text and of the same as it was written; from memory where the same was read before."""
        logits = self._views.of(digest(folded) + by, lambda: read(folded))
        if written == folded:
            return logits
        return np.maximum(logits, self._views.of(digest(written) + by, lambda: read(written)))


def _for_hiding(child: Child, canonical: Canonical) -> float:
    """What is added where most words of what was decoded could not be read before: not for an escape in an address or a tag."""
    words, read = (
        set(_WORD.findall(text)) for text in (child.text, canonical.original[child.start : child.end].lower())
    )
    if len(words - read) < max(LEAST_HIDDEN, len(words) / 2):
        return 0.0
    return max(GUESSED.get(disguise, HIDDEN) for disguise in child.disguise.split())


def _slice(text: str, start: int, end: int) -> str:
    return text[start:end]


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
    halves = _verified("encoder_lower.onnx"), _verified("encoder_upper.onnx")
    encoder = Encoder(_verified("encoder_words.onnx"), *halves, pieces, let_go)
    sweep = Sweep(Vocabulary.of(arrays["vocabulary"]), _verified("sweep.onnx"))
    return Detector(sweep, Skim(_verified("skim.onnx")), encoder, calibration)


def _verified(name: str) -> bytes:
    path = _FOLDER / name
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != _SHA256[name]:
        raise ModelFileError(name, "is missing or changed", mend="Install shieldkit anew")
    return data
