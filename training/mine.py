"""Ordinary text that the detector so far takes for an attack: what it has to learn next.

    python -m training.mine OUT.jsonl            what the encoder takes for an attack, for the encoder
    python -m training.mine OUT.jsonl --peaks    what the sweep has to hand on, for the sweep

Reads haystacks and `SHIELDKIT_TEXTS` with the packed weights: the windows around the sweep's peaks, and the sentences or
lines in which the peaks stand. Writes rows as `training.build` does; that appends them when it is given the file.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shieldkit.injection import load
from shieldkit.injection.windows import around_peaks, line
from shieldkit.text import canonicalise
from training import sources

FROM, MOST, CHARS = 0.5, 1200, 500_000
PEAK = 0.25
"""Of 45,000 windows in a million tokens of ordinary text about 500 have a peak as high as that."""


def texts() -> Iterator[tuple[str, str]]:
    """Source and text, in pieces of at most 60,000 characters."""
    rng = random.Random(43)
    yield from (
        (e.source, e.text)
        for e in sources.corpus()
        if 1 not in (e.direct, e.data) and e.role != "user" and e.source not in sources.EVALUATION_ONLY
    )
    for name, text in sources.haystacks().items():
        for at in range(0, len(text), 60_000):
            yield f"haystack-{name}", text[at : at + 60_000]
    for folder in sorted(p for p in sources.TEXTS.glob("*") if p.is_dir()):
        code = folder.name in sources._CODE_FOLDERS
        paths = sorted(p for p in folder.rglob("*") if sources._is_text(p, code) and p.is_file())
        rng.shuffle(paths)
        left = CHARS
        for path in paths[:1500]:
            if left < 0:
                break
            text = sources._plain(path)[:40_000]
            left -= len(text)
            yield folder.name, text


def main() -> None:
    """Mine."""
    detector, found = load(), Counter()
    peaks_alone = "--peaks" in sys.argv
    detector.encoder._let_go = np.full(2, -np.inf, np.float32)
    with Path(sys.argv[1]).open("w", encoding="utf-8") as out:
        for source, original in texts():
            text = canonicalise(original).text
            swept = detector.sweep.read(text)
            if not len(swept.logits) or found[source] >= MOST:
                continue
            margin = ((swept.logits - detector._likely) / (detector._certain - detector._likely)).max(axis=1)
            peaks = around_peaks(margin.astype(np.float32), swept.begins, text, certain=1.0, likely=0.0, most=48)
            for window in peaks:
                if peaks_alone and window.peak < PEAK:
                    break
                for a, b in ((window.start, window.end), line(text, window.at)):
                    piece = text[a:b]
                    if b - a > 15 and (peaks_alone or detector.encoder.read(piece).max() > FROM):
                        folds = sorted({sources.FOLD_OF.get(source, 0)} - {0})
                        row = {
                            "text": piece,
                            "direct": 0,
                            "data": 0,
                            "source": source,
                            "kind": "mined",
                            "weight": 3.0,
                            "folds": folds,
                        }
                        out.write(json.dumps(row) + "\n")
                        found[source] += 1
    print(sum(found.values()), found.most_common())


if __name__ == "__main__":
    main()
