"""The tool calls of a message.

OpenAI's chat form (`tool_calls`, `function_call`, custom tools), its responses form and Anthropic's content parts, and
LangChain's flat form. Whoever runs a call reads it with a parser of its own, so a call that two readers could
understand differently (two names, a key twice, text after the JSON) is one that this module does not understand either:
its name or arguments are None, and no policy lets that pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shieldkit.schema.strict import Limits, NotConforming, parse

_PART_TYPES = frozenset({"tool_use", "tool_call", "function_call", "custom_tool_call", "server_tool_use", "mcp_call"})
_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call. `name` or `arguments` is None where the message does not say it in one way only.

    `path` is its place in the conversation: `messages[3].tool_calls[0]`.
    """

    name: str | None
    arguments: Mapping[str, Any] | None
    id: str | None = None
    path: str = ""


def calls_of(message: Mapping[str, Any], path: str = "message") -> tuple[ToolCall, ...]:
    """All tool calls of a message in its wire form, in order."""
    return tuple(_calls(message, path))


def _calls(message: Mapping[str, Any], path: str) -> Iterator[ToolCall]:
    listed = message.get("tool_calls")
    if isinstance(listed, list | tuple):
        for index, item in enumerate(listed):
            yield _call(item, f"{path}.tool_calls[{index}]")
    elif listed:
        yield ToolCall(None, None, path=f"{path}.tool_calls")
    if message.get("function_call"):
        yield _call(message["function_call"], f"{path}.function_call")
    content = message.get("content")
    for index, part in enumerate(content if isinstance(content, list | tuple) else ()):
        if isinstance(part, Mapping) and part.get("type") in _PART_TYPES:
            yield _call(part, f"{path}.content[{index}]")


def _call(item: Any, path: str) -> ToolCall:
    if not isinstance(item, Mapping):
        return ToolCall(None, None, path=path)
    inner = [item, *(item[key] for key in ("function", "custom") if isinstance(item.get(key), Mapping))]
    names = {name for part in inner if isinstance(name := part.get("name"), str) and name}
    found = [part[key] for part in inner for key in ("arguments", "args", "input") if part.get(key) is not None]
    identity = next((item[key] for key in ("id", "call_id") if isinstance(item.get(key), str)), None)
    name = names.pop() if len(names) == 1 else None
    custom = isinstance(item.get("custom"), Mapping) or item.get("type") == "custom_tool_call"
    return ToolCall(name, _arguments(found, free_text=custom), identity, path)


def _arguments(found: Iterable[Any], *, free_text: bool) -> Mapping[str, Any] | None:
    values = list(found)
    if not values:
        return {}
    if len(values) > 1:
        return None
    value = values[0]
    if isinstance(value, str):
        if free_text:
            return {"input": value}
        try:
            value = parse(value, _LIMITS) if value.strip() else {}
        except NotConforming:
            return None
    return value if isinstance(value, Mapping) else None
