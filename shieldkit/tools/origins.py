"""Where the text of a conversation is from: the user, tools by name, documents by origin.

A result whose tool cannot be told counts as one of any tool, and a document without an origin as one from anywhere.
Whoever sends a request can write more than the user's turn: what is not trusted in a system prompt, in an earlier turn of
the assistant or in a tool's definition counts as the user's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shieldkit.conversation import Conversation, Kind, Message, Role
from shieldkit.tools.calls import calls_of

_DOCUMENT_PARTS = frozenset({"document", "search_result", "file", "input_file"})


class Origin(NamedTuple):
    """`role` is user, tool or document; `name` the tool or the document's origin, None where it is not known."""

    role: Role
    name: str | None = None

    def may_be(self, entry: str) -> bool:
        """Whether an entry of a policy may mean this origin: `tool`, `tool:read_inbox`, `document:https://example.org/*`."""
        role, colon, name = entry.partition(":")
        return role == self.role.value and (not colon or self.name is None or matches(self.name, name))

    def is_surely(self, entry: str) -> bool:
        """As `may_be`, but an origin without a name is meant only by an entry without one."""
        return self.may_be(entry) and (self.name is not None or ":" not in entry)


def matches(name: str, pattern: str) -> bool:
    """A name as it is, or its beginning where the pattern ends in `*`."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


@dataclass(slots=True)
class Origins:
    """The origins of a conversation that is read message by message: `found`, each once, in the order of their coming."""

    found: list[Origin] = field(default_factory=list)
    _known: set[Origin] = field(default_factory=set)
    _called: dict[str, str] = field(default_factory=dict)

    def define(self, conversation: Conversation) -> None:
        """Read the definitions of the tools, which stand before all messages."""
        if any(s.kind is Kind.TOOL_DEFINITION and not s.trusted for s in conversation.segments):
            self._note(Origin(Role.USER))

    def add(
        self, conversation: Conversation, message: Message, wire: Mapping[str, Any], *, judged: bool = False
    ) -> None:
        """Read the next message; `wire` is its wire form. One that is `judged` is the model's own."""
        if message.role is Role.ASSISTANT:
            self._called |= {call.id: call.name for call in calls_of(wire) if call.id and call.name}
        if not (judged and message.role is Role.ASSISTANT):
            for origin in _own(conversation, message, wire, self._called):
                self._note(origin)
        for origin in _parts(wire, self._called):
            self._note(origin)

    def _note(self, origin: Origin) -> None:
        if origin not in self._known:
            self._known.add(origin)
            self.found.append(origin)


def origins_of(conversation: Conversation) -> frozenset[Origin]:
    """The origins of all text in a conversation."""
    origins = Origins()
    origins.define(conversation)
    for message, wire in zip(conversation.messages, conversation.wire(), strict=True):
        origins.add(conversation, message, wire)
    return frozenset(origins.found)


def _own(
    conversation: Conversation, message: Message, wire: Mapping[str, Any], called: Mapping[str, str]
) -> Iterator[Origin]:
    said = (s for s in conversation.texts_of(message) if not s.trusted and s.text.strip())
    if message.role is Role.USER or (message.role in (Role.SYSTEM, Role.ASSISTANT) and any(said)):
        yield Origin(Role.USER)
    if message.role not in (Role.TOOL, Role.DOCUMENT):
        return
    names = {segment.origin for segment in conversation.texts_of(message)}
    names |= {wire.get("name"), called.get(str(wire.get("tool_call_id")))}
    known = {name for name in names if isinstance(name, str) and name}
    yield from (Origin(message.role, name) for name in known) if known else (Origin(message.role),)


def _parts(wire: Mapping[str, Any], called: Mapping[str, str]) -> Iterator[Origin]:
    """Results and documents that came as content parts of another message."""
    content = wire.get("content")
    for part in content if isinstance(content, list | tuple) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _DOCUMENT_PARTS:
            yield Origin(Role.DOCUMENT)
        elif isinstance(kind, str) and kind.endswith(("tool_result", "_call_output")):
            identity = part.get("tool_use_id") or part.get("call_id")
            yield Origin(Role.TOOL, called.get(str(identity)))
