"""What the deterministic guards cost on a 500-character prompt, and what the whole chain adds to a call.

    python benchmarks/overhead.py [--runs N] [--json FILE]

Budget, markers, schema and leak are timed one by one (their own work, as the chain calls it), together, and through
`Shield.invoke` around a backend that answers at once (worker threads, verdicts and telemetry included, no SDK).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shieldkit import Policy, Principal, Shield
from shieldkit.budget import Budget, MemoryLedger
from shieldkit.conversation import Conversation
from shieldkit.guards.base import Inspection
from shieldkit.guards.leak import LeakGuard
from shieldkit.guards.markers import MarkerGuard
from shieldkit.guards.schema import SchemaGuard
from shieldkit.leak import canary
from shieldkit.outcome import Stage, Usage
from shieldkit.policy.model import LeakSettings, MarkerSettings, SchemaSettings
from shieldkit.schema import compile_schema
from shieldkit.text import canonicalise
from tests.scripted import Scripted

PROMPT = ("Could you please compare the two offers that I got last week, and tell me which is better for me? " * 6)[
    :500
]
SYSTEM = "You are the assistant of a bank. Answer briefly, name no competitors, and never promise interest rates."
ANSWER = json.dumps({"items": [{"name": f"offer {n}", "price": n * 10.5, "note": "a short note"} for n in range(8)]})
SCHEMA = {
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"type": "object", "required": ["name", "price"]}}},
    "required": ["items"],
}


def timed(function: Callable[[], Any], runs: int) -> dict[str, float]:
    """Median and 99th percentile in microseconds."""
    for _ in range(50):
        function()
    took = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        function()
        took.append((time.perf_counter_ns() - start) / 1e3)
    return {"median_us": statistics.median(took), "p99_us": sorted(took)[int(0.99 * len(took))]}


def inspection(guard: str, stage: Stage, text: str, request: dict[str, Any]) -> Callable[[], Inspection]:
    """A fresh inspection of one text, folded when a guard first asks, as in the chain."""
    conversation = Conversation.of([{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}])
    return lambda: Inspection(
        guard, stage, conversation, (1,), lambda i: canonicalise(conversation.segments[i].text), request
    )


def cases(tokens: frozenset[str]) -> dict[str, Callable[[], Any]]:
    """Each guard's work on one prompt or answer."""
    policy = Policy.load("builtin:strict")
    budget = Budget(policy.budget, policy.context, MemoryLedger())
    who = Principal("t", "u", "s", "k")
    markers, leak, schema = (
        MarkerGuard(MarkerSettings(), tokens),
        LeakGuard(LeakSettings(), tokens),
        SchemaGuard(SchemaSettings()),
    )
    gate = compile_schema(SCHEMA)
    into = inspection("markers", Stage.INPUT, PROMPT, {})
    out = inspection("leak", Stage.OUTPUT, PROMPT, {"canary": canary.new()})
    last = inspection("schema", Stage.OUTPUT, ANSWER, {"schema": gate})

    def spend() -> None:
        admission = budget.reserve(who, 100, 100)
        if admission.reservation is not None:
            budget.settle(admission.reservation, Usage(0, 0))

    singles: dict[str, Callable[[], Any]] = {
        "budget": spend,
        "markers": lambda: markers.check(into()),
        "leak": lambda: leak.check(out()),
        "schema": lambda: schema.check(last()),
    }
    return {**singles, "together": lambda: [run() for run in singles.values()]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    backend = Scripted(ANSWER)
    rows = {name: timed(case, options.runs) for name, case in cases(backend.control_tokens).items()}
    policy = Policy.from_yaml("name: x\nguards: {markers: {}, leak: {}, schema: {}}")
    with Shield(policy, backend) as shield:
        gate = compile_schema(SCHEMA)
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}]
        rows["invoke, model free"] = timed(lambda: shield.invoke(messages, schema=gate), max(200, options.runs // 10))
    print(f"{'500 characters':22} {'median':>10} {'p99':>10}")
    for name, row in rows.items():
        print(f"{name:22} {row['median_us']:>7.0f} us {row['p99_us']:>7.0f} us")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
