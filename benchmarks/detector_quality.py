"""What the default policy does on the development corpora: caught and false alarms, by kind, source and disguise.

    python benchmarks/detector_quality.py [--rows N] [--json FILE]

Whole rows, each in its own role, through `Shield("builtin:default")` at its default thresholds. Up to N rows of each kind
and source are drawn (seed fixed; all encoded ones are taken). The shipped weights were trained on rows of these corpora:
these shares say how well the detector knows what it has seen. What it does on sources that it has not seen is in the
model card. The last table writes attacks that are caught as they are, and ordinary chats, in each disguise. Takes about
three minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _shared import SEED, drawn, machine, rows, save, table

from shieldkit import Segment, Shield
from shieldkit.evaluation import DISGUISES, Case, Judge, Report, run

KINDS = (
    "direct_injection", "jailbreak", "system_prompt_extraction", "x_slabs", "indirect_injection", "special_token",
    "encoded", "benign_chat", "benign_document", "benign_trigger_words", "benign_markup",
)  # fmt: skip
SPOKEN = ("direct_injection", "jailbreak", "system_prompt_extraction")
FOURTEEN = {name: name for name in DISGUISES if name not in ("case", "backslash_escapes")}
DISGUISED, HIDDEN = 80, 300


def cases(most: int) -> Iterable[Case]:
    """A sample of each kind and source."""
    for kind in KINDS:
        members: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in rows(kind):
            members.setdefault((row["label"], row["source"]), []).append(row)
        for (label, source), found in sorted(members.items()):
            for row in drawn(found, most):
                role = row.get("role") or "user"
                facets = {"kind": kind, "label": label, "source": source, "role": role}
                yield Case(str(row["id"]), (Segment(row["text"], role),), label == "attack", facets)


def disguised(judge: Judge) -> Iterable[Case]:
    """Attacks that are caught as they are, in each disguise."""
    plain = [r["text"] for r in rows(*SPOKEN) if 40 <= len(r["text"]) <= 400 and r.get("lang", "en") == "en"]
    caught: list[str] = []
    for text in drawn(plain, 10 * DISGUISED):
        if len(caught) < DISGUISED and judge(Case("", (Segment(text),), True)).caught:
            caught.append(text)
    for name in FOURTEEN:
        for n, text in enumerate(caught):
            yield Case(f"{name} {n}", (Segment(DISGUISES[name](text)),), True, {"disguise": name})


def hidden() -> Iterable[Case]:
    """Ordinary chats in each disguise: to hide something harmless is no attack."""
    for n, row in enumerate(drawn([r for r in rows("benign_chat") if len(r["text"]) <= 400], HIDDEN)):
        for name in FOURTEEN:
            yield Case(f"{name} {n}", (Segment(DISGUISES[name](row["text"])),), False, {"disguise": name})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with Shield("builtin:default") as shield:
        judge = Judge(shield)
        report = Report(tuple(run(cases(options.rows), judge)))
        encoded = Report(tuple(run((*disguised(judge), *hidden()), judge)))
    show(report, encoded, options.rows)
    save({"machine": machine(), "rows": figures(report), "disguises": figures(encoded)}, options.json)


def figures(report: Report) -> dict[str, Any]:
    """The report without its outcomes."""
    return {key: value for key, value in report.to_dict().items() if key != "outcomes"}


def show(report: Report, encoded: Report, most: int) -> None:
    print(f"{machine()}; up to {most} rows of each kind and source, seed {SEED}")
    for facets in (("kind", "label"), ("kind", "source")):
        lines = [(g.name, g.caught, g.false_alarms, g.failed.count) for g in report.groups(*facets)]
        table((" and ".join(facets), "caught", "false alarms", "not judged"), lines)
    lines = [
        (s.guard, f"{s.auc:.4f}", f"{s.recall_at_1_percent:.1%}", s.attacks, s.benign) for s in report.separation()
    ]
    table(("scores of", "ROC-AUC", "recall at 1 % false alarms", "attacks", "benign"), lines)
    groups = encoded.groups("disguise")
    lines = [(g.name, g.caught, g.false_alarms) for g in groups]
    table(("disguise", "attacks caught plain: caught", "ordinary chats: false alarms"), lines)
    below = [g.name for g in groups if g.caught.share < 0.95]
    print(f"95 % in each of {len(groups)} disguises: {'yes' if not below else 'no: ' + ', '.join(below)}")
    missed: dict[str, int] = {}
    for outcome in report.outcomes:
        if outcome.failed:
            missed[outcome.failed] = missed.get(outcome.failed, 0) + 1
    if missed:
        print("not judged, because of:", ", ".join(f"{reason} ({n})" for reason, n in missed.items()))


if __name__ == "__main__":
    main()
