"""How long the schema gate and the validators behind it take on one realistic answer.

python benchmarks/validators.py [--runs N] [--json FILE]
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

import jsonschema_rs
from pydantic import BaseModel

from shieldkit.schema import Limits, compile_schema
from shieldkit.schema.strict import parse


class Item(BaseModel):
    """One line of an order."""

    name: str
    price: float
    quantity: int
    tags: list[str]


class Order(BaseModel):
    """An order of eleven items."""

    number: str
    customer: str
    paid: bool
    items: list[Item]


ORDER = {
    "number": "A-17",
    "customer": "Riverbank",
    "paid": True,
    "items": [
        {"name": f"Item number {n}", "price": 9.5 * n, "quantity": n, "tags": ["new", "on the left of the shelf"] * 3}
        for n in range(1, 12)
    ],
}
TEXT = json.dumps(ORDER)


def timed(function: Callable[[], Any], runs: int) -> float:
    """Median microseconds."""
    took = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        function()
        took.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(took)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    schema = Order.model_json_schema()
    rust = jsonschema_rs.validator_for(schema, pattern_options=jsonschema_rs.RegexOptions(), offline=True)
    by_schema, by_model = compile_schema(schema), compile_schema(Order)
    cases: dict[str, Callable[[], Any]] = {
        "json.loads": lambda: json.loads(TEXT),
        "strict reading": lambda: parse(TEXT, Limits()),
        "jsonschema-rs, read value": lambda: rust.is_valid(ORDER),
        "pydantic, from text, strict": lambda: Order.model_validate_json(TEXT, strict=True),
        "gate of a JSON Schema": lambda: by_schema.read(TEXT),
        "gate of a pydantic model": lambda: by_model.read(TEXT),
    }
    rows = {name: timed(case, options.runs) for name, case in cases.items()}
    print(f"an answer of {len(TEXT):,} bytes")
    for name, median in rows.items():
        print(f"{name:30} {median:8.1f} us")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
