"""What belongs to one request alone, and ends with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from shieldkit.budget import Principal
from shieldkit.conversation import Conversation
from shieldkit.outcome import Usage, Verdict, worst
from shieldkit.telemetry import RequestTrace
from shieldkit.text import Canonical, canonicalise, digest
from shieldkit.tools import Approver

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Once(Generic[T]):
    """Something of each segment's text, made when a guard first asks for it, and once for the request.

    A place in the conversation may get another text (an answer that was asked for again): what is known of a place
    counts for the very string that it was made of.
    """

    make: Callable[[str], T]
    known: dict[int, tuple[str, T]] = field(default_factory=dict)

    def of(self, conversation: Conversation, index: int) -> T:
        """What belongs to the text of segment number `index`."""
        text = conversation.segments[index].text
        known = self.known.get(index)
        if known is None or known[0] is not text:
            known = self.known[index] = (text, self.make(text))
        return known[1]


@dataclass(slots=True)
class Trip:
    """The verdicts so far, in order; what guards are told of the request; what schema guards made of the answer;
    what of it has left already."""

    trace: RequestTrace
    request: dict[str, Any]
    verdicts: list[Verdict] = field(default_factory=list)
    folded: Once[Canonical] = field(default_factory=lambda: Once(canonicalise))
    digests: Once[bytes] = field(default_factory=lambda: Once(digest))
    usage: Usage = field(default_factory=Usage)
    value: Any = None
    shown: str = ""
    principal: Principal | None = None
    approver: Approver | None = None

    @property
    def blocked(self) -> bool:
        """Whether anything has blocked so far."""
        return any(v.action.stops for v in self.verdicts)

    @property
    def cause(self) -> Verdict | None:
        """The verdict that blocked first."""
        return next((v for v in self.verdicts if v.action.stops), None)

    def note(self, verdict: Verdict, start_ns: int, end_ns: int) -> None:
        """Keep a verdict, and tell the trace."""
        verdict = replace(verdict, duration_s=max(0, end_ns - start_ns) / 1e9)
        self.verdicts.append(verdict)
        self.trace.guard(verdict, start_ns, end_ns)

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Close the trace with what came of the request, also when it is an error or the caller left."""
        try:
            yield
        except BaseException as error:
            self.trace.error(error)
            raise
        cause = self.cause
        self.trace.finish(
            refused=cause is not None,
            rule=cause.rule if cause else "",
            usage=self.usage,
            action=worst(tuple(self.verdicts)).value,
        )
