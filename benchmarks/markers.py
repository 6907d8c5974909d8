"""What the marker engine finds, what it costs, and how often it is wrong.

    python benchmarks/markers.py [--json FILE]

By disguise: the share of the catalogue's certain tokens that are found, each in a carrier sentence. Long clean text and
benign rows come from the development corpora, where they are beside the project.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shieldkit.markers import MarkerEngine, catalogue, runs
from shieldkit.text import canonicalise, signals
from tests.disguises import DISGUISES

CORPORA = ROOT.parent / "shared" / "corpora"
ENGINE = MarkerEngine()


def noticed(text: str) -> bool:
    """Whether anything at or above the default threshold is found."""
    canonical = canonicalise(text)
    found = [*ENGINE.find(canonical), *runs(canonical), *signals(text)]
    return any(f.score >= 0.5 for f in found)


def by_disguise() -> dict[str, float]:
    """Share of the catalogue found."""
    certain = [t.text for t in catalogue() if not t.regex and not t.ambiguous]
    ways = {"verbatim": str, **{n: d for n, d in DISGUISES.items() if n != "leet"}}
    return {
        name: sum(noticed(f"please see {way(t)} now") for t in certain) / len(certain) for name, way in ways.items()
    }


def on_rows() -> dict[str, float]:
    """Share of development rows with a finding."""
    out = {}
    for kind in ("special_token", "benign_chat", "benign_document", "benign_trigger_words", "benign_markup"):
        with gzip.open(CORPORA / "dev" / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
            rows = [json.loads(line)["text"] for line in lines]
        out[kind] = sum(map(noticed, rows)) / len(rows)
    return out


def on_haystacks() -> dict[str, dict[str, float]]:
    """Findings in long clean text, and CPU milliseconds for folding, decoding and finding."""
    out = {}
    for path in sorted((CORPORA / "haystack").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = file.read()[:4_500_000]
        start = time.process_time()
        canonical = canonicalise(text)
        folded = time.process_time()
        found = [f for f in (*ENGINE.find(canonical), *runs(canonical), *signals(text)) if f.score >= 0.5]
        out[path.name.split(".")[0]] = {
            "characters": len(text), "findings": len(found), "canonical_ms": 1000 * (folded - start),
            "find_ms": 1000 * (time.process_time() - folded),
        }  # fmt: skip
    return out


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"by_disguise": by_disguise()}
    for name, share in result["by_disguise"].items():
        print(f"{name:22} {share:7.1%}")
    if CORPORA.is_dir():
        result |= {"rows": on_rows(), "haystacks": on_haystacks()}
        for name, share in result["rows"].items():
            print(f"{name:22} {share:7.2%} of rows")
        for name, row in result["haystacks"].items():
            print(
                f"{name:22} {row['findings']} findings in {row['characters']:,} characters; "
                f"canonical {row['canonical_ms']:.0f} ms, markers {row['find_ms']:.0f} ms"
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
