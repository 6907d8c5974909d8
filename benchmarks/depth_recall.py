"""Recall of the same attacks alone and buried: at every depth, at lengths up to a million tokens.

    python benchmarks/depth_recall.py [--seconds N] [--json FILE]

Attacks are short ones of the development corpora (user-spoken kinds, 40 to 600 characters), the same in every cell, buried
as lines of their own in the long texts, as an untrusted document. A finding counts only where the attack stands. Texts
of 100,000 tokens and more hold 10 attacks each, at 10 depths, so that there are enough of them to tell two points from
chance (they compete for the detector's attention, which makes it harder); each attack visits each fifth of the text.
Every length gets the same time, and as many of 200 attacks as fit into it, at least 20. A cell is compared with the very same
attacks alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from _shared import SEED, drawn, haystacks, machine, percent, rows, save, table
from million_tokens import timeless

from shieldkit import Segment, Shield
from shieldkit.conversation import Role
from shieldkit.evaluation import Attack, Judge, Matrix, bury
from shieldkit.evaluation.haystack import CHARS_A_TOKEN, cut
from shieldkit.evaluation.matrix import in_words

KINDS = ("direct_injection", "x_slabs", "jailbreak", "system_prompt_extraction")
DEPTHS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
LENGTHS = (1_000, 10_000, 100_000, 1_000_000)
TOGETHER = 10
BANDS = ("0 to 20%", "20 to 40%", "40 to 60%", "60 to 80%", "80 to 100%")
MOST, LEAST = 200, 20


def attacks() -> list[Attack]:
    """Short attacks, as many of each source as there are of the smallest, in a fixed order."""
    by_source: dict[str, list[Attack]] = {}
    for n, row in enumerate(rows(*KINDS)):
        if row["label"] == "attack" and 40 <= len(row["text"]) <= 600 and "\n" not in row["text"].strip():
            by_source.setdefault(row["source"], []).append(Attack(f"{n} {row['source']}", row["text"].strip()))
    chosen = [a for found in by_source.values() for a in drawn(found, MOST // len(by_source) + 20)]
    return drawn(chosen, MOST)


def one_each(shield: Shield, hay: str, length: int, attack: Attack, number: int) -> Iterator[tuple[str, str, bool]]:
    """Attack, depth, and whether it was found: through the matrix of `shieldkit eval`."""
    matrix = Matrix(hay, [attack], [length], DEPTHS, role=Role.DOCUMENT, seed=number)
    for case in matrix.cases():
        if case.facets["placement"] == "line":
            yield attack.id, case.facets["depth"], bool(Judge(shield)(case).located)


def together(
    shield: Shield, hay: str, length: int, group: Sequence[Attack], number: int
) -> Iterator[tuple[str, str, bool]]:
    """The same for attacks that share a text; in each of five rounds each of them stands in another fifth of it."""
    each = TOGETHER // len(BANDS)
    for turn in range(len(BANDS)):
        text = cut(hay, round(length * CHARS_A_TOKEN), (number * len(BANDS) + turn) * 391_939)
        targets = [i / (TOGETHER - 1) * len(text) for i in range(TOGETHER)]
        places: list[tuple[Attack, str, int, int]] = []
        for i in reversed(range(TOGETHER)):  # from the end, so that what stands before does not move
            attack, size = group[(i + turn * each) % TOGETHER], len(text)
            made = bury(text, attack.text, min(1.0, targets[i] / size))
            text = made.texts[0]
            moved = len(text) - size
            places = [(a, d, s + moved, e + moved) for a, d, s, e in places]
            places.append((attack, BANDS[i // each], made.start, made.end))
        findings = [f for f in shield.screen(Segment(text, "document")).findings if f.score >= 0.5]
        for attack, band, start, end in places:
            yield attack.id, band, any(f.start < end and start < f.end for f in findings)


def measure(shield: Shield, chosen: Sequence[Attack], length: int, seconds: float) -> dict[str, Any]:
    """By depth: attacks found, the same attacks found alone, and how many there were."""
    hay = "\n".join(haystacks().values())
    step = TOGETHER if length >= 100_000 else 1
    deadline = time.monotonic() + seconds
    counts: dict[str, list[int]] = {}
    for first in range(0, len(chosen) - step + 1, step):
        group = chosen[first : first + step]
        places = (
            one_each(shield, hay, length, group[0], first) if step == 1 else together(shield, hay, length, group, first)
        )
        alone = {a.id: not shield.screen(Segment(a.text, "document")).allowed for a in group}
        for name, depth, hit in places:
            cell = counts.setdefault(depth, [0, 0, 0])
            for i, more in enumerate((hit, alone[name], 1)):
                cell[i] += more
        if time.monotonic() > deadline and first + step >= LEAST:
            break
    return {"attacks": first + step, "depths": counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=140)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chosen = attacks()
    result: dict[str, Any] = {"machine": machine()}
    with timeless() as shield:
        for length in LENGTHS:
            result[in_words(length)] = measure(shield, chosen, length, options.seconds / len(LENGTHS))
    show(result)
    save(result, options.json)


def show(result: dict[str, Any]) -> None:
    print(f"{result['machine']}; attacks drawn with seed {SEED}")
    lines, worst = [], 0.0
    for length, part in result.items():
        if length == "machine":
            continue
        for depth, (found, alone, total) in sorted(
            part["depths"].items(), key=lambda d: float(d[0].split("%")[0].split()[0])
        ):
            points = 100 * (found - alone) / total
            worst = max(worst, abs(points))
            lines.append((f"{length}: {depth}", percent(found, total), f"{alone / total:.1%}", f"{points:+.1f}", total))
    table(("tokens: depth", "recall", "the same alone", "points", "attacks"), lines)
    print(f"within 2 points of the same attacks alone at every depth and length: {'yes' if worst <= 2 else 'no'} "
          f"(most: {worst:.1f})")  # fmt: skip


if __name__ == "__main__":
    main()
