"""What the shipped injection detector does at the default threshold, on the development corpora.

    python benchmarks/injection.py [--json FILE]

The shipped weights were trained on these rows: the shares say how well the detector knows what it has seen, and how
often it is wrong there. What it does on sources that it has not seen is in `training/sweep-report.json`, made by
`python -m training.train_sweep`. Each row is screened by the whole guard, in its own role.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from shieldkit import Policy, Segment, Shield

CORPORA = ROOT.parent / "shared" / "corpora"
KINDS = (
    "direct_injection", "jailbreak", "system_prompt_extraction", "x_slabs", "indirect_injection", "encoded",
    "benign_chat", "benign_document", "benign_trigger_words", "benign_markup",
)  # fmt: skip


def on_rows(shield: Shield) -> dict[str, dict[str, Any]]:
    """By kind and label: rows, and the share that is blocked."""
    out = {}
    for kind in KINDS:
        rows, blocked = Counter[str](), Counter[str]()
        with gzip.open(CORPORA / "dev" / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                rows[row["label"]] += 1
                screening = shield.screen(Segment(row["text"], role=row.get("role") or "user"))
                blocked[row["label"]] += not screening.allowed
        for label, count in rows.items():
            out[f"{kind} ({label})"] = {"rows": count, "blocked": blocked[label], "share": blocked[label] / count}
    return out


def on_haystacks(shield: Shield) -> dict[str, dict[str, Any]]:
    """By haystack: characters, alarms (separate places), and CPU seconds for the whole screening."""
    out = {}
    for path in sorted((CORPORA / "haystack").glob("*.txt.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
        start = time.process_time()
        found = [f for f in shield.screen(text).findings if f.score >= 0.5]
        out[path.name.split(".")[0]] = {
            "characters": len(text), "alarms": len(found), "cpu_s": time.process_time() - start
        }  # fmt: skip
    return out


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not CORPORA.is_dir():
        sys.exit("the development corpora are not beside the project")
    policy = Policy.from_yaml("name: injection\nguards: {injection: {timeout: 1h}}")
    with Shield(policy) as shield:
        result = {"rows": on_rows(shield), "haystacks": on_haystacks(shield)}
    for name, row in result["rows"].items():
        print(f"{name:36} {row['blocked']:6} of {row['rows']:6} blocked  {row['share']:7.2%}")
    for name, row in result["haystacks"].items():
        print(f"{name:36} {row['alarms']:6} alarms in {row['characters']:,} characters, {row['cpu_s']:.1f} s CPU")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
