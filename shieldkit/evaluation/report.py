"""What the outcomes say together: rates by group with intervals, scores at every threshold, latencies, gates for CI."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shieldkit.errors import ConfigurationError
from shieldkit.evaluation.cases import Outcome
from shieldkit.evaluation.statistics import Rate, percentiles, recall_at, roc_auc

METRICS = ("caught", "false_alarms", "held", "failed", "auc", "recall_at_1_percent", "p50_ms", "p99_ms")
_WORSE_BELOW = frozenset({"caught", "held", "auc", "recall_at_1_percent"})
_IN_MS = frozenset({"p50_ms", "p99_ms"})
_GATE = re.compile(r"([a-z0-9_]+)(?:@([a-z]+):([^=]*))?=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Group:
    """The outcomes of one group.

    `caught`: of the attacks, those that a guard acted on; where the place of the attack is known, at that place: an alarm
    elsewhere in the text is luck. `false_alarms`: of the benign texts, those that were acted on or could not be judged.
    `held`: of the attacks that the model was asked about, those that it did not obey or never saw. `failed`: of all, those
    without a judgement.
    """

    name: str
    caught: Rate
    false_alarms: Rate
    held: Rate
    failed: Rate

    @classmethod
    def of(cls, name: str, outcomes: Sequence[Outcome]) -> Group:
        """Count."""
        attacks, benign = [o for o in outcomes if o.attack], [o for o in outcomes if not o.attack]
        asked = [o for o in attacks if o.obeyed is not None]
        return cls(
            name,
            Rate.of(sum(o.caught for o in attacks), len(attacks)),
            Rate.of(sum(o.caught or bool(o.failed) for o in benign), len(benign)),
            Rate.of(sum(not o.obeyed for o in asked), len(asked)),
            Rate.of(sum(bool(o.failed) for o in outcomes), len(outcomes)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The group as plain JSON."""
        rates = {"caught": self.caught, "false_alarms": self.false_alarms, "held": self.held, "failed": self.failed}
        return {"name": self.name, **{name: rate.to_dict() for name, rate in rates.items()}}


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one guard's scores tell attacks from benign texts, at any threshold."""

    guard: str
    auc: float
    recall_at_1_percent: float
    attacks: int
    benign: int

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON."""
        return {"guard": self.guard, "auc": round(self.auc, 6), "attacks": self.attacks, "benign": self.benign,
                "recall_at_1_percent": round(self.recall_at_1_percent, 6)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """All outcomes of a run. `subject` describes what was evaluated, `planned` is how many cases there were to be."""

    outcomes: tuple[Outcome, ...]
    subject: Mapping[str, Any] = field(default_factory=dict)
    planned: int = 0

    @property
    def complete(self) -> bool:
        """Whether every case was run."""
        return len(self.outcomes) >= self.planned

    @property
    def facets(self) -> tuple[str, ...]:
        """What the outcomes can be grouped by."""
        return tuple(dict.fromkeys(name for outcome in self.outcomes for name in outcome.facets))

    @property
    def total(self) -> Group:
        """All outcomes as one group."""
        return Group.of("all", self.outcomes)

    def groups(self, *facets: str) -> list[Group]:
        """By the values of the facets, in the order in which they first come."""
        members: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            members.setdefault(" · ".join(outcome.facets.get(f, "-") for f in facets), []).append(outcome)
        return [Group.of(name, outcomes) for name, outcomes in members.items()]

    def separation(self) -> list[Separation]:
        """For each guard that gave scores to both sides, and for the highest of all guards (`any`)."""
        judged = [o for o in self.outcomes if not o.failed]
        guards = list(dict.fromkeys(name for o in judged for name in o.scores))
        found = []
        for guard in (*guards, "any"):
            sides: tuple[list[float], list[float]] = ([], [])
            for o in judged:
                score = o.score if guard == "any" else o.scores.get(guard)
                if score is not None:
                    sides[not o.attack].append(score)
            auc, recall = roc_auc(*sides), recall_at(*sides)
            if auc is not None and recall is not None and any(map(any, sides)):
                found.append(Separation(guard, auc, recall, len(sides[0]), len(sides[1])))
        return found

    def latency_ms(self) -> dict[str, float]:
        """Percentiles over all cases, in milliseconds."""
        return percentiles([1000 * o.latency_s for o in self.outcomes])

    def metric(self, name: str, facet: str | None = None, value: str = "") -> float | None:
        """One of `METRICS`, over all outcomes or those whose `facet` has this value; None where nothing was measured."""
        chosen = self.outcomes if facet is None else tuple(o for o in self.outcomes if o.facets.get(facet) == value)
        part = Report(chosen)
        if name in ("auc", "recall_at_1_percent"):
            return next((getattr(s, name) for s in part.separation() if s.guard == "any"), None)
        if name in ("p50_ms", "p99_ms"):
            return part.latency_ms().get(name.removesuffix("_ms"))
        share: float = getattr(part.total, name).share
        return None if math.isnan(share) else share

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain JSON, outcomes included."""
        return {
            "subject": dict(self.subject), "planned": self.planned, "done": len(self.outcomes),
            "complete": self.complete, "total": self.total.to_dict(),
            "by": {facet: [g.to_dict() for g in self.groups(facet)] for facet in self.facets},
            "separation": [s.to_dict() for s in self.separation()],
            "latency_ms": {name: round(ms, 3) for name, ms in self.latency_ms().items()},
            "outcomes": [o.to_dict() for o in self.outcomes],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gate:
    """A bar that a metric must not be under (or over), for CI: `caught=0.9`, `caught@kind:jailbreak=0.8`."""

    metric: str
    bar: float
    under: bool
    facet: str | None = None
    value: str = ""

    @classmethod
    def parse(cls, text: str, *, under: bool) -> Gate:
        """Read `METRIC=NUMBER` or `METRIC@FACET:VALUE=NUMBER`. Raises `ConfigurationError`."""
        option = "fail_under" if under else "fail_over"
        match = _GATE.fullmatch(text)
        if match is None or match[1] not in METRICS:
            mend = f"Write METRIC=NUMBER or METRIC@FACET:VALUE=NUMBER; the metrics: {', '.join(METRICS)}"
            raise ConfigurationError(option, "a gate cannot be read", mend=mend)
        metric = match[1]
        if under is not (metric in _WORSE_BELOW):
            other = "fail_over" if under else "fail_under"
            raise ConfigurationError(option, f"{metric} is the better the {'lower' if under else 'higher'} it is",
                                     mend=f"Give it as {other}")  # fmt: skip
        try:
            bar = float(match[4])
        except ValueError:
            raise ConfigurationError(
                option, f"the bar of {metric} is not a number", mend=f"Write for example {metric}=0.9"
            ) from None
        if metric not in _IN_MS and bar > 1:
            mend = f"Write {metric}={bar / 100:g} for {bar:g} %" if bar <= 100 else "Write a share of 1, such as 0.9"
            raise ConfigurationError(option, f"{metric} is a share, and never over 1", mend=mend)
        return cls(metric, bar, under, match[2], match[3] or "")

    def failure(self, report: Report) -> str:
        """What is wrong; empty when the bar is kept. What was not measured has not kept it."""
        measured = report.metric(self.metric, self.facet, self.value)
        name = self.metric + (f" of {self.facet} {self.value}" if self.facet else "")
        if measured is None:
            return f"{name} was not measured"
        if self.under and measured < self.bar:
            return f"{name} is {measured:.4g}, under {self.bar:g}"
        if not self.under and measured > self.bar:
            return f"{name} is {measured:.4g}, over {self.bar:g}"
        return ""
