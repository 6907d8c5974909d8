"""One guard, whatever it does, to a verdict: it may find something, raise, hang or answer rubbish."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from shieldkit.chain.approving import ask
from shieldkit.chain.trip import Trip
from shieldkit.conversation import Conversation, Segment
from shieldkit.driving import Call, Steps
from shieldkit.errors import GuardProtocolError
from shieldkit.guards.base import Guard, Inspection, checked
from shieldkit.outcome import Action, Coverage, Span, Stage, Status, Verdict
from shieldkit.policy.decision import Decision, Mode, decide, failed, not_run, redacted
from shieldkit.policy.model import GuardSettings
from shieldkit.telemetry.events import told


@dataclass(frozen=True, slots=True)
class Link:
    """A guard in the chain, with its section of the policy."""

    guard: Guard
    settings: GuardSettings

    def reads(self, segment: Segment) -> bool:
        """Whether the guard judges this segment: by its own word, or else every untrusted one."""
        reads = getattr(self.guard, "reads", None)
        return bool(reads(segment)) if reads is not None else not segment.trusted

    def runs_inline(self, conversation: Conversation) -> bool:
        """Whether the guard promises that it cannot hang on so much text as there is in all, judged or not."""
        most = getattr(self.guard, "inline_chars", 0)
        return type(most) is int and most > 0 and _length(conversation, range(len(conversation.segments))) <= most


def run_guards(
    trip: Trip, links: Sequence[Link], stage: Stage, conversation: Conversation, judged: Sequence[int], mode: Mode,
    *, exhaustive: bool = False,
) -> Steps[Conversation]:  # fmt: skip
    """Run the guards of a stage in order; the first block ends it, unless `exhaustive`. Returns the text as it may go on.

    Every guard sees the caller's original text, so that all offsets point into it; only the schema gate, which stands
    last, judges the text that would leave, after redaction.
    """
    passed = conversation
    spans: dict[int, list[Span]] = {}
    for link in links:
        if stage not in link.guard.stages:
            continue
        view = passed if link.guard.name == "schema" else conversation
        if trip.blocked and not exhaustive:
            total = _length(view, judged)
            trip.verdicts.append(not_run(link.guard.name, stage, total, "an earlier guard had blocked"))
            continue
        folded, digests = partial(trip.folded.of, view), partial(trip.digests.of, view)
        inspection = Inspection(link.guard.name, stage, view, tuple(judged), folded, trip.request, digests)
        for index, span in (yield from _judge(trip, link, inspection, mode)):
            spans.setdefault(index, []).append(span)
        if spans:
            texts = {i: redacted(conversation.segments[i].text, marked) for i, marked in spans.items()}
            passed = conversation.with_texts(texts)
    return passed


def _asked(link: Link, inspection: Inspection) -> tuple[Inspection, object]:
    """Choose what the guard reads, and let it judge. Both are the guard's own code: run in a worker, with its timeout."""
    segments = tuple(i for i in inspection.segments if link.reads(inspection.conversation.segments[i]))
    inspection = replace(inspection, segments=segments)
    return inspection, link.guard.check(inspection)


def _judge(trip: Trip, link: Link, inspection: Inspection, mode: Mode) -> Steps[tuple[tuple[int, Span], ...]]:
    """Run one guard and note its verdict. Returns what is to be redacted, by segment."""
    start_ns = time.time_ns()
    decision = yield from judged_by(trip, link, inspection, mode)
    if decision.verdict.action is Action.APPROVE and trip.approver is not None:
        verdict = yield from ask(
            trip.approver, decision.verdict, inspection.conversation, link.settings, trip.principal
        )
        decision = Decision(verdict)
    trip.note(decision.verdict, start_ns, time.time_ns())
    return decision.redact


def judged_by(trip: Trip, link: Link, inspection: Inspection, mode: Mode) -> Steps[Decision]:
    """What the policy makes of what one guard says, whatever that is."""
    total = _length(inspection.conversation, inspection.segments)
    blank = Verdict(inspection.guard, inspection.stage, Status.RAN, Action.BLOCK, Action.BLOCK, Coverage(0, total))
    try:
        asked = partial(_asked, link, inspection)
        inspection, answer = yield Call(asked, link.settings.timeout, inline=link.runs_inline(inspection.conversation))
    except TimeoutError:
        return Decision(failed(blank, link.settings, Status.TIMED_OUT, "timeout", "the guard took too long", mode))
    except Exception as error:
        return _failed(link, blank, error, type(error).__name__, mode)
    try:
        return _decided(trip, link, inspection, blank, answer, mode)
    except GuardProtocolError as error:  # ours, and not the guard's own: it quotes nothing
        return _failed(link, blank, error, str(error), mode)
    except Exception as error:
        return _failed(link, blank, error, type(error).__name__, mode)


def _failed(link: Link, blank: Verdict, error: Exception, why: str, mode: Mode) -> Decision:
    verdict = failed(blank, link.settings, Status.FAILED, "error", f"the guard failed ({why})", mode)
    return Decision(replace(verdict, error=told("guard_failed", error, guard=link.guard.name)))


def _decided(trip: Trip, link: Link, inspection: Inspection, blank: Verdict, answer: object, mode: Mode) -> Decision:
    report, coverage = checked(answer, inspection, getattr(link.guard, "rules", None))
    segments = inspection.conversation.segments
    score = max([report.score or 0.0, *(f.score for f in report.findings)])
    unread = () if coverage.complete else tuple(segments[i].path for i in inspection.segments if i in report.read)
    found = replace(blank, findings=report.findings, coverage=coverage, score=score)
    if inspection.guard == "schema":
        trip.value = report.value
    return decide(found, link.settings, segments, unread, mode)


def unreadable(trip: Trip, conversation: Conversation, stage: Stage, on_unreadable: str, mode: Mode) -> None:
    """Images and the like: no guard can read them, so they are not passed unless the policy says so."""
    if not conversation.unreadable:
        return
    count = len(conversation.unreadable)
    settings = GuardSettings(on_error="allow" if on_unreadable == "allow" else "block")
    blank = Verdict(
        "shield", stage, Status.NOT_RUN, Action.BLOCK, Action.BLOCK, Coverage(0, count), unread=conversation.unreadable
    )
    reason = f"{count} part(s) of the content cannot be read by any guard"
    now_ns = time.time_ns()
    trip.note(failed(blank, settings, Status.NOT_RUN, "unreadable", reason, mode), now_ns, now_ns)


def _length(conversation: Conversation, segments: Sequence[int]) -> int:
    return sum(len(conversation.segments[i].text) for i in segments)
