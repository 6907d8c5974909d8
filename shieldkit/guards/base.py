"""What a guard is: a function of text that reports findings, and never decides.

    @guard("no-competitors", stages={"output"})
    def no_competitors(inspection):
        for index, segment in inspection.texts():
            at = segment.text.find("Acme")
            if at >= 0:
                yield inspection.finding("competitor", 1.0, index, at, at + 4, "names a competitor")

Anything with `name`, `stages` and `check(inspection) -> Report` is a guard. The policy, not the guard, says what
happens about a finding, what happens when the guard fails, and how long it may take.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from shieldkit.conversation import Conversation, Segment
from shieldkit.errors import ConfigurationError, GuardProtocolError
from shieldkit.outcome import Coverage, Finding, Span, Stage, stage_of
from shieldkit.text import Canonical, digest

INLINE_CHARS = 2000
"""`inline_chars` of the guards here that read by themselves: a prompt, not a document."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a guard is asked to judge.

    `segments` are the indices, into `conversation.segments`, of the text that it must read; the rest of the
    conversation is there as context. `canonical(i)` is segment *i* folded once for all guards of the request.
    `request` holds what belongs to this request alone (`canary`, `schema`, …).

    A guard whose verdict on a segment depends on its text alone may remember it by `digest(i)`, together with whether
    `canonical(i)` was complete, and then neither folds nor reads a text that it has judged before.
    """

    guard: str
    stage: Stage
    conversation: Conversation
    segments: tuple[int, ...]
    canonical: Callable[[int], Canonical]
    request: Mapping[str, Any] = field(default_factory=dict)
    digests: Callable[[int], bytes] | None = None

    def digest(self, index: int) -> bytes:
        """A keyed digest (32 bytes) of the text of segment *index*, made once for all guards of the request.

        Equal for equal texts as long as the process lives, and to be found by nobody who does not know its key. It
        says nothing of role and trust: put into the key of a memory whatever else a verdict depends on.
        """
        if self.digests is not None:
            return self.digests(index)
        return digest(self.conversation.segments[index].text)

    def texts(self) -> Iterator[tuple[int, Segment]]:
        """The segments to judge, each with its index."""
        for index in self.segments:
            yield index, self.conversation.segments[index]

    def undecoded(self) -> dict[int, tuple[Span, ...]]:
        """For `Report.read`: the segments that hold more encoded text than was decoded count as not read.

        Folds every segment that no guard has folded yet; a guard that remembers verdicts remembers this with them.
        """
        return {index: () for index in self.segments if not self.canonical(index).complete}

    def finding(self, rule: str, score: float, segment: int, start: int, end: int, message: str) -> Finding:
        """A finding of this guard, in segment number `segment`."""
        path = self.conversation.segments[segment].path
        return Finding(self.guard, rule, score, segment, start, end, message, path)


@dataclass(frozen=True, slots=True)
class Report:
    """What a guard answers. `read` names the characters read of each segment; a segment left out was read whole.

    `score` is the guard's own overall score where that is more than its highest finding. `value` is what a schema
    guard made of the text.
    """

    findings: tuple[Finding, ...] = ()
    read: Mapping[int, tuple[Span, ...]] = field(default_factory=dict)
    score: float | None = None
    value: Any = None


class Pending(NamedTuple):
    """What a guard says of a text that goes on, in characters from its start.

    Before `settled` it finds the same whatever follows. From `held` on the text may still turn out to be a part of a
    finding; held ≤ settled.
    """

    held: int
    settled: int


@runtime_checkable
class Guard(Protocol):
    """Reads text, reports findings.

    A guard may also have `reads(segment) -> bool` (which segments it wants, beside the default: all that are untrusted),
    `locates` (True when the spans of its findings are exact, so that they can be redacted), `rules` (the ids it can
    report; with any other it has failed, so that no id can be made of text), `self_test()` (raises `SelfTestError`) and
    `close()`.

    `inline_chars` is the promise of a guard that calls nobody and takes linear time: it cannot hang on a conversation of up to so
    many characters, so that a synchronous caller runs it in his own thread, and saves two hand-overs. Where it takes longer
    than its timeout nevertheless, the caller has waited for it, and the verdict is still that it took too long.

    For answers that leave bit by bit, `streamable` is how many characters it must see on both sides of a place to find
    all that is to be found there; what it has found, it finds in every longer text too. Without it, or when it is None,
    nothing leaves before the whole answer has been read. A guard that can tell it from the text has
    `pending(inspection, index) -> Pending` beside it. `classifies` is True for one that judges text as a whole: its
    word on a part holds the rest back, and only its word on the whole refuses.
    """

    @property
    def name(self) -> str:
        """Unique in a chain; also the key of the guard's section in a policy."""
        ...

    @property
    def stages(self) -> frozenset[Stage]:
        """Where in the trip it stands."""
        ...

    def check(self, inspection: Inspection) -> Report:
        """Judge. May raise; may be abandoned after its timeout. Called from several threads at once."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionGuard:
    """A guard made of a function; see `guard`."""

    name: str
    stages: frozenset[Stage]
    function: Callable[[Inspection], Iterable[Finding] | Report | None]
    locates: bool = False
    streamable: int | None = None
    rules: frozenset[str] | None = None

    def check(self, inspection: Inspection) -> Report:
        """Run the function; what it yields are the findings."""
        result = self.function(inspection)
        if isinstance(result, Report) or not isinstance(result or (), Iterable):
            return result  # `checked` says what it is
        return Report(tuple(result or ()))


def guard(
    name: str, *, stages: Iterable[str] = ("input", "output"), locates: bool = False, streamable: int | None = None,
    rules: Iterable[str] | None = None,
) -> Callable[[Callable[[Inspection], Iterable[Finding] | Report | None]], FunctionGuard]:  # fmt: skip
    """Make a guard of a function that yields findings. `locates=True` promises exact spans, so they can be redacted.

    `streamable` promises that a finding depends on no text farther from its place than so many characters, `rules` that
    there are no findings of other rules; see `Guard`. Raises `ConfigurationError` for what cannot be a guard.
    """
    if not isinstance(name, str):
        own = getattr(name, "__name__", "my_guard").replace("_", "-")
        raise ConfigurationError("@guard", "has no name", mend=f'Write @guard("{own}") above the function')
    if isinstance(stages, str):
        mend = f"Give a set, as in stages={{'{stages}'}}"
        raise ConfigurationError(f"guard '{name}'", "its stages are one string", mend=mend)
    known = frozenset(rules) if rules is not None else None
    at = frozenset(stage_of(s, f"guard '{name}'") for s in stages)

    def wrap(function: Callable[[Inspection], Iterable[Finding] | Report | None]) -> FunctionGuard:
        check_plain(name, function)
        return FunctionGuard(name, at, function, locates, streamable, known)

    return wrap


def check_plain(name: str, function: Callable[..., Any]) -> None:
    """Refuse a guard that would have to be awaited: nobody would, and so it would fail with every text."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        mend = (
            "Write it with `def`: it has a worker thread of its own, and may wait there (asyncio.run) for what is async"
        )
        raise ConfigurationError(f"guard '{name}'", "is an async function", mend=mend)


def checked(report: Any, inspection: Inspection, rules: Collection[str] | None = None) -> tuple[Report, Coverage]:
    """A guard's answer, held against the text it was given and the rules it has; `GuardProtocolError` when it is rubbish."""
    if not isinstance(report, Report):
        raise GuardProtocolError(f"{inspection.guard} answered with a {type(report).__name__}, not a Report")
    segments = inspection.conversation.segments
    if not isinstance(report.findings, tuple) or not isinstance(report.read, Mapping):
        raise GuardProtocolError(
            f"{inspection.guard} reported findings that are no tuple, or spans that are no mapping"
        )
    for f in report.findings:
        if not isinstance(f, Finding) or not 0.0 <= f.score <= 1.0:
            raise GuardProtocolError(f"{inspection.guard} reported a finding without a score in 0..1")
        if rules is not None and f.rule not in rules:
            raise GuardProtocolError(f"{inspection.guard} reported a rule that is not among its `rules`")
        if any(type(place) is not int for place in (f.segment, f.start, f.end)):
            raise GuardProtocolError(f"{inspection.guard} reported a place that is not a number of characters")
        if not 0 <= f.segment < len(segments) or not 0 <= f.start <= f.end <= len(segments[f.segment].text):
            raise GuardProtocolError(f"{inspection.guard} reported a finding outside the text")
    if report.score is not None and not 0.0 <= report.score <= 1.0:
        raise GuardProtocolError(f"{inspection.guard} reported a score outside 0..1")
    read = total = 0
    for index in inspection.segments:
        length = len(segments[index].text)
        spans = report.read.get(index)
        total += length
        read += length if spans is None else _covered(spans, length)
    return report, Coverage(read, total)


def _covered(spans: Iterable[Span], length: int) -> int:
    covered = end = 0
    for span in sorted(spans):
        start, stop = max(span[0], end), min(span[1], length)
        covered += max(0, stop - start)
        end = max(end, stop)
    return covered
