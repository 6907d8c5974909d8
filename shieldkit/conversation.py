"""The one input type: a `Conversation` of `Segment`s.

Chat messages come in many shapes: strings, dicts in the OpenAI wire form, LangChain messages, `Segment`s. All of
them turn into one `Conversation`: the wire form with *every* string in it (content, text blocks, reasoning, tool
calls and their arguments, tool results, nested JSON with its keys, names and ids) lifted out as a `Segment`.
What is left is a skeleton with a slot for each segment, so that a rewritten text, or a placeholder, can be put back
exactly where the original stood. What the guards read is therefore what is sent, by construction.

Trust comes from the role (`system` is trusted: take it out of what clients send), or from a `Segment` that the
application makes; no other field of a message dict can claim it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from pydantic_core import to_jsonable_python

from shieldkit.errors import InvalidConversation
from shieldkit.text.folding import encodable

MAX_SEGMENTS = 100_000
MAX_DEPTH = 64


class Role(enum.StrEnum):
    """Who speaks. `document` is text that was retrieved or attached, not spoken."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    DOCUMENT = "document"


class Trust(enum.StrEnum):
    """Only trusted segments may instruct the model."""

    TRUSTED = "trusted"
    UNTRUSTED = "untrusted"


class Kind(enum.StrEnum):
    """What part of a message the text is. `extra` travels with a message, and is not said in it."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    TOOL_DEFINITION = "tool_definition"
    KEY = "key"
    NAME = "name"
    EXTRA = "extra"


_ROLE_NAMES: Mapping[str, Role] = {
    **{role.value: role for role in Role},
    "developer": Role.SYSTEM,
    "human": Role.USER,
    "ai": Role.ASSISTANT,
    "function": Role.TOOL,
}


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text with its role, origin and trust.

    `trust` follows from the role when it is not given: `system` is trusted, everything else is not. `origin` says
    where the text is from (a URL, a file, a tool's name). `path` is where it stands in the messages, for example
    `messages[2].tool_calls[0].function.arguments`; it is filled in when the segment enters a conversation.
    """

    text: str
    role: Role = Role.USER
    origin: str | None = None
    trust: Trust | None = None
    kind: Kind = Kind.TEXT
    path: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InvalidConversation(self.path or "Segment.text", f"must be a string, not {type(self.text).__name__}")
        # No model can be sent a lone surrogate; what guards read is what is sent, so it is replaced here, place for place.
        object.__setattr__(self, "text", encodable(self.text))
        object.__setattr__(self, "role", _role(self.role, self.path or "Segment.role"))
        default = Trust.TRUSTED if self.role is Role.SYSTEM else Trust.UNTRUSTED
        try:
            object.__setattr__(self, "trust", Trust(self.trust) if self.trust is not None else default)
        except ValueError:
            raise InvalidConversation("Segment.trust", "must be 'trusted' or 'untrusted'") from None

    @property
    def trusted(self) -> bool:
        """Whether this text may instruct the model."""
        return self.trust is Trust.TRUSTED


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a segment in the skeleton of a message."""

    segment: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """A JSON object in a skeleton; its keys may be slots too."""

    items: tuple[tuple[str | Slot, Skeleton], ...]


Skeleton: TypeAlias = "Slot | Pairs | tuple[Skeleton, ...] | str | int | float | bool | None"
MessageLike: TypeAlias = "str | Segment | Mapping[str, Any] | Any"


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its role, its skeleton in the wire form, and the indices of its segments."""

    role: Role
    skeleton: Pairs
    segments: range


@dataclass(frozen=True, slots=True)
class Conversation:
    """The messages of one request, and all their text as segments, in order.

    `unreadable` lists the paths of parts that no text guard can read (images, audio): they are never passed as read.
    `tools` are the skeletons of tool definitions (`shieldkit.tool_definitions`); their text is among the segments too.
    """

    messages: tuple[Message, ...]
    segments: tuple[Segment, ...]
    unreadable: tuple[str, ...] = ()
    tools: tuple[Skeleton, ...] = ()

    @classmethod
    def of(cls, messages: MessageLike | Sequence[MessageLike] | Conversation) -> Conversation:
        """Read a string, a message, or a list of messages.

        Raises `InvalidConversation`, with the path of the part that could not be read.
        """
        if isinstance(messages, Conversation):
            return messages
        # A LangChain message is a pydantic model, and these are iterable.
        one = isinstance(messages, (str, bytes, bytearray, Segment, Mapping)) or hasattr(messages, "content")
        single = one or not isinstance(messages, Iterable)
        builder = _Builder()
        for item in [messages] if single else messages:  # type: ignore[union-attr]
            builder.add(item)
        if not builder.messages:
            raise InvalidConversation("messages", "is empty", mend="Give at least one message")
        return builder.build()

    def extend(self, message: MessageLike) -> Conversation:
        """This conversation with one more message at its end."""
        builder = _Builder(self)
        builder.add(message)
        return builder.build()

    def texts_of(self, message: Message) -> tuple[Segment, ...]:
        """The segments of one message, in order."""
        return tuple(self.segments[i] for i in message.segments)

    def with_texts(self, texts: Mapping[int, str]) -> Conversation:
        """The same conversation with other text in some segments, by index. Nothing else changes."""
        if not texts:
            return self
        segments = tuple(replace(s, text=texts.get(i, s.text)) for i, s in enumerate(self.segments))
        return replace(self, segments=segments)

    def distrusted(self, first: int = 0) -> Conversation:
        """The same conversation with no segment trusted from number `first` on: for text that is judged as an answer."""
        answer = (replace(s, trust=Trust.UNTRUSTED) for s in self.segments[first:])
        return replace(self, segments=(*self.segments[:first], *answer))

    def wire(self, text: Callable[[int], str] | None = None) -> list[dict[str, Any]]:
        """The messages in the chat wire form. `text` chooses what stands for segment *i*; its own text by default."""
        choose = text or (lambda i: self.segments[i].text)
        return [_fill(message.skeleton, choose) for message in self.messages]

    def wire_tools(self, text: Callable[[int], str] | None = None) -> list[dict[str, Any]]:
        """The tool definitions in the wire form, as `wire` does for the messages."""
        choose = text or (lambda i: self.segments[i].text)
        return [_fill(skeleton, choose) for skeleton in self.tools]


def _fill(node: Skeleton, text: Callable[[int], str]) -> Any:
    if isinstance(node, Slot):
        return text(node.segment)
    if isinstance(node, Pairs):
        return {_fill(key, text): _fill(value, text) for key, value in node.items}
    if isinstance(node, tuple):
        return [_fill(item, text) for item in node]
    return node


def _role(value: Any, path: str) -> Role:
    if isinstance(value, Role):
        return value
    role = _ROLE_NAMES.get(value) if isinstance(value, str) else None
    if role is None:
        raise InvalidConversation(path, "is not a role", mend=f"Use one of {', '.join(_ROLE_NAMES)}")
    return role


_READABLE_PARTS = frozenset({
    "text", "input_text", "output_text", "refusal", "reasoning", "thinking", "tool_use", "tool_result", "tool_call",
    "function", "function_call", "function_call_output", "custom_tool_call", "server_tool_use", "json", "document",
    "search_result", "citation",
})  # fmt: skip
_MEDIA_PARTS = frozenset({
    "image", "image_url", "input_image", "image_file", "audio", "audio_url", "input_audio", "video", "video_url",
    "input_video", "file", "input_file",
})  # fmt: skip
_MEDIA = _MEDIA_PARTS | {
    "images", "videos", "audios", "image_data", "audio_data", "video_data", "file_data", "file_url", "file_id",
}  # fmt: skip


def _has_media(node: Mapping[Any, Any]) -> bool:
    """Whether a message or a part of one carries something beside text: by the names that APIs give it."""
    return _is_binary(node.get("source")) or any(node.get(name) for name in _MEDIA)


def _is_binary(source: Any) -> bool:
    """Whether the source of a part is no text. One that does not say what it is may hold its content, and nothing else."""
    if not isinstance(source, Mapping):
        return False
    kind = source.get("type")
    return kind not in ("text", "content") if kind is not None else not source.keys() <= {"content", "text"}


def _is_media(node: Mapping[Any, Any]) -> bool:
    """Whether an object within data is a part that is no text. A name with a string, as in a list of files, is text."""
    kind = node.get("type")
    typed = isinstance(kind, str) and kind in _MEDIA_PARTS
    return typed or any(isinstance(node.get(name), Mapping) for name in _MEDIA)


_KINDS: Mapping[str, Kind] = {
    "reasoning": Kind.REASONING,
    "reasoning_content": Kind.REASONING,
    "thinking": Kind.REASONING,
    "tool_calls": Kind.TOOL_CALL,
    "tool_call_chunks": Kind.TOOL_CALL,
    "invalid_tool_calls": Kind.TOOL_CALL,
    "function_call": Kind.TOOL_CALL,
    "tool_use": Kind.TOOL_CALL,
    "tool_call": Kind.TOOL_CALL,
    "custom_tool_call": Kind.TOOL_CALL,
    "server_tool_use": Kind.TOOL_CALL,
    "function_call_output": Kind.TOOL_RESULT,
    "tool_result": Kind.TOOL_RESULT,
}


@dataclass(slots=True)
class _Builder:
    """Lifts the strings out of messages. Grows by whole messages, so `extend` costs only what is new."""

    base: Conversation | None = None
    messages: list[Message] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    current: Segment = field(default_factory=lambda: Segment(""))

    def __post_init__(self) -> None:
        if self.base is not None:
            self.messages += self.base.messages
            self.segments += self.base.segments
            self.unreadable += self.base.unreadable

    def build(self) -> Conversation:
        tools = self.base.tools if self.base is not None else ()
        return Conversation(tuple(self.messages), tuple(self.segments), tuple(self.unreadable), tools)

    def add(self, item: MessageLike) -> None:
        path, first = f"messages[{len(self.messages)}]", len(self.segments)
        if isinstance(item, (bytes, bytearray)):
            raise InvalidConversation(path, "is bytes, not text", mend="Decode them: data.decode()")
        if isinstance(item, str):
            item = Segment(item)
        if isinstance(item, Segment):
            self.current = item
            kind = Kind.TOOL_RESULT if item.role is Role.TOOL and item.kind is Kind.TEXT else item.kind
            content = self._slot(item.text, kind, f"{path}.content")
            skeleton = Pairs((("role", item.role.value), ("content", content)))
        else:
            wire = _as_mapping(item, path)
            role = _role(wire.get("role"), f"{path}.role")
            _check_content(wire, role, path)
            self.current = Segment("", role)
            kind = Kind.TOOL_RESULT if role is Role.TOOL else Kind.TEXT
            body = {k: v for k, v in wire.items() if k != "role" and v is not None}
            lifted = self._lift(body, kind, path, 0)
            assert isinstance(lifted, Pairs)
            skeleton = Pairs((("role", role.value), *lifted.items))
        self.messages.append(Message(self.current.role, skeleton, range(first, len(self.segments))))

    def _slot(self, text: str, kind: Kind, path: str) -> Slot:
        if len(self.segments) >= MAX_SEGMENTS:
            raise InvalidConversation(path, f"more than {MAX_SEGMENTS} pieces of text", mend="Send fewer, longer ones")
        self.segments.append(replace(self.current, text=text, kind=kind, path=path))
        return Slot(len(self.segments) - 1)

    def _lift(self, node: Any, kind: Kind, path: str, depth: int, *, parts: bool = False) -> Skeleton:
        """The skeleton of `node`. `parts` says that a list here holds content parts, told apart by their `type`."""
        if depth > MAX_DEPTH:
            raise InvalidConversation(path, f"is nested deeper than {MAX_DEPTH}", mend="Flatten it")
        if isinstance(node, str):
            return self._slot(node, kind, path)
        if node is None or isinstance(node, (bool, int, float)):
            return node
        if isinstance(node, Mapping):
            return self._lift_object(node, kind, path, depth, part=False)
        if isinstance(node, (list, tuple)):
            return tuple(self._lift_item(item, kind, f"{path}[{i}]", depth + 1, parts) for i, item in enumerate(node))
        raise InvalidConversation(path, f"a {type(node).__name__} is not JSON", mend="Give text, numbers or JSON")

    def _lift_item(self, item: Any, kind: Kind, path: str, depth: int, parts: bool) -> Skeleton:
        if parts and isinstance(item, Mapping) and depth <= MAX_DEPTH:
            return self._lift_object(item, kind, path, depth, part=True)
        return self._lift(item, kind, path, depth, parts=parts)

    def _lift_object(self, node: Mapping[Any, Any], kind: Kind, path: str, depth: int, *, part: bool) -> Pairs:
        content_type = node.get("type") if part else None
        readable = isinstance(content_type, str) and content_type in _READABLE_PARTS
        # What a model calls a tool with is sent as JSON, whatever it looks like.
        media = _has_media(node) if part or depth == 0 else kind is not Kind.TOOL_CALL and _is_media(node)
        if media or (part and not readable):
            self.unreadable.append(path)
        if isinstance(content_type, str):
            kind = _KINDS.get(content_type, kind)
        items: list[tuple[str | Slot, Skeleton]] = []
        for key, value in node.items():
            if not isinstance(key, str):
                raise InvalidConversation(path, "has a key that is not a string")
            if key == "type" and readable:
                items.append((key, content_type))
                continue
            known = key in _WIRE_KEYS
            below = f"{path}.{key}" if known else f"{path}[key {len(items)}]"
            extra = kind is Kind.EXTRA or (depth == 0 and key == "additional_kwargs")
            name: str | Slot = key if known else self._slot(key, Kind.EXTRA if extra else Kind.KEY, f"{below} (key)")
            inner = Kind.EXTRA if extra else _KINDS.get(key, Kind.NAME if key in _NAMES else kind)
            nested_parts = key in ("content", "output") and (part or depth == 0)
            items.append((name, self._lift(value, inner, below, depth + 1, parts=nested_parts)))
        return Pairs(tuple(items))


_NAMES = frozenset({"id", "name", "tool_call_id", "call_id"})
_WIRE_KEYS = _NAMES | {
    "role", "type", "text", "content", "function", "arguments", "input", "tool_use_id", "thinking", "reasoning",
    "refusal", "cache_control", "image_url", "url", "detail", "is_error", "output", "index",
    "tool_calls", "function_call", "reasoning_content", "audio", "annotations", "tool_call_chunks",
    "invalid_tool_calls", "additional_kwargs",
}  # fmt: skip


_BESIDE_CONTENT = frozenset({
    "tool_calls", "function_call", "tool_call_chunks", "invalid_tool_calls", "reasoning", "reasoning_content",
    "thinking", "refusal",
})  # fmt: skip
_MISNAMED = ("text", "contents", "parts", "message", "prompt")


def _check_content(wire: Mapping[str, Any], role: Role, path: str) -> None:
    """A message says something: what is under another name would be read, and nothing of it answered.

    An assistant may have said nothing, or called tools instead, and a tool may have answered with nothing: `content` is null.
    """
    if wire.get("content") is not None or _has_media(wire):
        return
    if role is Role.ASSISTANT and any(wire.get(name) for name in _BESIDE_CONTENT):
        return
    if role in (Role.ASSISTANT, Role.TOOL) and "content" in wire:
        return
    near = next((name for name in _MISNAMED if wire.get(name) is not None), None)
    hint = f"it has '{near}': rename that" if near else "for a message without text give ''"
    raise InvalidConversation(f"{path}.content", "is missing", mend=f"Give {{'role': …, 'content': …}}; {hint}")


def _as_mapping(item: Any, path: str) -> Mapping[str, Any]:
    """A dict as it is; a LangChain message (told by its `type` and `content`) in the wire form."""
    if isinstance(item, Mapping):
        if "role" not in item:
            raise InvalidConversation(path, "has no 'role'", mend="Give {'role': …, 'content': …}")
        return item
    kind, content = getattr(item, "type", None), getattr(item, "content", None)
    if not isinstance(kind, str) or content is None:
        raise InvalidConversation(
            path, f"a {type(item).__name__} is not a message", mend="Give a string, a dict, a Segment or a chat message"
        )
    kind = kind.removesuffix("MessageChunk").lower()  # `AIMessageChunk` is the type of what a model streams
    wire: dict[str, Any] = {"role": getattr(item, "role", None) if kind == "chat" else kind, "content": content}
    for name in ("name", "tool_call_id", "invalid_tool_calls", "tool_call_chunks"):
        if getattr(item, name, None):
            wire[name] = getattr(item, name)
    if calls := getattr(item, "tool_calls", None):
        if not isinstance(calls, list) or not all(isinstance(c, Mapping) for c in calls):
            raise InvalidConversation(f"{path}.tool_calls", "is not a list of calls")
        wire["tool_calls"] = [
            {"id": c.get("id"), "type": "function", "function": {"name": c.get("name"), "arguments": c.get("args")}}
            for c in calls
        ]
    return wire | _beside(item, path, wire)


BESIDE = _MEDIA | {"reasoning_content", "function_call", "tool_calls"}
"""Fields of the wire form that LangChain's messages have in `additional_kwargs`."""


def _beside(item: Any, path: str, wire: Mapping[str, Any]) -> dict[str, Any]:
    """What a LangChain message has in `additional_kwargs`: the fields that `wire` lacks as such, and the rest together.

    Calls are there as they came, and `wire` may have them as they were understood, and so may not hold all their text.
    """
    given = getattr(item, "additional_kwargs", None)
    if not isinstance(given, Mapping) or not given:
        return {}
    try:
        extra = to_jsonable_python(given, bytes_mode="base64", fallback=str)
    except ValueError:
        raise InvalidConversation(f"{path}.additional_kwargs", "is not JSON", mend="Give text or numbers") from None
    found = {name: extra.pop(name) for name in list(extra) if name in BESIDE and name not in wire}
    return {**found, "additional_kwargs": extra} if extra else found
