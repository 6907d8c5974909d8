"""Thresholds of the cascade, from ordinary text; most of it from sources that nothing was trained on.

    python -m training.calibrate OUT.json

What the sweep hands to the encoder is decided on long ordinary text: a window is *likely* when it is higher than 75 in 100
ordinary windows, *certain* when higher than 999 in 1,000. Then the packed cascade reads the haystacks and the packages in
`SHIELDKIT_UNSEEN`: a head's threshold is the lowest logit at which it raises no more alarms than `ALLOWED`. For short texts of
users it is the lowest logit at which no more than `ALLOWED_CHATS` of the prompts that are for evaluation only raise an alarm, if
that is lower; they go through the detector as it is packed, so that only what it reads counts. For short data it is, for each
head, the lowest at which no more than `ALLOWED_PIECES` of lines, paragraphs and pages of the same packages raise one. The slope is
a convention, the same for both heads: 0.3 is 1.4 logits below 0.5.

A short text is left to the sweep alone where that is lower than all but `MISSED` of short attacks; the encoder lets go after
half of its layers what is lower there than all but `MISSED` of the attacks that it would have blocked.

The models must be the ones that ship. What the prompts go through is the calibration that is packed, too, and it decides which
lines are read: calibrate, pack, and do both again. Both heads choose what is read, as in data.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from shieldkit.injection import Detector, load
from shieldkit.injection.detector import ALWAYS, LEAST_LIKELY, MOST_LIKELY, PEAKS, SHORT
from shieldkit.injection.markup import unmarked
from shieldkit.injection.reading import Reading
from shieldkit.injection.windows import WINDOW, around_peaks
from shieldkit.text import canonicalise
from shieldkit.text.folding import fold
from training import sources
from training.collected import collected

MILLION_TOKENS = 4_500_000
"""Characters."""
ALLOWED = {"haystack": 1.0, "unseen": 10.0}
"""Alarms a million tokens, for each head."""
ALLOWED_CHATS = 0.01
"""The share of short prompts, for the direct head."""
ALLOWED_PIECES = 0.004
"""The share of short pieces of data, for each head."""
LIKELY, CERTAIN, SLOPE = 0.75, 0.999, 0.6
MISSED, SURE = 0.005, 3.0
HEADS = {"direct": 0, "data": 1}


def swept(detector: Detector) -> np.ndarray:
    """The sweep's highest logits in windows of ordinary long text, shape (windows, 2)."""
    rng, found = random.Random(3), []
    for text in sources.haystacks().values():
        for _ in range(3000):
            at = rng.randrange(len(text) - WINDOW)
            found.append(detector.sweep.read(fold(text[at : at + WINDOW]).text).top)
    return np.array(found)


def ordinary() -> Iterator[tuple[str, str]]:
    """Long ordinary text: haystacks by 200,000 characters, and files of packages that nothing was trained on."""
    for text in sources.haystacks().values():
        for at in range(0, len(text), 200_000):
            yield "haystack", text[at : at + 200_000]
    rng = random.Random(1)
    for folder in sorted(p for p in sources.UNSEEN.glob("*") if p.is_dir()):
        paths = sorted(p for p in folder.rglob("*") if sources._is_text(p, False) and p.is_file())
        rng.shuffle(paths)
        left = 350_000
        for path in paths:
            text = sources._plain(path)[:60_000]
            if left > 0 and len(text) > 500:
                left -= len(text)
                yield "unseen", text


def pieces() -> Iterator[str]:
    """Lines, paragraphs and pages of the packages that nothing was trained on, of each up to three of a file."""
    rng = random.Random(5)
    for kind, text in ordinary():
        if kind == "unseen":
            lines = [line.strip() for line in text.split("\n") if len(line.strip()) > 20]
            paragraphs = [part.strip() for part in text.split("\n\n") if 60 < len(part.strip()) <= SHORT]
            pages = [text[at : at + SHORT - 1] for at in range(0, len(text) - SHORT + 1, SHORT)]
            for found in (lines, paragraphs, pages):
                yield from rng.sample(found, min(3, len(found)))


def encoded(
    detector: Detector, text: str, likely: np.ndarray, certain: np.ndarray, least: float | None = None
) -> np.ndarray:
    """The logits that are scored of every place that the cascade reads, shape (places, 2): windows that overlap are one.

    With `least` a short text is read, from peaks of that height on.
    """
    short = least is not None
    canonical = canonicalise(text)
    seen = (lambda text: text) if short else unmarked
    page = replace(canonical, text=seen(canonical.text))
    parts = [(page.text, page.native)]
    decoded = [seen(child.text) for child in canonical.children]
    parts += [(text, lambda start, end, text=text: text[start:end]) for text in decoded]
    found = [np.full(2, -30.0)]
    for part, native in parts:
        read, last = detector.sweep.read(part), 0
        if not len(read.logits):
            continue
        margin = ((read.logits - likely) / (certain - likely)).max(axis=1).astype(np.float32)
        windows = around_peaks(
            margin, read.begins, part, certain=ALWAYS, likely=LEAST_LIKELY if least is None else least, most=PEAKS
        )
        stages = detector._encoded, detector.skimmed, detector.view
        logits, *_ = Reading(part, native, short, 0.0, [0, 1], *stages, MOST_LIKELY, lambda: True).logits(windows)
        for window, of_window in sorted(zip(windows, logits, strict=True), key=lambda pair: pair[0].start):
            if window.start < last:
                found[-1] = np.maximum(found[-1], of_window)
            else:
                found.append(of_window)
            last = window.end
    return np.array(found)


def said(detector: Detector, text: str) -> float:
    """The direct logit that is scored of what a user says."""
    score = min(max(detector.judge(canonicalise(text)).score, 1e-9), 1 - 1e-9)
    return math.log(score / (1 - score)) / detector._brief.scale[0] + detector._brief.shift[0]


def tops_of(detector: Detector, attacks: list[str]) -> np.ndarray:
    """The sweep's highest logit of each short attack, (attacks, 2)."""
    return np.array([detector.sweep.read(canonicalise(text).text).top for text in attacks])


def halves(detector: Detector, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's logits after half of its layers, and after all, of the first window of each text."""
    encoder, early, late = detector.encoder, [], []
    for text in texts:
        ids = encoder._tokenizer.encode(canonicalise(text).text[:WINDOW], add_special_tokens=False).ids[:158]
        (x,) = encoder._words.run(None, {"ids": np.array([[encoder._first, *ids, encoder._last]], np.int64)})
        hidden, first = encoder._lower.run(None, {"x": x})
        early.append(first[0])
        late.append(encoder._upper.run(None, {"hidden": hidden})[0][0])
    return np.array(early), np.array(late)


def main() -> None:
    """Calibrate."""
    detector = load()
    windows = swept(detector)
    likely, certain = np.quantile(windows, LIKELY, axis=0), np.quantile(windows, CERTAIN, axis=0)
    known = [e for e in sources.corpus() if 1 in (e.direct, e.data) and e.kind not in ("encoded", "special_token")]
    attacks = [e.text for e in random.Random(4).sample(known, 1200)]
    attacks += [e.text for e in collected() if e.source == "promptlock"]
    tops, (early, late) = tops_of(detector, [t for t in attacks if len(t) <= SHORT]), halves(detector, attacks)
    lowest = np.quantile(tops, MISSED, axis=0)
    let_go = np.array([np.quantile(early[late[:, k] >= SURE, k], MISSED) for k in HEADS.values()])
    detector.encoder._let_go = let_go.astype(np.float32)
    print("highest logits of attacks", np.round(late.max(axis=0), 2))
    print("let go below", np.round(let_go, 2), "left to the sweep below", np.round(lowest, 2), flush=True)
    logits: dict[str, list[np.ndarray]] = {"haystack": [], "unseen": []}
    chars = dict.fromkeys(logits, 0)
    for kind, text in ordinary():
        logits[kind].append(encoded(detector, text, likely, certain))
        chars[kind] += len(text)
    chats = [e.text for e in sources.corpus() if e.source in sources.EVALUATION_ONLY]
    of_chats = np.sort([said(detector, text) for text in chats if len(text) <= SHORT])[::-1]
    out = []
    brief = float(of_chats[int(ALLOWED_CHATS * len(of_chats))]) + 0.01
    print("short prompts", np.round(of_chats[:6], 2))
    of_pieces = [
        encoded(detector, text, likely, certain, float(detector._least.min())).max(axis=0) for text in pieces()
    ]
    short_data = np.quantile(of_pieces, 1 - ALLOWED_PIECES, axis=0) + 0.01
    print(f"{len(of_pieces)} short pieces of data", np.round(short_data, 2), flush=True)
    for head, k in HEADS.items():
        bars = []
        for kind, allowed in ALLOWED.items():
            top = np.sort(np.concatenate(logits[kind])[:, k])[::-1]
            bars.append(top[int(allowed * chars[kind] / MILLION_TOKENS)])
        shift = float(max(bars)) + 0.01
        out.append([1.0, float(certain[k]) + 4.0, SLOPE, shift, float(likely[k]), float(certain[k]),
                    min(float(let_go[k]), shift - 3.0), min(float(lowest[k]), float(likely[k])), min(brief, shift) if head == "direct" else shift,
                    min(float(short_data[k]), shift)])  # fmt: skip
        print(f"{head}: bars {np.round(bars, 2)}, row {np.round(out[-1], 2)}")
        for kind in ALLOWED:
            top = np.sort(np.concatenate(logits[kind])[:, k])[::-1]
            print(
                f"   {kind}: the highest {np.round(top[:12], 2)} of {chars[kind] / MILLION_TOKENS:.2f} million tokens"
            )
    Path(sys.argv[1]).write_text(json.dumps({"rows": out}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
