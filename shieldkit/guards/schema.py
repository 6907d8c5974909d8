"""The last gate: an answer that does not conform to the schema of the request does not leave.

Without a schema there is nothing to hold the answer against, and the guard reports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from shieldkit.conversation import Kind, Segment
from shieldkit.errors import SelfTestError
from shieldkit.guards.base import Inspection, Report
from shieldkit.outcome import Finding, Stage
from shieldkit.policy.model import SchemaSettings
from shieldkit.schema import Limits, NotConforming, SchemaGate, Violation, compile_schema

MEANINGS: Mapping[str, str] = {
    "not_json": "it is not JSON",
    "trailing_text": "there is text after the JSON value",
    "duplicate_key": "a key stands twice in an object",
    "too_large": "it is too large",
    "too_deep": "it is nested too deeply",
    "number": "it holds a number that is too long or not finite",
    "violates_schema": "it violates the schema",
}
"""What each rule means."""


class SchemaGuard:
    """Holds the text of an answer against `request["schema"]`, a `SchemaGate`."""

    name = "schema"
    stages = frozenset({Stage.OUTPUT})
    rules = frozenset(MEANINGS)
    streamable = 0  # an answer that is held to a schema is never streamed

    def __init__(self, settings: SchemaSettings) -> None:
        self._limits = Limits(settings.max_bytes, settings.max_depth, settings.max_number_digits)

    def reads(self, segment: Segment) -> bool:
        """The answer's text; its reasoning and tool calls are not the data."""
        return segment.kind is Kind.TEXT

    def check(self, inspection: Inspection) -> Report:
        """One finding for each violation; the validated value when there is none."""
        gate = inspection.request.get("schema")
        if not isinstance(gate, SchemaGate):
            return Report()
        text = "".join(segment.text for _, segment in inspection.texts())
        try:
            return Report(value=gate.read(text, self._limits))
        except NotConforming as error:
            return Report(tuple(_finding(inspection, violation) for violation in error.violations))

    def self_test(self) -> None:
        """A gate that lets a wrong answer pass, or stops a right one, is not used."""
        gate = compile_schema({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
        try:
            right = gate.read('{"n": 1}', self._limits) == {"n": 1}
            gate.read('{"n": "1"}', self._limits)
        except NotConforming as error:
            if error.violations[0].rule == "violates_schema" and right:
                return
        raise SelfTestError(
            "guards.schema", "does not tell right from wrong answers", mend="Install jsonschema-rs anew"
        )


def _finding(inspection: Inspection, violation: Violation) -> Finding:
    message = MEANINGS[violation.rule]
    if violation.kind:
        message += f" ({violation.kind}{f' at {violation.pointer}' if violation.pointer else ''})"
    if not inspection.segments:
        # No text at all: the finding stands at the start of the last segment there is.
        last = len(inspection.conversation.segments) - 1
        return inspection.finding(violation.rule, 1.0, last, 0, 0, message)
    index = inspection.segments[0]
    length = len(inspection.conversation.segments[index].text)
    return inspection.finding(violation.rule, 1.0, index, min(violation.at, length), length, message)
