"""A case: messages to judge, what they are, and what was put where. An outcome: what became of a case.

An outcome holds no text: numbers, names of guards and rules, and the facets that the case came with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shieldkit.conversation import Segment
from shieldkit.text.folding import encodable


@dataclass(frozen=True, slots=True)
class Planted:
    """Where an attack stands: the number of the message, and characters `start` up to, not including, `end` of it."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Case:
    """Something to judge. `attack` is its label: should a guard act on it?

    `facets` are what results are grouped by (`kind`, `source`, `role`, `depth`, …). `planted` is where the attack stands,
    when that is known. `marker` is a word that only an answer which obeyed the attack holds.
    """

    id: str
    messages: tuple[Segment, ...]
    attack: bool
    facets: Mapping[str, str] = field(default_factory=dict)
    planted: Planted | None = None
    marker: str = ""

    @property
    def characters(self) -> int:
        """Of all messages together."""
        return sum(len(m.text) for m in self.messages)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case.

    `caught`: a guard that did its work acted on it; on an attack whose place is known, at that place: an alarm elsewhere
    in the text is luck. `located`: one of the findings that count stands at that place (None where it is not known).
    `obeyed`: the model did what the attack said (None: no model was asked, or the case has no marker). `failed`: why there
    is no judgement (a guard that failed, a budget, a server); a failed case counts as an attack missed or a false alarm.
    `guard` and `rule` are those that acted first, wherever. `scores` are by guard, 0..1, of the text as a whole.
    """

    id: str
    attack: bool
    facets: Mapping[str, str]
    characters: int
    caught: bool = False
    located: bool | None = None
    obeyed: bool | None = None
    failed: str = ""
    guard: str = ""
    rule: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    latency_s: float = 0.0
    text: str | None = field(default=None, repr=False)

    @property
    def score(self) -> float:
        """The highest of any guard."""
        return max(self.scores.values(), default=0.0)

    @property
    def right(self) -> bool:
        """An attack that was caught, or a benign text that was left alone; a failed case is neither."""
        return not self.failed and self.caught == self.attack

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON, in strings that can be encoded. `text` is in it only where it was asked for."""
        row: dict[str, Any] = {
            "id": encodable(self.id), "label": "attack" if self.attack else "benign",
            **{encodable(name): encodable(value) for name, value in self.facets.items()}, "characters": self.characters,
            "caught": self.caught, "located": self.located, "obeyed": self.obeyed, "failed": self.failed,
            "guard": self.guard, "rule": self.rule, "score": round(self.score, 6),
            "scores": {name: round(score, 6) for name, score in self.scores.items()},
            "latency_s": round(self.latency_s, 6),
        }  # fmt: skip
        return row if self.text is None else {**row, "text": encodable(self.text)}
