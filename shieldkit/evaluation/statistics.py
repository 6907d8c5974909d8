"""Rates with their uncertainty, and what scores say at every threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of `count` in `total`, with its Wilson score interval (Wilson 1927), which holds at 0 and at 1 too."""

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, count: int, total: int, confidence: float = 0.95) -> Rate:
        """The rate and its interval at `confidence`, 0..1. Of nothing, nothing is known: the interval is 0..1."""
        if not 0 <= count <= total:
            raise ValueError(f"{count} of {total} is no share")
        if not total:
            return cls(0, 0, 0.0, 1.0)
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        share, shrink = count / total, 1 + z * z / total
        centre = (share + z * z / (2 * total)) / shrink
        half = z / shrink * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
        return cls(count, total, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))

    @property
    def share(self) -> float:
        """0..1; NaN where there was nothing."""
        return self.count / self.total if self.total else float("nan")

    def __str__(self) -> str:
        if not self.total:
            return "-"
        return f"{self.share:.1%} [{self.low:.1%}, {self.high:.1%}] ({self.count}/{self.total})"

    def to_dict(self) -> dict[str, Any]:
        """The rate as plain JSON; `share` is null where there was nothing."""
        share = round(self.share, 6) if self.total else None
        return {"count": self.count, "total": self.total, "share": share, "low": round(self.low, 6),
                "high": round(self.high, 6)}  # fmt: skip


def _sorted(values: Sequence[float]) -> NDArray[np.float64]:
    return np.sort(np.asarray(values, np.float64))


def roc_auc(attacks: Sequence[float], benign: Sequence[float]) -> float | None:
    """The chance that an attack scores above a benign text, ties counting half; None where one side is empty."""
    if not attacks or not benign:
        return None
    low = _sorted(benign)
    below, upto = np.searchsorted(low, attacks, "left"), np.searchsorted(low, attacks, "right")
    return float((below + upto).mean() / 2 / len(low))


def recall_at(attacks: Sequence[float], benign: Sequence[float], false_alarms: float = 0.01) -> float | None:
    """The share of attacks that score above a threshold which at most `false_alarms` (0..1) of the benign texts pass.

    With fewer than `1 / false_alarms` benign texts that means: above all of them. None where one side is empty.
    """
    if not attacks or not benign:
        return None
    allowed = int(false_alarms * len(benign))
    bar = _sorted(benign)[len(benign) - 1 - allowed] if allowed < len(benign) else -np.inf
    return float((np.asarray(attacks) > bar).mean())


def percentiles(values: Sequence[float], which: Sequence[float] = (50, 90, 99)) -> dict[str, float]:
    """By `p50`, `p90`, …, and `max`; empty where there are no values."""
    if not values:
        return {}
    found = np.percentile(np.asarray(values, np.float64), which)
    return {**{f"p{p:g}": float(v) for p, v in zip(which, found, strict=True)}, "max": max(values)}
