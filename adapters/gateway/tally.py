"""What the gateway counts, for the metrics and the dashboard: one count, shown twice.

Numbers, names of guards and rules, and times; never text, and never an id of a principal. Rule ids come from guards, which
may be anybody's: only what looks like an id is kept, and no more of them than `MAX_RULES`.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from shieldkit.outcome import Action, Reply, Usage, Verdict
from shieldkit.telemetry.names import BUCKETS_GUARD_S, BUCKETS_S, OTHER

MAX_RULES = 512
MAX_GUARDS = 64
SLOT_S, SLOTS = 10, 60
"""How fine the history is, and how long: ten minutes."""

RECENT = 512
_ID = re.compile(r"[\w.:/-]{1,80}")

Outcome = str  # answered | refused | error | gone


class Histogram:
    """Counts by bucket, and the recent values themselves, of which quantiles are exact."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.recent: deque[float] = deque(maxlen=RECENT)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.recent.append(value)

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """The quantile of the last `RECENT` values; 0 when there are none."""
        ordered = sorted(self.recent)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(slots=True)
class Slot:
    """What happened in `SLOT_S` seconds; `number` counts them since the epoch."""

    number: int
    answered: int = 0
    refused: int = 0
    error: int = 0


@dataclass(slots=True)
class RuleCount:
    """How often a rule refused, and when last (seconds since the epoch)."""

    guard: str
    stage: str
    count: int = 0
    last_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """All counts since the start. Used from the event loop's thread alone."""

    started_s: float = field(default_factory=time.time)
    requests: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, RuleCount] = field(default_factory=dict)
    watched: Counter[str] = field(default_factory=Counter)
    guards: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    seconds: Histogram = field(default_factory=lambda: Histogram(BUCKETS_S))
    usage: Usage = field(default_factory=Usage)
    in_flight: int = 0
    history: deque[Slot] = field(default_factory=lambda: deque(maxlen=SLOTS))

    def replied(self, surface: str, reply: Reply, seconds: float) -> None:
        """Count a reply: an answer or a refusal."""
        outcome = "refused" if reply.refused else "answered"
        self._outcome(surface, outcome)
        self.seconds.add(seconds)
        self.usage += reply.usage
        self._verdicts(reply.verdicts)
        if reply.refusal is not None:
            rule = self._rule(reply.refusal.guard, reply.refusal.rule)
            entry = self.refusals.setdefault(
                rule, RuleCount(self._guard(reply.refusal.guard), reply.refusal.stage.value)
            )
            entry.count += 1
            entry.last_s = time.time()

    def failed(self, surface: str, code: str) -> None:
        """Count a request that ended in an error; `code` is one of the gateway's own."""
        self._outcome(surface, "error")
        self.errors[code] += 1

    def left(self, surface: str) -> None:
        """Count a request whose client went away."""
        self._outcome(surface, "gone")

    def total(self, outcome: Outcome) -> int:
        """Requests with this outcome, of all surfaces."""
        return sum(n for (_, o), n in self.requests.items() if o == outcome)

    def _outcome(self, surface: str, outcome: Outcome) -> None:
        self.requests[surface, outcome] += 1
        now = int(time.time() // SLOT_S)
        if not self.history or self.history[-1].number != now:
            self.history.append(Slot(now))
        if outcome != "gone":
            slot = self.history[-1]
            setattr(slot, outcome, getattr(slot, outcome) + 1)

    def _verdicts(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.would is Action.BLOCK and verdict.action is Action.FLAG:
                self.watched[self._rule(verdict.guard, verdict.rule)] += 1
            if verdict.duration_s > 0:
                key = (self._guard(verdict.guard), verdict.stage.value)
                self.guards.setdefault(key, Histogram(BUCKETS_GUARD_S)).add(verdict.duration_s)

    def _guard(self, name: str) -> str:
        known = {guard for guard, _ in self.guards}
        return name if _ID.fullmatch(name) and (name in known or len(known) < MAX_GUARDS) else OTHER

    def _rule(self, guard: str, rule: str) -> str:
        known = rule in self.refusals or rule in self.watched
        room = len(self.refusals) + len(self.watched) < MAX_RULES
        return rule if known or (room and _ID.fullmatch(rule)) else f"{self._guard(guard)}.{OTHER}"
