"""Tool definitions are text that is sent to the model: they are counted, and read by the guards, like all other text.

They travel in the conversation, as segments after those of its messages: trusted as the application's own text, or
not trusted where they come from elsewhere (an MCP server's descriptions can carry instructions: "tool poisoning").
The words of JSON Schema itself (`type`, `properties`, `"string"`, …) stay in the skeleton, because chat templates look
for them; a fixed vocabulary carries no text of anybody. All other keys and strings become segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shieldkit.conversation import (
    MAX_DEPTH,
    MAX_SEGMENTS,
    Conversation,
    Kind,
    Pairs,
    Role,
    Segment,
    Skeleton,
    Slot,
    Trust,
)
from shieldkit.errors import InvalidConversation

MAX_TOOLS = 1024
_KEYWORDS = frozenset({
    "type", "function", "name", "description", "parameters", "strict", "properties", "required", "items", "enum",
    "const", "default", "anyOf", "oneOf", "allOf", "not", "additionalProperties", "$ref", "$defs", "definitions", "title",
    "format", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength",
    "minItems", "maxItems", "uniqueItems", "prefixItems", "nullable", "examples",
})  # fmt: skip
_TYPES = frozenset({"function", "object", "string", "number", "integer", "boolean", "array", "null"})


def with_tools(
    conversation: Conversation, tools: Sequence[Mapping[str, Any]], trust: Trust = Trust.TRUSTED
) -> Conversation:
    """The conversation with tools of the OpenAI wire form, `{"type": "function", "function": {"name": …}}`.

    Raises `InvalidConversation`, with the path of what is no such definition.
    """
    if not tools:
        return conversation
    if conversation.tools:
        raise InvalidConversation("tools", "the conversation has some already")
    if len(tools) > MAX_TOOLS:
        raise InvalidConversation("tools", f"are more than {MAX_TOOLS}")
    lifter = _Lifter(trust, list(conversation.segments))
    skeletons = tuple(lifter.tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))
    return replace(conversation, segments=tuple(lifter.segments), tools=skeletons)


def name_of(tool: Mapping[str, Any], path: str) -> str:
    """The name of a tool in the wire form. Raises `InvalidConversation`."""
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        mend = "Give {'type': 'function', 'function': {'name': …, 'description': …, 'parameters': …}}"
        raise InvalidConversation(path, "is not a tool", mend=mend)
    return name


@dataclass(slots=True)
class _Lifter:
    trust: Trust
    segments: list[Segment]
    origin: str = field(default="")

    def tool(self, tool: Mapping[str, Any], path: str) -> Skeleton:
        self.origin = name_of(tool, path)
        return self._lift(tool, path, 0)

    def _slot(self, text: str, kind: Kind, path: str) -> Slot:
        if len(self.segments) >= MAX_SEGMENTS:
            raise InvalidConversation(path, f"more than {MAX_SEGMENTS} pieces of text", mend="Send fewer, longer ones")
        self.segments.append(Segment(text, Role.TOOL, self.origin, self.trust, kind, path))
        return Slot(len(self.segments) - 1)

    def _lift(self, node: Any, path: str, depth: int) -> Skeleton:
        if depth > MAX_DEPTH:
            raise InvalidConversation(path, f"is nested deeper than {MAX_DEPTH}", mend="Flatten it")
        if isinstance(node, str):
            return self._slot(node, Kind.TOOL_DEFINITION, path)
        if node is None or isinstance(node, (bool, int, float)):
            return node
        if isinstance(node, Mapping):
            return Pairs(tuple(self._pair(key, value, path, depth) for key, value in node.items()))
        if isinstance(node, (list, tuple)):
            return tuple(self._lift(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(node))
        raise InvalidConversation(path, f"a {type(node).__name__} is not JSON", mend="Give text, numbers or JSON")

    def _pair(self, key: Any, value: Any, path: str, depth: int) -> tuple[str | Slot, Skeleton]:
        if not isinstance(key, str):
            raise InvalidConversation(path, "has a key that is not a string")
        known = key in _KEYWORDS
        below = f"{path}.{key}" if known else f"{path}[key]"
        name: str | Slot = key if known else self._slot(key, Kind.KEY, below)
        if key == "type" and isinstance(value, str) and value in _TYPES:
            return name, value
        return name, self._lift(value, below, depth + 1)
