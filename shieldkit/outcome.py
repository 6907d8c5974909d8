"""What comes out: findings, verdicts, and the one reply (or screening) that holds them.

All of it is frozen, and none of it holds text of the user but `Reply.text`, `data` and `message`, `Screening.text` and
`conversation`, and `Verdict.error` where that was asked for. Offsets are characters into the *original* text of the segment they
name, whatever folding or decoding a guard did to find something there.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from shieldkit.errors import ConfigurationError, Refused

if TYPE_CHECKING:
    from shieldkit.conversation import Conversation


class Stage(enum.StrEnum):
    """Before the model (`input`) or after it (`output`)."""

    INPUT = "input"
    OUTPUT = "output"


def stage_of(value: Stage | str, field_name: str = "stage") -> Stage:
    """The stage that a caller means. Raises `ConfigurationError`."""
    try:
        return Stage(value)
    except ValueError:
        near = difflib.get_close_matches(value, [*Stage], n=1) if isinstance(value, str) else []
        mend = f"Did you mean '{near[0]}'?" if near else "Use 'input' or 'output'"
        raise ConfigurationError(field_name, f"{value!r:.60} is not a stage", mend=mend) from None


class Action(enum.StrEnum):
    """What a policy does about a finding, from mild to severe. Compare with `severity`.

    `approve` is for tool calls: a person has to agree first. Until one does, it stops like a block.
    """

    ALLOW = "allow"
    FLAG = "flag"
    REDACT = "redact"
    APPROVE = "approve"
    BLOCK = "block"

    @property
    def severity(self) -> int:
        """0 (allow) to 4 (block)."""
        return _SEVERITY[self]

    @property
    def stops(self) -> bool:
        """Whether nothing goes on after it."""
        return self is Action.BLOCK or self is Action.APPROVE


_SEVERITY = {action: severity for severity, action in enumerate(Action)}


class Status(enum.StrEnum):
    """Whether a guard did its work. Everything but `ran` means: this text was not judged by it."""

    RAN = "ran"
    NOT_RUN = "not_run"
    FAILED = "failed"
    TIMED_OUT = "timed_out"


class Span(NamedTuple):
    """Characters `start` up to, not including, `end`, in the original text of a segment."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a guard saw. It decides nothing.

    `rule` is the guard's own id for what it saw (`role_header`, `S1`). `score` is in 0..1. `segment` is an index into
    `Conversation.segments`, `path` the place of that segment in the messages. `message` is safe to log: it never quotes.
    """

    guard: str
    rule: str
    score: float
    segment: int
    start: int
    end: int
    message: str
    path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain JSON."""
        return {
            "guard": self.guard, "rule": self.rule, "score": round(self.score, 6), "segment": self.segment,
            "start": self.start, "end": self.end, "path": self.path, "message": self.message,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the text that a guard had to read it has read, in characters."""

    read: int
    total: int

    @property
    def ratio(self) -> float:
        """0..1; an empty text is read by definition."""
        return self.read / self.total if self.total else 1.0

    @property
    def complete(self) -> bool:
        """Whether every character was read. What is not read is not passed."""
        return self.read >= self.total


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy makes of one guard's findings at one stage.

    `action` is what was done; `would` is what enforcement would have done (they differ in monitor mode only). `rule`
    is the rule that decided, `guard.rule`; empty when nothing was found. `reason` never quotes text.

    `error` is what a guard failed with, traceback and all, and None unless the variable `SHIELDKIT_DEBUG` is set: its text,
    and what its frames hold, may be content. It is in no other form of the verdict.
    """

    guard: str
    stage: Stage
    status: Status
    action: Action
    would: Action
    coverage: Coverage
    score: float = 0.0
    rule: str = ""
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    unread: tuple[str, ...] = ()
    duration_s: float = 0.0
    error: BaseException | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON."""
        return {
            "guard": self.guard, "stage": self.stage.value, "status": self.status.value, "action": self.action.value,
            "would": self.would.value, "coverage": round(self.coverage.ratio, 6), "score": round(self.score, 6),
            "rule": self.rule, "reason": self.reason, "unread": list(self.unread),
            "findings": [f.to_dict() for f in self.findings], "duration_s": round(self.duration_s, 6),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was refused. `message` is safe to show to the user."""

    guard: str
    rule: str
    stage: Stage
    message: str

    def to_dict(self) -> dict[str, Any]:
        """The refusal as plain JSON."""
        return {"guard": self.guard, "rule": self.rule, "stage": self.stage.value, "message": self.message}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used by a request, re-asks included."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens)


def worst(verdicts: tuple[Verdict, ...]) -> Action:
    """The severest action among verdicts."""
    return max((v.action for v in verdicts), key=lambda a: a.severity, default=Action.ALLOW)


@dataclass(frozen=True, slots=True)
class Screening:
    """The outcome of screening text without calling a model. Has no truth value: ask `allowed` or `refused`.

    `text` and `conversation` are what may go on: what was screened, with the policy's redactions. They are None in a
    refusal.
    """

    verdicts: tuple[Verdict, ...]
    stage: Stage
    refusal: Refusal | None = None
    text: str | None = None
    trace_id: str = ""
    policy: str = ""
    conversation: Conversation | None = field(default=None, repr=False)

    @property
    def action(self) -> Action:
        """The severest action of all guards."""
        return worst(self.verdicts)

    @property
    def allowed(self) -> bool:
        """Whether nothing blocks this text. It may be flagged, or redacted: go on with `text`, not with what was given."""
        return self.refusal is None and not self.action.stops

    @property
    def refused(self) -> bool:
        """Whether this is a refusal: not `allowed`."""
        return not self.allowed

    @property
    def score(self) -> float:
        """The injection detector's score alone, 0..1, comparable across inputs; 0 when it is not in the chain.

        No measure of the outcome: what another guard blocks has a score of 0 here. Each guard's own is in `verdicts`.
        """
        return max((v.score for v in self.verdicts if v.guard == "injection"), default=0.0)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, in the order of the chain."""
        return tuple(f for v in self.verdicts for f in v.findings)

    @property
    def coverage(self) -> Mapping[str, float]:
        """By guard: the share of the text that it has read."""
        return {v.guard: v.coverage.ratio for v in self.verdicts}

    def to_dict(self) -> dict[str, Any]:
        """The screening as plain JSON, without any text."""
        return {
            **_told(self), "score": round(self.score, 6), "stage": self.stage.value,
            "verdicts": [v.to_dict() for v in self.verdicts],
        }  # fmt: skip

    def raise_for_refusal(self) -> Screening:
        """This screening, or `Refused` when it is a refusal; its `reply` has the same verdicts."""
        if self.refused:
            raise Refused(Reply(self.verdicts, refusal=self.refusal, trace_id=self.trace_id, policy=self.policy))
        return self

    def __bool__(self) -> NoReturn:
        raise TypeError("a Screening is neither true nor false: ask for `.allowed` or `.refused`")


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a guarded call: an answer that kept every rule of the policy, or a refusal that names the rule.

    Has no truth value: ask `refused`.
    `text` and `data` are None in a refusal. `message` is the assistant's message in the wire form, with its tool calls.
    `backend` says what the engine used (model, context size, GPU layers).
    """

    verdicts: tuple[Verdict, ...]
    text: str | None = None
    data: Any = None
    message: Mapping[str, Any] | None = None
    refusal: Refusal | None = None
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = ""
    trace_id: str = ""
    policy: str = ""
    backend: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether this is a refusal."""
        return self.refusal is not None

    @property
    def action(self) -> Action:
        """The severest action of all guards."""
        return worst(self.verdicts)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of both stages, in the order of the chain."""
        return tuple(f for v in self.verdicts for f in v.findings)

    def to_dict(self) -> dict[str, Any]:
        """The reply as plain JSON, for logs: without `text`, `data` and `message`."""
        usage = {"input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens}
        return {**_told(self), "usage": usage, "verdicts": [v.to_dict() for v in self.verdicts]}

    def raise_for_refusal(self) -> Reply:
        """This reply, or `Refused` when it is a refusal."""
        if self.refusal is not None:
            raise Refused(self)
        return self

    def __bool__(self) -> NoReturn:
        raise TypeError("a Reply is neither true nor false: ask for `.refused`, or whether it `is not None`")


def _told(outcome: Screening | Reply) -> dict[str, Any]:
    """What screenings and replies say alike."""
    refusal = outcome.refusal.to_dict() if outcome.refusal is not None else None
    return {
        "action": outcome.action.value, "refused": outcome.refused, "refusal": refusal, "policy": outcome.policy,
        "trace_id": outcome.trace_id,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something that may be shown: `text` is new text, `reply` is set in the last event and holds the whole outcome.

    Where the answer has passed, the texts of all events together are `reply.text`. In a refusal that is None, and the last
    event has no text; what was shown before stands: it had been screened, and what follows it had not passed.
    """

    text: str = ""
    reply: Reply | None = None
