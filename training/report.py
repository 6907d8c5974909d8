"""How well the encoder does on sources that it had not seen: the model card's table.

    python -m training.report CALIBRATION.json HELD_OUT.jsonl [HELD_OUT.jsonl ...]

The held-out files are `training.evaluate`'s, one a fold. A text's score is that of its highest window, as the detector
takes it: the direct head's for what users say, both heads' for documents and tool results.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

ATTACKS = ("direct_injection", "jailbreak", "indirect_injection")
ORDINARY = ("benign_chat", "benign_document", "benign_trigger_words")


def held_out(paths: list[str]) -> list[dict]:
    """The rows of all files, each with `top`: its highest logit for each head."""
    found = []
    for path in paths:
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                row["top"] = np.array(row["logits"]).max(axis=0)
                found.append(row)
    return found


def without(rows: list[dict]) -> None:
    """The three kinds again, without what decides most: prompts that lack their system prompt, documents that are tasks."""
    attacks = [r for r in rows if r["kind"] in ATTACKS and 1 in (r["direct"], r["data"]) and r["source"] != "S-Labs"]
    attacks = [r for r in attacks if (r["source"], r["kind"]) != ("CyberSecEval", "direct_injection")]
    ordinary = [r for r in rows if r["kind"] in ORDINARY and r["direct"] == 0]
    for name, off in (
        ("CyberSecEval's direct prompts", ordinary),
        ("these and LegalBench", [r for r in ordinary if r["source"] != "LegalBench"]),
    ):
        on, other = (np.array([r["score"] for r in found]) for found in (attacks, off))
        auc = roc_auc_score(np.r_[np.ones(len(on)), np.zeros(len(other))], np.r_[on, other])
        print(f"| all three without {name} | {len(on)} | {auc:.3f} | {np.mean(on > np.quantile(other, 0.99)):.2f} | |")


def main() -> None:
    """Print the table."""
    shifts = [row[3] for row in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["rows"]]
    rows = held_out(sys.argv[2:])
    for row in rows:
        above = row["top"] - np.array(shifts)
        row["score"] = float(above.max() if row["role"] in ("document", "tool") else above[0])
    off = np.array([r["score"] for r in rows if r["kind"] in ORDINARY and r["direct"] == 0])
    bar = float(np.quantile(off, 0.99))
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        attack = row["direct"] == 1 or row["data"] == 1
        groups[("attack" if attack else "benign"), f"{row['kind']}, {row['source']}"].append(row["score"])
        if attack and row["kind"] in ATTACKS and row["source"] != "S-Labs":
            groups["attack", f"all {row['kind']}"].append(row["score"])
            groups["attack", "all three"].append(row["score"])
    print(f"{len(off)} ordinary texts; 1 % of them are {bar:+.2f} from the threshold or higher\n")
    print(
        "| what | texts | ROC-AUC | recall at 1 % false alarms | at the threshold |\n| --- | ---: | ---: | ---: | ---: |"
    )
    for (label, name), scores in sorted(groups.items()):
        on = np.array(scores)
        if label == "attack":
            auc = roc_auc_score(np.r_[np.ones(len(on)), np.zeros(len(off))], np.r_[on, off])
            print(f"| {name} | {len(on)} | {auc:.3f} | {np.mean(on > bar):.2f} | {np.mean(on >= 0):.2f} |")
        else:
            print(f"| {name} | {len(on)} | | | {np.mean(on >= 0):.3f} false alarms |")
    without(rows)


if __name__ == "__main__":
    main()
