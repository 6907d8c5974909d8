"""The way of one request, top to bottom.

    budget → input guards → model → output guards → reply

Generators that yield a `Call` for whatever takes time; `shieldkit.driving` runs them, sync or async. Text is rewritten
in two places only: on its way to the model, and on its way out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shieldkit.backends.base import Backend, CallOptions, Completion, CompletionRequest, can_stream
from shieldkit.budget import Budget, Principal
from shieldkit.chain.calling import asked, checked, complete, is_text, turn
from shieldkit.chain.judging import Link, run_guards, unreadable
from shieldkit.chain.metering import Meter
from shieldkit.chain.pumping import Pull, Pump
from shieldkit.chain.streaming import Screen, mismatch, streamable
from shieldkit.chain.trip import Trip
from shieldkit.conversation import Conversation, Role
from shieldkit.driving import Emit, Flow, Steps
from shieldkit.errors import BackendError, InvalidConversation
from shieldkit.leak import canary
from shieldkit.outcome import Refusal, Reply, Screening, Stage, StreamEvent, Usage
from shieldkit.policy import Policy
from shieldkit.schema import SchemaGate, reask_message
from shieldkit.telemetry import Telemetry
from shieldkit.tool_definitions import with_tools
from shieldkit.tools import Approver

STOP_S = 2.0
"""How long a refusal in the middle of an answer waits for the model to stop, so that what it generated is known."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The guards of one policy, ready to run. Stateless but for what it was given: ledger, backend, models."""

    policy: Policy
    links: tuple[Link, ...]
    budget: Budget
    telemetry: Telemetry
    approver: Approver | None = None

    def screen(
        self, conversation: Conversation, stage: Stage, gate: SchemaGate | None, since: int = 0,
        only: Collection[str] | None = None,
    ) -> Steps[Screening]:  # fmt: skip
        """Judge text without a model. Every guard runs, also after a block, so that the screening is complete."""
        links = self.links if only is None else tuple(link for link in self.links if link.guard.name in only)
        trip = Trip(self.telemetry.request("screen"), {"schema": gate, "canary": None})
        with trip.traced():
            unreadable(trip, _since(conversation, since), stage, self.policy.unreadable, self.policy.mode)
            rest = conversation.messages[since:]
            first = rest[0].segments.start if rest else len(conversation.segments)
            if stage is Stage.OUTPUT:
                conversation = conversation.distrusted(first)
            judged = range(first, len(conversation.segments))
            passed = yield from run_guards(trip, links, stage, conversation, judged, self.policy.mode, exhaustive=True)
        refusal = self._refusal(trip)
        text = None if refusal else "\n".join(passed.segments[i].text for i in judged)
        kept = None if refusal else passed
        return Screening(tuple(trip.verdicts), stage, refusal, text, trip.trace.trace_id, self._policy_id, kept)

    def invoke(
        self, conversation: Conversation, backend: Backend, principal: Principal | None, gate: SchemaGate | None,
        options: CallOptions, operation: str,
    ) -> Flow[StreamEvent, Reply]:  # fmt: skip
        """One guarded call of the model. Tools in `options` are text that is sent: judged and counted with the rest.

        Events leave only when `operation` is `stream`; the last of them holds the reply.
        """
        conversation = with_tools(conversation, options.tools, options.tool_trust)
        most = options.output_tokens(self.policy.context.max_output_tokens)
        trip = Trip(self.telemetry.request(operation), {"schema": gate, "canary": None})
        trip.principal, trip.approver = principal, self.approver
        with trip.traced(), Meter(self.policy, self.budget, backend, principal, most).open() as meter:
            sent = yield from self._admit(trip, meter, conversation)
            if sent is None:
                reply = self._reply(trip, backend)
            elif operation == "stream" and gate is None and streamable(self.policy, self.links, backend):
                reply = yield from self._streamed(trip, meter, conversation, sent, options)
            else:
                reply = yield from self._answer(trip, meter, conversation, sent, gate, options)
        if operation == "stream":
            yield Emit(StreamEvent((reply.text or "")[len(trip.shown) :], reply))
        return reply

    def _admit(self, trip: Trip, meter: Meter, conversation: Conversation) -> Steps[Conversation | None]:
        """Budget and input guards. What may be sent to the model, or None after a block."""
        sent = self._planted(trip, conversation)
        unreadable(trip, conversation, Stage.INPUT, self.policy.unreadable, self.policy.mode)
        if not trip.blocked:
            yield from meter.reserve(trip, sent)
        judged = range(len(conversation.segments))
        passed = yield from run_guards(trip, self.links, Stage.INPUT, conversation, judged, self.policy.mode)
        if passed is not conversation and not trip.blocked:
            rewritten = {i: s.text for i, s in enumerate(passed.segments) if s.text != conversation.segments[i].text}
            sent = sent.with_texts(rewritten)
            meter.release()
            yield from meter.reserve(trip, sent)
        return None if trip.blocked else sent

    def _answer(
        self, trip: Trip, meter: Meter, conversation: Conversation, sent: Conversation, gate: SchemaGate | None,
        options: CallOptions,
    ) -> Steps[Reply]:  # fmt: skip
        """The model's answer through the output guards; asked again where the schema gate alone refused it."""
        section = self.policy.guards.schema_
        schema = gate.json_schema if gate is not None and (section is None or section.constrain) else None
        asks_left = section.reasks if section is not None else 0
        while True:
            completion = yield from complete(trip, meter, sent, schema, options)
            trip.usage += Usage(completion.input_tokens, completion.output_tokens)
            first = len(trip.verdicts)
            passed = yield from self._judged(trip, conversation, completion)
            cause = trip.cause
            if asks_left == 0 or cause is None or cause.guard != "schema":
                return self._reply(trip, meter.backend, completion, passed)
            asks_left -= 1
            del trip.verdicts[first:]
            sent = _answered(sent, completion).extend({"role": "user", "content": reask_message(cause.findings)})
            yield from meter.reserve(trip, sent)
            if trip.blocked:
                return self._reply(trip, meter.backend)

    def _judged(self, trip: Trip, conversation: Conversation, completion: Completion) -> Steps[Conversation]:
        """The model's answer through the output guards, whole. Returns the conversation with what of it may leave."""
        answered = _answered(conversation, completion)
        alone = _since(answered, len(conversation.messages))
        unreadable(trip, alone, Stage.OUTPUT, self.policy.unreadable, self.policy.mode)
        judged = answered.messages[-1].segments
        return (yield from run_guards(trip, self.links, Stage.OUTPUT, answered, judged, self.policy.mode))

    def _streamed(
        self, trip: Trip, meter: Meter, conversation: Conversation, sent: Conversation, options: CallOptions
    ) -> Flow[StreamEvent, Reply]:
        """The model's answer, leaving as it is screened; at last screened whole, as an answer that is not streamed."""
        backend = meter.backend
        assert can_stream(backend)
        request = asked(self.policy, sent, None, options)
        completion: Completion | None = None
        with turn(trip, self.policy, backend, request) as span, meter.working(request) as work:
            pump = Pump(backend, request, span.context, work)
            try:
                cut_off = yield from self._released(trip, pump, conversation, request)
                if cut_off:
                    pump.stop()
                    yield Pull(pump, sys.maxsize, STOP_S)
                else:
                    completion = checked(backend, pump.completion())
            except TimeoutError:
                if not trip.blocked:
                    raise
            finally:
                pump.stop()
            trip.usage += work.used
            if completion is not None:
                span.end(work.used, completion.finish_reason, completion.route)
            else:
                span.end(work.used, "content_filter")
        if completion is None:
            return self._reply(trip, backend)
        passed = yield from self._judged(trip, conversation, completion)
        reply = self._reply(trip, backend, completion, passed)
        if reply.text is not None and not reply.text.startswith(trip.shown):
            mismatch(trip)
            reply = self._reply(trip, backend)
        return reply

    def _released(
        self, trip: Trip, pump: Pump, conversation: Conversation, request: CompletionRequest
    ) -> Flow[StreamEvent, bool]:
        """Let text leave as it is screened, until the answer has ended, or is refused in the middle: then True."""
        screen = Screen(self.policy, self.links, _answered(conversation, _bits("")))
        while True:
            left_s = max(0.0, request.deadline - time.monotonic())
            yield Pull(pump, screen.next_at, left_s)
            screen.text += pump.take()
            if len(screen.text) < screen.next_at:
                return False
            while len(screen.text) >= screen.next_at:
                piece = yield from screen.look(trip)
                if screen.suspected:
                    first = len(trip.verdicts)
                    yield from self._judged(trip, conversation, _bits(screen.suspect))
                    if trip.blocked:
                        return True
                    # Not so in the light of all that stands before it: the whole answer decides.
                    del trip.verdicts[first:]
                    screen.shut()
                elif piece:
                    trip.shown += piece
                    yield Emit(StreamEvent(piece))

    def _planted(self, trip: Trip, conversation: Conversation) -> Conversation:
        """The conversation with this request's canary at the end of its system prompt, where there is one."""
        leak = self.policy.guards.leak
        has_prompt = any(s.trusted and s.role is Role.SYSTEM for s in conversation.segments)
        if leak is None or not leak.canary or not has_prompt:
            return conversation
        trip.request["canary"] = canary.new()
        return canary.plant(conversation, trip.request["canary"])

    def _refusal(self, trip: Trip) -> Refusal | None:
        cause = trip.cause
        return Refusal(cause.guard, cause.rule, cause.stage, self.policy.message_of(cause.guard)) if cause else None

    def _reply(
        self, trip: Trip, backend: Backend, completion: Completion | None = None, passed: Conversation | None = None
    ) -> Reply:
        common: Mapping[str, Any] = {
            "verdicts": tuple(trip.verdicts), "usage": trip.usage, "trace_id": trip.trace.trace_id,
            "policy": self._policy_id, "backend": _described(backend, completion),
        }  # fmt: skip
        refusal = self._refusal(trip)
        if refusal is not None or completion is None or passed is None:
            return Reply(refusal=refusal, finish_reason="content_filter", **common)
        message = passed.wire()[-1]
        content = message["content"]
        text = content if isinstance(content, str) else "".join(p["text"] for p in content if is_text(p))
        return Reply(text=text, data=trip.value, message=message, finish_reason=completion.finish_reason, **common)

    @property
    def _policy_id(self) -> str:
        return f"{self.policy.name}@{self.policy.version}"


def _answered(conversation: Conversation, completion: Completion) -> Conversation:
    """The conversation with the model's answer at its end.

    A server's answer is input: it speaks as the assistant whatever it says of itself, and so is not trusted. Its text is
    one piece, so that what is judged is what is shown. Raises `BackendError` for what is no message.
    """
    message: dict[str, Any] = {**completion.message, "role": "assistant"}
    content = message.get("content")
    if isinstance(content, list | tuple) and content:
        texts = [p["text"] for p in content if is_text(p)]
        rest = [p for p in content if not is_text(p)]
        content = [{"type": "text", "text": "".join(texts)}, *rest] if rest else "".join(texts)
    message["content"] = content if isinstance(content, str | list) else ""
    try:
        return conversation.extend(message)
    except InvalidConversation:
        raise BackendError("the model's answer is not a message of JSON") from None


def _bits(text: str) -> Completion:
    """What has come of an answer so far, as if it were the answer."""
    return Completion({"role": "assistant", "content": text}, 0, 0)


def _since(conversation: Conversation, since: int) -> Conversation:
    """The unreadable parts of the messages from number `since` on; the others were judged when they came in."""
    here = {f"messages[{i}" for i in range(since, len(conversation.messages))}
    return replace(conversation, unreadable=tuple(p for p in conversation.unreadable if p.partition("]")[0] in here))


def _described(backend: Backend, completion: Completion | None) -> Mapping[str, Any]:
    """What the backend says of itself; a backend that cannot say it does not cost the reply. Of a router: who answered."""
    answered = {} if completion is None or completion.route is None else {"answered_by": completion.route}
    try:
        return {**backend.describe(), **answered}
    except Exception as error:
        return {"name": backend.name, "error": type(error).__name__}
