"""What telemetry costs a request of eight guards and one call of a model.

    python benchmarks/overhead_telemetry.py [--runs N] [--json FILE]

Three set-ups: no OpenTelemetry SDK and no logging (what an application pays that wants neither); an SDK that samples
nothing; an SDK that keeps all spans and metrics in memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from shieldkit.outcome import Action, Coverage, Stage, Status, Usage, Verdict
from shieldkit.telemetry import Telemetry

GUARDS = ("budget", "markers", "injection", "topics", "safety", "leak", "safety", "schema")
VERDICTS = [Verdict(g, Stage.INPUT, Status.RAN, Action.ALLOW, Action.ALLOW, Coverage(500, 500)) for g in GUARDS]


def request(telemetry: Telemetry) -> None:
    """All that a request records."""
    trace = telemetry.request("invoke")
    for verdict in VERDICTS:
        now_ns = time.time_ns()
        trace.guard(verdict, now_ns, now_ns)
    trace.model("llama.cpp", "a-model").end(Usage(100, 20), "stop")
    trace.finish(refused=False, rule="", usage=Usage(100, 20), action="allow")


def timed(telemetry: Telemetry, runs: int) -> dict[str, float]:
    """Median and 99th percentile of a request, in microseconds."""
    for _ in range(200):
        request(telemetry)
    took = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        request(telemetry)
        took.append((time.perf_counter_ns() - start) / 1e3)
    return {"median_us": statistics.median(took), "p99_us": sorted(took)[int(0.99 * len(took))]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keeping = TracerProvider()
    keeping.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    setups: dict[str, dict[str, Any]] = {
        "no SDK": {},
        "SDK, nothing sampled": {"tracer_provider": TracerProvider(sampler=ALWAYS_OFF)},
        "SDK, all kept in memory": {
            "tracer_provider": keeping,
            "meter_provider": MeterProvider([InMemoryMetricReader()]),
        },
    }
    rows = {}
    print(f"{'a request with 8 guards':26} {'median':>10} {'p99':>10}")
    for name, providers in setups.items():
        row = timed(Telemetry(policy="p", policy_version="1", mode="enforce", **providers), options.runs)
        rows[name] = row
        print(f"{name:26} {row['median_us']:>7.0f} us {row['p99_us']:>7.0f} us")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
