"""An answer that leaves while it is generated: what may leave now, and what must be held.

Text is looked at in windows: what is new, what is still held, and some of what stands before it. The guards say from where
on a text may still become part of a finding (`pending`); before that it leaves. A window is looked at when the text has a
certain length, whatever bits it came in: so what leaves, and what is refused, is the same however the answer was cut. The
window is a bounded part of the text, or else a share of it that grows with the time to the next look: all looks together
read each character a bounded number of times.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from shieldkit.backends.base import Backend, can_stream
from shieldkit.chain.judging import Link, judged_by
from shieldkit.chain.trip import Once, Trip
from shieldkit.conversation import Conversation
from shieldkit.driving import Call, Steps
from shieldkit.guards.base import Inspection, Pending
from shieldkit.outcome import Action, Coverage, Span, Stage, Status, Verdict
from shieldkit.policy import Policy
from shieldkit.policy.decision import REDACTED, action_of
from shieldkit.telemetry.events import emit, told
from shieldkit.text import canonicalise, digest

CONTEXT_CHARS = 160
"""What a window has before the first character that is held: more than any marker, and the rest of its line."""

MOST_LOOKS = 8
"""How often a character is looked at, at the most, but for what is held: a longer window waits for more new text."""


def tail_of(link: Link) -> int | None:
    """How far around a place the guard must see; None when nothing may leave before it has read the whole answer."""
    tail = getattr(link.guard, "streamable", None)
    return tail if type(tail) is int and tail >= 0 else None


def streamable(policy: Policy, links: Sequence[Link], backend: Backend) -> bool:
    """Whether policy, guards and backend let an answer leave while it is generated."""
    wanted = policy.streaming.mode == "windowed" and not policy.routing.security_critical
    return wanted and can_stream(backend) and not withheld_by(links)


def withheld_by(links: Sequence[Link]) -> list[str]:
    """The names of the guards that must read the whole answer before any of it leaves."""
    return [link.guard.name for link in links if Stage.OUTPUT in link.guard.stages and tail_of(link) is None]


class Screen:
    """One answer on its way out. `text` is what has come, and grows; `look` tells what of it may leave.

    `next_at` is the length of `text` at which to look next. After a look, `suspected` says that something in `suspect`,
    the settled part of the text, is to be refused.
    """

    def __init__(self, policy: Policy, links: Sequence[Link], answered: Conversation) -> None:
        own = [link for link in links if Stage.OUTPUT in link.guard.stages]
        self._exact = [link for link in own if not getattr(link.guard, "classifies", False)]
        self._classifiers = [link for link in own if getattr(link.guard, "classifies", False)]
        self._settings, self._mode = policy.streaming, policy.mode
        self._answered, self._index = answered, answered.messages[-1].segments[-1]
        tails = [tail_of(link) or 0 for link in own]
        self._context = max([CONTEXT_CHARS, *tails])
        self.text = ""
        self.next_at = max([self._settings.hold_back_chars, *tails]) + self._settings.window_chars
        self.suspected = False
        self._settled = 0
        self._left = 0  # how much of `text` has left, in one form or the other
        self._judged = 0  # how much the classifiers have judged
        self._shut = False
        self._redact: set[Span] = set()
        self._marked = -1  # where the last span ends that has left as a mark

    @property
    def suspect(self) -> str:
        """The text up to where it is settled."""
        return self.text[: self._settled]

    def shut(self) -> None:
        """Nothing more leaves, and nothing more is looked at, before the whole answer has been judged."""
        self._shut, self.suspected, self._exact = True, False, []

    def look(self, trip: Trip) -> Steps[str]:
        """Screen the next window. Returns the text that may leave now, redacted; it may be empty."""
        at, start = self.next_at, self._window_start()
        self.next_at = at + max(self._settings.window_chars, (at - start) // MOST_LOOKS)
        if self._mode == "monitor":
            return self._cut(at)
        pending = yield from self._screened(trip, start, at)
        yield from self._classified(trip, at)
        if self._shut or self.suspected:
            return ""
        most = self._judged - self._settings.classifier_tail_chars if self._classifiers else at
        return self._cut(min(pending.held, at - self._settings.hold_back_chars, most))

    # -- exact guards -----------------------------------------------------------------------------------------------

    def _screened(self, trip: Trip, start: int, at: int) -> Steps[Pending]:
        """Run the exact guards on `text[start:at]`; keep what they found, and tell how far the text is settled."""
        part = self._part(trip, start, at)
        hits: list[tuple[Span, Action]] = []
        held = settled = at
        for link in self._exact:
            inspection = replace(part, guard=link.guard.name)
            decision = yield from judged_by(trip, link, inspection, self._mode)
            verdict = decision.verdict
            if verdict.status is not Status.RAN or not verdict.coverage.complete:
                # It may read the whole where it could not read a part. Where `on_error` lets that pass, so does this.
                self._shut = self._shut or verdict.action.stops
            if verdict.status is not Status.RAN:
                continue
            hits += [(span, action) for span, action in self._hits(link, verdict, start)]
            own = yield from self._pending(link, inspection, at - start)
            held, settled = min(held, start + own.held), min(settled, start + own.settled)
        self._settled = settled
        for span, action in hits:
            if span.end > settled:
                held = min(held, span.start)
            elif action.stops:
                self.suspected = True
            elif span.end > self._left:
                self._redact.add(span)
        return Pending(held, settled)

    def _hits(self, link: Link, verdict: Verdict, start: int) -> Iterator[tuple[Span, Action]]:
        """What must not leave as it is, at its place in the whole text."""
        for f in verdict.findings:
            action = action_of(f, link.settings, self._answered.segments[f.segment])
            if f.segment == self._index and (action.stops or action is Action.REDACT):
                yield Span(start + f.start, start + f.end), action

    def _pending(self, link: Link, inspection: Inspection, length: int) -> Steps[Pending]:
        """From where on this guard may still find something. A guard that cannot say it lets nothing leave."""
        try:
            held, settled = yield Call(partial(_pending_of, link, inspection, self._index), link.settings.timeout)
            if type(held) is int and type(settled) is int and 0 <= held <= settled <= length:
                return Pending(held, settled)
            problem = "no places"
        except Exception as error:
            problem = type(error).__name__
            told("guard_failed", error, guard=link.guard.name)
        emit(logging.WARNING, "pending_failed", guard=link.guard.name, error=problem)
        self._shut = True
        return Pending(0, 0)

    # -- classifiers ------------------------------------------------------------------------------------------------

    def _classified(self, trip: Trip, at: int) -> Steps[None]:
        """Let the classifiers judge what is new, with the tail of what they have judged before it."""
        tail = self._settings.classifier_tail_chars
        if self._shut or not self._classifiers or at - self._judged < tail:
            return
        part = self._part(trip, max(0, self._judged - tail), at)
        for link in self._classifiers:
            inspection = replace(part, guard=link.guard.name)
            decision = yield from judged_by(trip, link, inspection, self._mode)
            self._shut = self._shut or decision.verdict.action.stops
        self._judged = at

    # -- text -------------------------------------------------------------------------------------------------------

    def _window_start(self) -> int:
        """Some way before what is held, and there where a line begins, or at least a word."""
        latest = max(0, self._left - self._context)
        earliest = max(0, latest - self._context)
        line = self.text.rfind("\n", earliest, latest)
        word = self.text.rfind(" ", earliest, latest) if line < 0 else line
        return word + 1 if word >= 0 else earliest

    def _part(self, trip: Trip, start: int, at: int) -> Inspection:
        """What a guard is asked: a part of the answer in the answer's place."""
        segments = self._answered.segments
        part = replace(segments[self._index], text=self.text[start:at])
        view = replace(self._answered, segments=(*segments[: self._index], part, *segments[self._index + 1 :]))
        folded, digests = partial(Once(canonicalise).of, view), partial(Once(digest).of, view)
        return Inspection("", Stage.OUTPUT, view, (self._index,), folded, trip.request, digests)

    def _cut(self, upto: int) -> str:
        """What leaves of the text that is held, up to `upto`: a mark for each span that is redacted, as in the whole."""
        spans = sorted(span for span in self._redact if span.end > self._left)
        for start, end in reversed(spans):
            if start < upto < end:
                upto = start
        if upto <= self._left:
            return ""
        parts, position = [], self._left
        for start, end in spans:
            if end > upto or end <= position:
                continue
            if start > position or position != self._marked:  # else it goes on where the last mark ends, as one
                if start < position:
                    self._shut = True  # some of it has left as it was: the whole answer decides
                    return ""
                parts += [self.text[position:start], REDACTED]
            position = self._marked = end
        parts.append(self.text[position:upto])
        self._left = upto
        return "".join(parts)


def _pending_of(link: Link, inspection: Inspection, index: int) -> object:
    """The guard's own code, to be run in a worker."""
    segment = inspection.conversation.segments[index]
    length = len(segment.text)
    if not link.reads(segment):
        return Pending(length, length)
    own = getattr(link.guard, "pending", None)
    if own is None:
        tail = max(0, length - (tail_of(link) or 0))
        return Pending(tail, tail)
    return own(inspection, index)


def mismatch(trip: Trip) -> None:
    """Note that what had left is not the beginning of what may leave of the whole answer: refused in every mode."""
    blank = Verdict("shield", Stage.OUTPUT, Status.FAILED, Action.BLOCK, Action.BLOCK, Coverage(0, len(trip.shown)))
    now_ns = time.time_ns()
    reason = "what had left of the answer is not how the whole of it begins"
    trip.note(replace(blank, rule="shield.stream", reason=reason), now_ns, now_ns)
