"""Tool calls in the answer, before anybody runs them: which tools, with which arguments, and after what.

A model that has read a stranger's text may act for the stranger. So the policy's flows look at where the text of the
conversation is from, not at what it says: "no e-mail after the inbox was read, unless a person agrees" holds also for
an attack that no detector knows. See https://arxiv.org/abs/2503.18813 (CaMeL) for where this comes from.

For each origin in the conversation the first flow that fits tool and origin decides; over all origins, the severest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shieldkit.errors import ConfigurationError, PolicyError, SelfTestError
from shieldkit.guards.base import Inspection, Report
from shieldkit.outcome import Action, Finding, Stage
from shieldkit.policy.model import Flow, ToolSettings
from shieldkit.schema import NotConforming, SchemaGate, compile_schema
from shieldkit.tools import Origin, ToolCall, calls_of, origins_of
from shieldkit.tools.origins import matches

_RULE_OF = {Action.BLOCK: "flow", Action.APPROVE: "approval", Action.FLAG: "watched"}


class ToolGuard:
    """Judges calls, not words: `settings.allow`, `settings.arguments` and `settings.flows`."""

    name = "tools"
    stages = frozenset({Stage.OUTPUT})
    streamable = 0  # calls leave with the whole answer
    rules = frozenset({"not_allowed", "arguments", "malformed", *_RULE_OF.values()})

    def __init__(self, settings: ToolSettings) -> None:
        self._settings = settings
        self._gates = {tool: _gate(tool, schema) for tool, schema in settings.arguments.items()}

    def check(self, inspection: Inspection) -> Report:
        """At most one finding for each rule that a call breaks."""
        return Report(tuple(self._findings(inspection)))

    def _findings(self, inspection: Inspection) -> Iterator[Finding]:
        conversation = inspection.conversation
        judged = frozenset(inspection.segments)
        for number, (message, wire) in enumerate(zip(conversation.messages, conversation.wire(), strict=True)):
            if judged.isdisjoint(message.segments):
                continue
            calls = calls_of(wire, f"messages[{number}]")
            origins = origins_of(conversation, before=number) if calls else frozenset()
            for call in calls:
                index = _segment(inspection, message.segments, call)
                length = len(conversation.segments[index].text)
                for rule, reason in self._complaints(call, origins):
                    yield inspection.finding(rule, 1.0, index, 0, length, reason)

    def _complaints(self, call: ToolCall, origins: Iterable[Origin]) -> Iterator[tuple[str, str]]:
        """Rule and reason of what is wrong with a call. A reason holds the policy's words only."""
        if call.name is None or call.arguments is None:
            yield "malformed", "a tool call that can be read in more than one way, or in none"
            return
        allow = self._settings.allow
        if allow is not None and not any(matches(call.name, pattern) for pattern in allow):
            yield "not_allowed", "calls a tool that the policy does not allow"
            return
        gates = (gate for pattern, gate in self._gates.items() if matches(call.name, pattern))
        if not all(_conforms(gate, call) for gate in gates):
            yield "arguments", f"the arguments of {call.name} do not conform to the policy's schema"
        number = self._flow(call.name, origins)
        if number is not None and (flow := self._settings.flows[number]).action in _RULE_OF:
            yield _RULE_OF[flow.action], f"flows[{number}]: {_told(flow)}"

    def _flow(self, tool: str, origins: Iterable[Origin]) -> int | None:
        """The number of the flow that decides about a call of `tool`."""
        flows = self._settings.flows
        own = [n for n, flow in enumerate(flows) if matches(tool, flow.tool)]
        found = {n for origin in origins for n in self._deciding(own, origin)} if origins else self._always(own)
        return max(found, key=lambda n: (flows[n].action.severity, -n), default=None)

    def _always(self, own: Iterable[int]) -> Iterable[int]:
        """The first flow that asks for no origin, for a call with no text before it."""
        return [n for n in own if not self._settings.flows[n].after][:1]

    def _deciding(self, own: Iterable[int], origin: Origin) -> Iterator[int]:
        """The first flow that fits; of an origin without a name, every one that may be the first."""
        for n in own:
            after = self._settings.flows[n].after
            if not after or any(origin.may_be(entry) for entry in after):
                yield n
            if not after or any(origin.is_surely(entry) for entry in after):
                return

    def self_test(self) -> None:
        """A call that no reader understands must not pass."""
        if not any(self._complaints(ToolCall(None, None), ())):
            raise SelfTestError("guards.tools", "lets a malformed call pass", mend="Install shieldkit anew")


def _gate(tool: str, schema: object) -> SchemaGate:
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


def _segment(inspection: Inspection, own: Iterable[int], call: ToolCall) -> int:
    """Where a call stands: its first segment, or the message's where it has none."""
    segments = inspection.conversation.segments
    indices = tuple(own)
    return next((i for i in indices if segments[i].path.startswith(call.path)), indices[0])


def _told(flow: Flow) -> str:
    words = {Action.BLOCK: "is not allowed", Action.APPROVE: "needs a person's approval", Action.FLAG: "is watched"}
    after = f" after text from {', '.join(flow.after)}" if flow.after else ""
    return f"{flow.tool}{after} {words[flow.action]}"
