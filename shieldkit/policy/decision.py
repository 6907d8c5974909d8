"""From findings to a verdict. Guards report; here, and only here, it is decided.

A finding counts from its threshold on. In a trusted segment it is flagged at most: the application's own text may
speak of control tokens. What a guard has not read, or could not judge, is decided by its `on_error`: closed by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from shieldkit.conversation import Segment
from shieldkit.outcome import Action, Coverage, Finding, Span, Stage, Status, Verdict
from shieldkit.policy.model import GuardSettings

REDACTED = "[redacted]"
Mode = Literal["enforce", "monitor"]


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and the spans that it wants redacted, by segment."""

    verdict: Verdict
    redact: tuple[tuple[int, Span], ...] = ()


def decide(
    verdict: Verdict, settings: GuardSettings, segments: Sequence[Segment], unread: tuple[str, ...], mode: Mode
) -> Decision:
    """Complete a verdict whose guard ran: `verdict` holds the findings and the coverage, and no action yet."""
    chosen = [(f, action_of(f, settings, segments[f.segment])) for f in verdict.findings]
    top, action = max(chosen, key=lambda c: (c[1].severity, c[0].score), default=(None, Action.ALLOW))
    rule = f"{verdict.guard}.{top.rule}" if top is not None and action is not Action.ALLOW else ""
    reason = top.message if top is not None and rule else ""
    redact = tuple((f.segment, Span(f.start, f.end)) for f, a in chosen if a is Action.REDACT)
    if not verdict.coverage.complete:
        reason_unread = "the guard did not read all of the text"
        unfinished = failed(replace(verdict, unread=unread), settings, Status.RAN, "unread", reason_unread, mode)
        if unfinished.would.severity > action.severity:
            return Decision(unfinished)
    verdict = replace(verdict, unread=unread, would=action, rule=rule, reason=reason, action=_enforced(action, mode))
    return Decision(verdict, redact if verdict.action is Action.REDACT else ())


def failed(verdict: Verdict, settings: GuardSettings, status: Status, rule: str, reason: str, mode: Mode) -> Verdict:
    """The verdict of a guard that did not do its work. It is never an `allow`: what was skipped is at least flagged."""
    would = Action.BLOCK if settings.on_error == "block" else Action.FLAG
    rule, action = f"{verdict.guard}.{rule}", _enforced(would, mode)
    return replace(verdict, status=status, would=would, rule=rule, reason=reason, action=action)


def not_run(guard: str, stage: Stage, total: int, reason: str) -> Verdict:
    """The verdict of a guard that was not reached. It has passed nothing, so it does not say allow."""
    return Verdict(guard, stage, Status.NOT_RUN, Action.BLOCK, Action.BLOCK, Coverage(0, total), reason=reason)


def redacted(text: str, spans: Iterable[Span]) -> str:
    """`text` with each span replaced by a fixed mark. Depends on nothing after a span: the same text, the same prefix."""
    parts, position = [], 0
    for start, end in _merged(spans):
        parts += [text[position:start], REDACTED]
        position = end
    return "".join([*parts, text[position:]])


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(set(spans)):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def action_of(finding: Finding, settings: GuardSettings, segment: Segment) -> Action:
    """What enforcement does about one finding."""
    action = Action.ALLOW
    if finding.score >= settings.threshold_for(finding.rule, segment.role):
        action = settings.action_for(finding.rule)
    elif settings.flag_threshold is not None and finding.score >= settings.flag_threshold:
        action = Action.FLAG
    if segment.trusted and action.severity > Action.FLAG.severity:
        return Action.FLAG
    return action


def _enforced(would: Action, mode: Mode) -> Action:
    return Action.FLAG if mode == "monitor" and would.severity > Action.FLAG.severity else would
