"""What folding, decoding and markers cost on a million tokens, and how the cost grows.

    python benchmarks/long_context_text.py [--runs N] [--json FILE]

Three texts of 4.5 million characters (about a million tokens): financial reports in ASCII, the same with 1.1 % of other
characters (accents, dashes, quotes, invisible ones, a few letters of other scripts), and source code. CPU seconds are of
all threads. The corpora are the development haystacks, which must be beside the project.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from shieldkit import Policy, Shield
from shieldkit.markers import MarkerEngine, runs
from shieldkit.text import canonicalise, digest, signals

HAYSTACK = ROOT.parent / "shared" / "corpora" / "haystack"
MILLION = 4_500_000
OTHERS = "éàüößçñ–—’“”…•½ﬁ€£\u00a0\u00ad\u200bжΩ中🙂ａ"


def haystack(name: str, length: int) -> str:
    """So many characters of ASCII."""
    with gzip.open(HAYSTACK / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read().replace("\f", "\n").encode("ascii", "ignore").decode()
    return (text * (1 + length // len(text)))[:length]


def mixed(text: str, share: float = 0.011) -> str:
    """The same text with a share of its characters replaced by others, the same ones each time."""
    draw, out = random.Random(1), list(text)
    for place in draw.sample(range(len(out)), int(share * len(out))):
        out[place] = draw.choice(OTHERS)
    return "".join(out)


def timed(function: Callable[[], Any], count: int) -> dict[str, float]:
    """Medians of CPU and wall, in milliseconds; the lowest CPU too, for a machine that does other work beside."""
    function()
    cpu, wall = [], []
    for _ in range(count):
        start, start_cpu = time.perf_counter(), time.process_time()
        function()
        cpu.append(1000 * (time.process_time() - start_cpu))
        wall.append(1000 * (time.perf_counter() - start))
    return {"cpu_ms": statistics.median(cpu), "wall_ms": statistics.median(wall), "least_cpu_ms": min(cpu)}


def costs(engine: MarkerEngine, text: str, count: int) -> dict[str, dict[str, float]]:
    """Folding and decoding, markers, and both."""
    canonical = canonicalise(text)

    def markers(of: Any) -> list[Any]:
        return [*engine.find(of), *runs(of), *signals(of.original)]

    return {
        "fold and decode": timed(lambda: canonicalise(text), count),
        "markers": timed(lambda: markers(canonical), count),
        "both": timed(lambda: markers(canonicalise(text)), count),
        "digest": timed(lambda: digest(text), count),
    }


def growth(engine: MarkerEngine, text: str, count: int) -> dict[str, Any]:
    """Lowest CPU of both at four lengths, and the exponent of the power law through them: 1 is linear."""
    lengths = [len(text) // 8, len(text) // 4, len(text) // 2, len(text)]

    def both(of: str) -> None:
        canonical = canonicalise(of)
        engine.find(canonical)
        list(runs(canonical))
        list(signals(of))

    took = []
    for length in lengths:
        part = text[:length]
        took.append(timed(lambda part=part: both(part), count)["least_cpu_ms"])  # type: ignore[misc]
    slope = float(np.polyfit(np.log(lengths), np.log(took), 1)[0])
    return {"characters": lengths, "least_cpu_ms": took, "exponent": slope}


def one_more_message(text: str, count: int) -> dict[str, float]:
    """Screening by markers of a conversation that was screened before, with one more message at its end."""
    policy = Policy.from_yaml("name: markers\nguards: {markers: {}}")
    with Shield(policy) as shield:
        shield.screen([text])
        number = iter(range(10**6))
        return timed(lambda: shield.screen([text, f"And what was it in year {next(number)}?"]), count)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not HAYSTACK.is_dir():
        raise SystemExit("the development corpora are not beside the project")
    engine = MarkerEngine()
    ascii_text = haystack("finance", MILLION)
    texts = {"ASCII": ascii_text, "mixed": mixed(ascii_text), "code": haystack("code", MILLION)}
    result: dict[str, Any] = {}
    print(f"{MILLION:,} characters{'':12} {'CPU':>9} {'wall':>9} {'lowest CPU':>11}")
    for name, text in texts.items():
        result[name] = costs(engine, text, options.runs)
        result[name]["one more message"] = one_more_message(text, options.runs)
        for step, row in result[name].items():
            print(f"{name:8} {step:18} {row['cpu_ms']:6.1f} ms {row['wall_ms']:6.1f} ms {row['least_cpu_ms']:8.1f} ms")
    for name in ("ASCII", "mixed"):
        fit = result[f"{name} growth"] = growth(engine, texts[name] * 2, options.runs)
        steps = ", ".join(f"{t:.0f}" for t in fit["least_cpu_ms"])
        print(f"{name}: {steps} ms at 0.25, 0.5, 1 and 2 million tokens: length to the power {fit['exponent']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
