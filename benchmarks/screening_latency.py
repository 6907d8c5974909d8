"""What the full default screening takes for a 500-character prompt, and for many short rows.

    python benchmarks/screening_latency.py [--json FILE]

Prompts are rows of the development corpora cut to 500 characters, each screened once, so that nothing is remembered. A
prompt is "settled by the sweep" when the detector's encoder had nothing to read in it. Shares are of whole rows. Takes
about two minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _shared import clock, drawn, machine, percent, rows, save, table

from shieldkit import Segment, Shield
from shieldkit.evaluation import Case, Judge, run
from shieldkit.injection import load
from shieldkit.text import canonicalise

ATTACKS = ("direct_injection", "x_slabs", "jailbreak", "system_prompt_extraction", "indirect_injection")
BENIGN = ("benign_chat", "benign_document", "benign_trigger_words", "x_slabs")
DATA = ("document", "tool")
SIZE, PROMPTS, SHARES, ROWS, MOST_S = 500, 300, 1500, 10_000, 60.0


def of(kinds: Sequence[str], label: str) -> list[dict[str, Any]]:
    return [row for row in rows(*kinds) if row["label"] == label]


STAGES = ("the sweep", "the skim", "the encoder")


def settled_by(text: str, role: str) -> int:
    """The last of `STAGES` that reads a text. The detector remembers what it has read."""
    judged = load().judge(canonicalise(text), data=role in DATA, by_user=role == "user")
    return 2 if judged.encoded else 1 if judged.skimmed else 0


def prompts(found: Sequence[dict[str, Any]]) -> list[Segment]:
    """Distinct texts of exactly 500 characters."""
    long = {row["text"][:SIZE]: Segment(row["text"][:SIZE], row.get("role") or "user") for row in found}
    return drawn([s for s in long.values() if len(s.text) == SIZE], PROMPTS)


def timed(shield: Shield, segments: Sequence[Segment]) -> list[tuple[int, float]]:
    """For each prompt, the last stage that reads it, and the milliseconds of its screening."""
    took = []
    for segment in segments:
        start = time.perf_counter_ns()
        shield.screen(segment)
        took.append((time.perf_counter_ns() - start) / 1e6)
    # Asked afterwards: the detector remembers what it has read.
    return [(settled_by(s.text, s.role), ms) for s, ms in zip(segments, took, strict=True)]


def shares(found: Sequence[dict[str, Any]]) -> tuple[list[int], int]:
    """How many of a sample of rows each stage is the last to read, and of how many."""
    sample = drawn(found, SHARES)
    last = [settled_by(row["text"], row.get("role") or "user") for row in sample]
    return [last.count(stage) for stage in range(len(STAGES))], len(sample)


def throughput(shield: Shield, found: Sequence[dict[str, Any]], jobs: int) -> dict[str, Any]:
    """Rows a second over short rows, until all are done or a minute is over."""
    sample = drawn([row for row in found if len(row["text"]) <= 300], ROWS)
    cases = (Case(str(n), (Segment(r["text"], r.get("role") or "user"),), False) for n, r in enumerate(sample))
    done, deadline = 0, time.monotonic() + MOST_S
    with clock() as took:
        for _ in run(cases, Judge(shield), jobs=jobs):
            done += 1
            if time.monotonic() > deadline:
                break
    return {"rows": done, "of": len(sample), "wall_s": took.wall_s, "cpu_s": took.cpu_s, "a_second": done / took.wall_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sides = {"benign": of(BENIGN, "benign"), "attack": of(ATTACKS, "attack")}
    result: dict[str, Any] = {"machine": machine(), "prompts": {}, "settled": {}}
    with Shield("builtin:default") as shield:
        for n in range(50):
            shield.screen(f"A prompt to warm up with, number {n}. Which trains go to Prague?")
        for side, found in sides.items():
            result["prompts"][side] = timed(shield, prompts(found))
    for side, found in sides.items():
        result["settled"][side] = shares(found)
    with Shield("builtin:default") as shield:
        mixture = drawn([*sides["benign"], *sides["attack"]], 10**9)
        result["throughput"] = throughput(shield, mixture, os.cpu_count() or 1)
    show(result)
    save(result, options.json)


def show(result: dict[str, Any]) -> None:
    print(result["machine"])
    everything = [pair for pairs in result["prompts"].values() for pair in pairs]
    groups = {**{f"{side} prompts": pairs for side, pairs in result["prompts"].items()}, "all": everything,
              **{f"last read by {name}": [p for p in everything if p[0] == k] for k, name in enumerate(STAGES)}}  # fmt: skip
    lines = []
    for name, pairs in groups.items():
        took = sorted(ms for _, ms in pairs)
        if took:
            p99 = took[min(len(took) - 1, int(0.99 * len(took)))]
            lines.append((name, len(took), f"{statistics.median(took):.2f} ms", f"{p99:.2f} ms"))
    table(("500 characters, full default screening", "prompts", "median", "p99"), lines)
    table(("rows, whole", *(f"last read by {name}" for name in STAGES)),
          [(side, *(percent(n, of) for n in counts)) for side, (counts, of) in result["settled"].items()])  # fmt: skip
    t = result["throughput"]
    print(f"{t['rows']:,} of {t['of']:,} short rows (to 300 characters), {os.cpu_count()} at a time: "
          f"{t['a_second']:,.0f} rows a second, {1e3 * t['cpu_s'] / t['rows']:.2f} ms CPU a row")  # fmt: skip


if __name__ == "__main__":
    main()
