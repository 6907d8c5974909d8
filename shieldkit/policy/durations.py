"""Durations of a policy: a number and a unit in the file, seconds in Python.

In a file a number alone is refused: whoever writes `timeout: 250` may mean milliseconds, and the shield would wait four
minutes. Python callers may give seconds, as every name that ends in `_s` does.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

PATTERN = r"^[0-9]{1,9}(\.[0-9]{1,40})? ?(ms|s|m|h|d)$"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_READ = re.compile(PATTERN)


def seconds(text: str) -> float | None:
    """`250ms`, `2s`, `5m`, `1h`, `7d` in seconds; None when it is no duration."""
    match = _READ.fullmatch(text.strip())
    if match is None:
        return None
    unit = match[2]
    return float(text.strip().removesuffix(unit)) * _UNITS_S[unit]


def written(value: float) -> str:
    """A duration as a policy writes it: in the largest unit that it is a whole number of, and always read again as it was."""
    for unit in ("d", "h", "m", "s", "ms"):
        count = round(value / _UNITS_S[unit])
        if count > 0 and count * _UNITS_S[unit] == value:
            return f"{count}{unit}"
    return f"{Decimal(repr(float(value))):f}s"


def _read(value: Any, info: ValidationInfo) -> Any:
    """`info.context["written"]`: the value stands in a file."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if (info.context or {}).get("written"):
            raise ValueError(f"is a number without a unit: write {value}ms or {value}s")
        return value
    found = seconds(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is not a duration: write a number and a unit, such as 250ms, 2s, 5m, 1h or 7d")
    return found


Seconds = Annotated[
    float,
    BeforeValidator(_read),
    Field(gt=0, le=31_536_000),
    PlainSerializer(written, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": PATTERN}, mode="validation"),
]
