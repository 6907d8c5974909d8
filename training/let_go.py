"""What skim and glance let go, of attacks that are found when all is read, and of ordinary text: `training.skim`'s test.

    python -m training.let_go

Attacks of the development corpora, up to 70 of each kind and source, and 400 of the collections that nothing is trained on
(`HELD_OUT`). Each is buried as lines of its own between lines of a haystack. Prints what is lost at the thresholds of
`shieldkit.injection.reading` and around them, what of the ordinary peaks is left, and the same for short prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from shieldkit.injection import Detector, load, reading
from shieldkit.injection.detector import PEAKS
from shieldkit.injection.windows import Window
from shieldkit.text import canonicalise
from training import sources
from training.collected import HELD_OUT, collected
from training.skim import peaks
from training.sources import Example

EACH, HELD, LINES, CHATS = 70, 400, 30, 700
MILLION = 4_500_000
SPOKEN = ("direct_injection", "jailbreak", "indirect_injection", "system_prompt_extraction", "x_slabs")


def attacks(rng: random.Random) -> dict[str, list[Example]]:
    """By where they come from: what is trained on, and what is not."""
    by_source: dict[tuple[str, str], list[Example]] = {}
    for e in sources.corpus():
        if 1 in (e.direct, e.data) and e.kind in SPOKEN:
            by_source.setdefault((e.source, e.kind), []).append(e)
    known = [e for found in by_source.values() for e in rng.sample(found, min(EACH, len(found)))]
    held = [e for e in collected() if e.source in HELD_OUT and 1 in (e.direct, e.data)]
    return {"development": known, "held out": rng.sample(held, min(HELD, len(held)))}


def skimmed(detector: Detector, text: str, windows: list[Window]) -> list[float]:
    """The skim's higher logit of what is around each peak."""
    return [float(detector.skim.read(detector.encoder.embedded(text[slice(*w.near(text))])).max()) for w in windows]


def buried(
    detector: Detector, found: list[Example], lines: list[str], rng: random.Random
) -> Iterator[tuple[float, float, float]]:
    """Of each attack that is found when all is read: the height of its highest peak, and the highest logits of skim and encoder around its peaks."""
    for e in found:
        at = rng.randrange(len(lines) - 2 * LINES)
        before, after = ("\n".join(lines[k : k + LINES]) for k in (at, at + LINES))
        canonical = canonicalise(f"{before}\n{e.text}\n{after}")
        start, end = len(before) + 1, len(before) + 1 + len(e.text)
        hits = detector.judge(canonical, data=True, by_user=False).hits
        if not any(hit.score >= 0.5 and hit.start < end and hit.end > start for hit in hits):
            continue
        inside = [w for w in peaks(detector, canonical.text, 60) if start <= canonical.span(w.at, w.at + 1)[0] < end]
        near = [float(detector.encoder.read(canonical.text[slice(*w.near(canonical.text))]).max()) for w in inside]
        top = max((w.peak for w in inside), default=-np.inf)
        yield top, max(skimmed(detector, canonical.text, inside), default=-np.inf), max(near, default=-np.inf)


def short(detector: Detector, texts: list[str]) -> np.ndarray:
    """Score when all is read, and the skim's direct logit of the whole, of texts that fit one window: (texts, 2)."""
    found = []
    for text in texts:
        canonical = canonicalise(text)
        parts = detector.encoder.embedded(canonical.text)
        found.append((detector.judge(canonical).score, float(detector.skim.read(parts)[0])))
    return np.array(found)


def main() -> None:
    """Print the tables."""
    rng, detector = random.Random(5), load()
    surely, likely, glance = reading.SURELY, reading.LIKELY, reading.GLANCE
    reading.SURELY = reading.LIKELY = reading.GLANCE = -np.inf
    haystack = "\n".join(sources.haystacks().values()).encode("ascii", "ignore").decode()
    million = canonicalise(haystack[: MILLION // 2] + haystack[-MILLION // 2 :]).text
    ordinary = peaks(detector, million, PEAKS)
    least, left = ordinary[-1].peak, skimmed(detector, million, ordinary)
    lines = [line for line in haystack[2_000_000:2_300_000].splitlines() if line.strip()]
    groups = attacks(rng)
    measured = {name: np.array(list(buried(detector, found, lines, rng))) for name, found in groups.items()}
    print(f"the {PEAKS} highest peaks of a million tokens are at least {least:.2f} high\n")
    print(
        "| attacks that are found | with a peak as high | "
        + " | ".join(f"skim ≥ {n}" for n in (-2.2, likely, -1.2, -0.5))
        + f" | glance ≥ {glance} | glance ≥ 1 |"
    )
    print("| --- |" + " ---: |" * 7)
    for name, rows in measured.items():
        seen = rows[rows[:, 0] >= least]
        cells = [(seen[:, 1] >= n).sum() for n in (-2.2, likely, -1.2, -0.5)] + [
            (seen[:, 2] >= n).sum() for n in (glance, 1.0)
        ]
        print(f"| {name}, {len(rows)} | {len(seen)} | " + " | ".join(map(str, cells)) + " |")
    shares = " | ".join(f"{np.mean(np.array(left) >= n):.1%}" for n in (-2.2, likely, -1.2, -0.5))
    print(f"| ordinary peaks | {len(left)} | {shares} | | |\n")
    chats = [e.text for e in sources.corpus() if e.direct == 0 and e.role == "user"]
    unseen = [e.text for e in collected() if e.source in HELD_OUT and e.direct == 0]
    print(
        "| prompts of one window | texts | "
        + " | ".join(f"skim < {n}" for n in (-6, surely, -3, -2))
        + " |\n| --- |"
        + " ---: |" * 5
    )
    texts = {f"attacks, {name}": [e.text for e in found if e.role == "user"] for name, found in groups.items()}
    for name, found in {**texts, "ordinary, development": chats, "ordinary, held out": unseen}.items():
        one = [text for text in found if len(text) <= 384]
        rows = short(detector, rng.sample(one, min(CHATS, len(one))))
        rows = rows[rows[:, 0] >= 0.5] if name in texts else rows
        print(
            f"| {name} | {len(rows)} | " + " | ".join(f"{(rows[:, 1] < n).sum()}" for n in (-6, surely, -3, -2)) + " |"
        )


if __name__ == "__main__":
    main()
