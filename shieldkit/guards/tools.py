"""Tool calls in the answer, before anybody runs them: which tools, with which arguments, and after what.

A model that has read a stranger's text may act for the stranger. So the policy's flows look at where the text of the
conversation is from, not at what it says: "no e-mail after the inbox was read, unless a person agrees" holds also for
an attack that no detector knows. See https://arxiv.org/abs/2503.18813 (CaMeL) for where this comes from.

For each origin in the conversation the first flow that fits tool and origin decides; over all origins, the severest.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from shieldkit.conversation import Conversation, Message
from shieldkit.errors import ConfigurationError, PolicyError, SelfTestError
from shieldkit.guards.base import Inspection, Report
from shieldkit.outcome import Action, Finding, Stage
from shieldkit.policy.model import Flow, ToolSettings
from shieldkit.schema import NotConforming, SchemaGate, compile_schema
from shieldkit.schema.gate import KEYWORDS, unknown_keyword
from shieldkit.tools import Origin, ToolCall, calls_of
from shieldkit.tools.origins import Origins, matches

_RULE_OF = {Action.BLOCK: "flow", Action.APPROVE: "approval", Action.FLAG: "watched"}

MEANINGS: Mapping[str, str] = {
    "not_allowed": "calls a tool that `allow` does not have",
    "arguments": "the arguments do not conform to the policy's schema",
    "malformed": "a call that can be read in more than one way, or in none",
    "flow": "a flow forbids the call after text from there",
    "approval": "a flow wants a person's approval of the call",
    "watched": "a flow watches the call",
}
"""What each rule means."""


class ToolGuard:
    """Judges calls, not words: `settings.allow`, `settings.arguments` and `settings.flows`."""

    name = "tools"
    stages = frozenset({Stage.OUTPUT})
    streamable = 0  # calls leave with the whole answer
    rules = frozenset(MEANINGS)

    def __init__(self, settings: ToolSettings) -> None:
        self._settings = settings
        self._gates = {tool: _gate(tool, schema) for tool, schema in settings.arguments.items()}

    def check(self, inspection: Inspection) -> Report:
        """At most one finding for each rule that a call breaks."""
        return Report(tuple(self._findings(inspection)))

    def _findings(self, inspection: Inspection) -> Iterator[Finding]:
        conversation = inspection.conversation
        judged = frozenset(inspection.segments)
        origins, flows = Origins(), _Flows(self._settings.flows)
        origins.define(conversation)
        for number, (message, wire) in enumerate(zip(conversation.messages, conversation.wire(), strict=True)):
            answer = not judged.isdisjoint(message.segments)
            if answer:
                places = _places(conversation, message)
                for call in calls_of(wire, f"messages[{number}]"):
                    index = places.get(call.path, message.segments.start)
                    length = len(conversation.segments[index].text)
                    for rule, reason in self._complaints(call, flows, origins.found):
                        yield inspection.finding(rule, 1.0, index, 0, length, reason)
            origins.add(conversation, message, wire, judged=answer)

    def _complaints(self, call: ToolCall, flows: _Flows, origins: Sequence[Origin]) -> Iterator[tuple[str, str]]:
        """Rule and reason of what is wrong with a call. A reason holds the policy's words only."""
        if call.name is None or call.arguments is None:
            yield "malformed", "a tool call that can be read in more than one way, or in none"
            return
        allow = self._settings.allow
        if allow is not None and not any(matches(call.name, pattern) for pattern in allow):
            yield "not_allowed", "calls a tool that the policy does not allow"
            return
        gates = ((pattern, gate) for pattern, gate in self._gates.items() if matches(call.name, pattern))
        broken = next((pattern for pattern, gate in gates if not _conforms(gate, call)), None)
        if broken is not None:
            yield "arguments", f"the arguments of {broken} do not conform to the policy's schema"
        number = flows.deciding(call.name, origins)
        if number is not None and (flow := self._settings.flows[number]).action in _RULE_OF:
            yield _RULE_OF[flow.action], f"flows[{number}]: {_told(flow)}"

    def self_test(self) -> None:
        """A call that no reader understands must not pass."""
        if not any(self._complaints(ToolCall(None, None), _Flows(()), ())):
            raise SelfTestError("guards.tools", "lets a malformed call pass", mend="Install shieldkit anew")


class _Flows:
    """Which flow decides, while a conversation is read: each origin is held against the flows of a tool once."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._flows = flows
        self._held: dict[tuple[int, ...], tuple[int, set[int]]] = {}

    def deciding(self, tool: str, origins: Sequence[Origin]) -> int | None:
        """The number of the flow that decides about a call of `tool`. `origins`, of all before it, grow at their end."""
        own = tuple(n for n, flow in enumerate(self._flows) if matches(tool, flow.tool))
        found = self._found(own, origins) if origins else self._always(own)
        return max(found, key=lambda n: (self._flows[n].action.severity, -n), default=None)

    def _found(self, own: tuple[int, ...], origins: Sequence[Origin]) -> Iterable[int]:
        seen, found = self._held.get(own, (0, set()))
        for number in range(seen, len(origins)):
            found.update(self._fitting(own, origins[number]))
        self._held[own] = len(origins), found
        return found

    def _always(self, own: Iterable[int]) -> Iterable[int]:
        """The first flow that asks for no origin, for a call with no text before it."""
        return [n for n in own if not self._flows[n].after][:1]

    def _fitting(self, own: Iterable[int], origin: Origin) -> Iterator[int]:
        """The first flow that fits; of an origin without a name, every one that may be the first."""
        for n in own:
            after = self._flows[n].after
            if not after or any(origin.may_be(entry) for entry in after):
                yield n
            if not after or any(origin.is_surely(entry) for entry in after):
                return


def _gate(tool: str, schema: object) -> SchemaGate:
    if (key := unknown_keyword(schema)) is not None:
        near = difflib.get_close_matches(key, KEYWORDS, 1)
        mend = f"Did you mean `{near[0]}`?" if near else "Remove it: it checks nothing"
        raise PolicyError(f"guards.tools.arguments.{tool}", f"`{key}` is no keyword of JSON Schema", mend=mend)
    try:
        return compile_schema(schema)
    except ConfigurationError as error:
        raise PolicyError(f"guards.tools.arguments.{tool}", error.problem, mend=error.mend) from None


def _conforms(gate: SchemaGate, call: ToolCall) -> bool:
    try:
        gate.check(call.arguments)
    except NotConforming:
        return False
    return True


def _places(conversation: Conversation, message: Message) -> Mapping[str, int]:
    """The first segment of each part of a message, by its path: `messages[3].tool_calls[0]`."""
    places: dict[str, int] = {}
    for index in message.segments:
        places.setdefault(".".join(conversation.segments[index].path.split(".", 2)[:2]), index)
    return places


def _told(flow: Flow) -> str:
    words = {Action.BLOCK: "is not allowed", Action.APPROVE: "needs a person's approval", Action.FLAG: "is watched"}
    after = f" after text from {', '.join(flow.after)}" if flow.after else ""
    return f"{flow.tool}{after} {words[flow.action]}"
