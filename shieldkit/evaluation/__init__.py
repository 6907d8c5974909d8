"""Measuring defences: how many attacks a guard, a policy or a model lets through, where, and at what cost.

    from shieldkit.evaluation import Matrix, evaluate, read, read_haystack, write

    report = evaluate(read(["attacks.jsonl"]), "builtin:default")
    report = evaluate(Matrix(read_haystack(["book.txt"]), lengths=[1_000, 100_000]), "builtin:default")
    write(report, "results")

What stands between, in the order of the data:

    corpus.py, matrix.py     cases, from files or made: attacks at every depth, length, placement and disguise
    judging.py, running.py   outcomes, from a `Shield` with or without its model
    report.py, statistics.py rates with intervals, scores at every threshold, latencies, gates
    writing.py, heatmap.py   files
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from shieldkit.conversation import Role
from shieldkit.evaluation.cases import Case, Outcome, Planted
from shieldkit.evaluation.corpus import read, sample
from shieldkit.evaluation.disguises import DISGUISES
from shieldkit.evaluation.haystack import CHARS_A_TOKEN, read_haystack
from shieldkit.evaluation.judging import TASK, Judge, shield_for
from shieldkit.evaluation.matrix import ATTACKS, Attack, Matrix
from shieldkit.evaluation.placing import PLACEMENTS, Buried, bury
from shieldkit.evaluation.report import METRICS, Gate, Group, Report, Separation
from shieldkit.evaluation.running import run
from shieldkit.evaluation.statistics import Rate, percentiles, recall_at, roc_auc
from shieldkit.evaluation.writing import write
from shieldkit.guards.base import Guard
from shieldkit.policy import Policy
from shieldkit.shield import Shield

__all__ = [
    "ATTACKS",
    "CHARS_A_TOKEN",
    "DISGUISES",
    "METRICS",
    "PLACEMENTS",
    "TASK",
    "Attack",
    "Buried",
    "Case",
    "Gate",
    "Group",
    "Judge",
    "Matrix",
    "Outcome",
    "Planted",
    "Rate",
    "Report",
    "Role",
    "Separation",
    "bury",
    "evaluate",
    "percentiles",
    "read",
    "read_haystack",
    "recall_at",
    "roc_auc",
    "run",
    "sample",
    "shield_for",
    "write",
]


def evaluate(
    cases: Iterable[Case] | Matrix, subject: Shield | Guard | Policy | str = "builtin:default", *, jobs: int = 1,
    on_outcome: Callable[[Outcome], None] | None = None, **options: Any,
) -> Report:  # fmt: skip
    """Run all cases, and report.

    `subject`: a `Shield` (which stays open), a policy or the name of its file, or a single guard. `options` are those of
    `Judge`: `stage`, `ask`, `count`, `task`, `keep_text`. `on_outcome` is told each outcome as it comes. An interruption
    (Ctrl-C) is raised; to keep what was measured until then, use `run` and `Report`.
    """
    made = None
    if isinstance(subject, Shield):
        shield = subject
    elif isinstance(subject, Policy | str):
        shield = made = shield_for(subject, stage=options.get("stage", "input"))
    else:
        shield = made = shield_for(guard=subject, stage=options.get("stage", "input"))
    try:
        outcomes = []
        for outcome in run(cases.cases() if isinstance(cases, Matrix) else cases, Judge(shield, **options), jobs=jobs):
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome)
        return Report(tuple(outcomes), shield.describe(), planned=len(outcomes))
    finally:
        if made is not None:
            made.close()
