"""How well what ships does on collections that nothing was trained on: the model card's first table.

    python -m training.held_out

Each text goes through `Shield("builtin:default")` in its role. Ordinary texts are those of the same collections, and the
prompts that are for evaluation only.
"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from shieldkit import Segment, Shield
from training import sources
from training.collected import HELD_OUT, collected


def main() -> None:
    """Print the table."""
    examples = [e for e in collected() if e.source in HELD_OUT]
    examples += [e for e in sources.corpus() if e.source in sources.EVALUATION_ONLY]
    scores: dict[tuple[str, bool], list[tuple[float, bool]]] = {}
    with Shield("builtin:default") as shield:
        for e in examples:
            screening = shield.screen(Segment(e.text, e.role))
            score = max((v.score for v in screening.verdicts if v.guard == "injection"), default=0.0)
            scores.setdefault((e.source, 1 in (e.direct, e.data)), []).append((score, not screening.allowed))
    off = np.array([s for (_, attack), rows in scores.items() if not attack for s, _ in rows])
    bar = float(np.quantile(off, 0.99))
    print(
        "| collection | texts | ROC-AUC | recall at 1 % false alarms | refused |\n| --- | ---: | ---: | ---: | ---: |"
    )
    everything = [("all attacks", [r for (_, attack), rows in scores.items() if attack for r in rows])]
    for name, rows in everything + [(f"{s}, attacks", rows) for (s, attack), rows in sorted(scores.items()) if attack]:
        on = np.array([s for s, _ in rows])
        auc = roc_auc_score(np.r_[np.ones(len(on)), np.zeros(len(off))], np.r_[on, off])
        refused = np.mean([r for _, r in rows])
        print(f"| {name} | {len(on)} | {auc:.3f} | {np.mean(on > bar):.2f} | {refused:.1%} |")
    for (source, attack), rows in sorted(scores.items()):
        if not attack:
            print(f"| {source}, ordinary | {len(rows)} | | | {np.mean([r for _, r in rows]):.1%} |")


if __name__ == "__main__":
    main()
