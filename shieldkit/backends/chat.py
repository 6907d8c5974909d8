"""The OpenAI chat protocol: a conversation as messages for a server that renders them, and its answers, which are input.

Where only text can be sent, control tokens in text that is not trusted are taken apart by a blank. Chat templates put
that text beside their own without a seam, and so they are looked for in what is joined.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from shieldkit.backends.inert import Inert
from shieldkit.conversation import Conversation
from shieldkit.errors import BackendError, BackendUnavailable

_ANSWERED = ("content", "tool_calls", "reasoning_content", "reasoning", "refusal")
_SAID = ("text", "thinking", "reasoning", "refusal")
# On the whole of an answer. Single tokens are longer (runs of blanks), and no text has only these.
MOST_BYTES_A_TOKEN = 32
_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


def messages_of(conversation: Conversation, inert: Inert) -> list[dict[str, Any]]:
    """The messages in the wire form, with content as one string where it is text alone."""
    out: list[dict[str, Any]] = []
    said: list[list[tuple[str, bool]]] = []  # what each says: its texts, and whether they are trusted
    for given, wire in zip(conversation.messages, conversation.wire(), strict=True):
        trusted = all(conversation.segments[i].trusted for i in given.segments)
        beside = {key: wire[key] for key in ("name", "tool_call_id", "tool_calls") if wire.get(key) is not None}
        message = {"role": wire["role"], "content": "", **(beside if trusted else _taken_apart(beside, inert))}
        if calls := message.pop("tool_calls", None):
            message["tool_calls"] = [_call(call) for call in calls]
        content = _content(wire.get("content"))
        if message["role"] == "document":
            message = {"role": "user", "content": ""}
            content = f"Document:\n{content}\nEnd of document."
        if not isinstance(content, str):
            message["content"] = content if trusted else _parts(content, inert)
            content = ""
        previous = out[-1] if out else None
        if previous and previous["role"] == message["role"] == "user" and _plain(previous) and _plain(message):
            said[-1] += ("\n\n", True), (content, trusted)
        else:
            out.append(message)
            said.append([(content, trusted)])
    for message, texts in zip(out, said, strict=True):
        if isinstance(message["content"], str):
            message["content"] = "".join(_side_by_side(texts, inert))
    return out


def _side_by_side(texts: Sequence[tuple[str, bool]], inert: Inert) -> list[str]:
    """Texts that are joined, with a blank inside each control token but those that one of them, which is trusted, has."""
    if all(trusted for _, trusted in texts):
        return [text for text, _ in texts]
    cuts = _cuts("".join(text for text, _ in texts), inert)
    out, at = [], 0
    for text, trusted in texts:
        inside = cuts[bisect_left(cuts, at) : bisect_left(cuts, at + len(text))]
        kept = {at + cut for cut in _cuts(text, inert)} if trusted and inside else ()
        places = [cut - at for cut in inside if cut not in kept]
        out.append(" ".join(text[a:b] for a, b in pairwise([0, *places, len(text)])))
        at += len(text)
    return out


def _cuts(text: str, inert: Inert) -> list[int]:
    return list(accumulate(map(len, inert.parts(text))))[:-1]


def _parts(content: Sequence[Any], inert: Inert) -> list[Any]:
    """Content with images: texts that stand side by side are one, and what is cut over the others is taken apart too."""
    parts: list[Any] = []
    for part in content:
        key, before = _key(part), _key(parts[-1]) if parts else None
        if key and before:
            parts[-1] = {"type": "text", "text": f"{parts[-1][before]}\n{part[key]}"}
        else:
            parts.append(part)
    keys = [_key(part) for part in parts]
    texts = _side_by_side([(part[key] if key else "", False) for part, key in zip(parts, keys, strict=True)], inert)
    return [
        {**_taken_apart(part, inert), **({key: text} if key else {})}
        for part, key, text in zip(parts, keys, texts, strict=True)
    ]


def _taken_apart(value: Any, inert: Inert) -> Any:
    """JSON with a blank inside each control token of its strings."""
    if isinstance(value, str):
        return inert.neutralised(value)
    if isinstance(value, Mapping):
        return {_taken_apart(key, inert): _taken_apart(inner, inert) for key, inner in value.items()}
    return [_taken_apart(inner, inert) for inner in value] if isinstance(value, list) else value


def tools_of(conversation: Conversation, inert: Inert) -> list[dict[str, Any]]:
    """The tool definitions in the wire form."""
    segments = conversation.segments
    return conversation.wire_tools(
        lambda i: segments[i].text if segments[i].trusted else inert.neutralised(segments[i].text)
    )


def _plain(message: Mapping[str, Any]) -> bool:
    return message.keys() == {"role", "content"} and isinstance(message["content"], str)


def _content(content: Any) -> Any:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(p, Mapping) and "type" in p for p in content):
        return json.dumps(content, ensure_ascii=False)
    said = [p[key] if (key := _key(p)) else None for p in content]
    if all(isinstance(s, str) for s in said):
        return "\n".join(str(s) for s in said)
    if any(p["type"] in ("image_url", "input_audio", "file") for p in content):
        return content
    rest = (s if s is not None else json.dumps(p, ensure_ascii=False) for s, p in zip(said, content, strict=True))
    return "\n".join(rest)


def _key(part: Mapping[str, Any]) -> str | None:
    """Where a part has its text, if it is one."""
    return next((key for key in _SAID if isinstance(part.get(key), str)), None)


def _call(call: Any) -> Any:
    """A tool call as the protocol has it: arguments are a string of JSON."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or isinstance(function.get("arguments"), str):
        return call
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


# -- answers ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """What a server answered, as far as it has the form that it should have."""

    message: dict[str, Any]
    finish_reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    first_token_logprobs: Mapping[str, float] = field(default_factory=dict)


def read_answer(answer: Any) -> Answer:
    """Of `chat/completions` or of `completions`, in the OpenAI form. Raises `BackendError`."""
    choice = _choice(answer)
    if isinstance(choice.get("message"), Mapping):
        message = {k: choice["message"][k] for k in _ANSWERED if choice["message"].get(k) is not None}
    elif isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}
    else:
        raise BackendError("the server's answer holds no message")
    if not isinstance(message.get("content", ""), str | list):
        raise BackendError("the server's answer holds no text")
    inputs, outputs = read_usage(answer)
    return Answer(
        {"role": "assistant", **message}, read_reason(choice), inputs, outputs, _first(choice.get("logprobs"))
    )


def read_reason(choice: Mapping[str, Any]) -> str:
    """Why the answer ended, of the protocol's words."""
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason in _REASONS else "stop"


def read_usage(answer: Any) -> tuple[int | None, int | None]:
    """Tokens read and written, where they are numbers."""
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    if not isinstance(usage, Mapping):
        return None, None
    return count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))


def count(value: Any) -> int | None:
    """A count of tokens that a server gives; None when it is none."""
    return value if type(value) is int and 0 <= value <= 100_000_000 else None


def said(message: Mapping[str, Any]) -> str:
    """All that a model wrote: text, reasoning, and what it calls with which arguments."""
    thought = message.get("reasoning_content") or message.get("reasoning")  # some servers say it under both names
    parts = [message.get("content"), thought, message.get("refusal")]
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        parts += [function.get("name"), function.get("arguments")] if isinstance(function, Mapping) else [call]
    return "".join(p if isinstance(p, str) else json.dumps(p, ensure_ascii=False, default=str) for p in parts if p)


def written_tokens(text: str, told: int | None, most: int, count: Callable[[str], int] | None = None) -> int:
    """The tokens of an answer, within `most`: what is told, but no fewer than its text has by `count`, or can have.

    A server that tells too few would let its users write for nothing. Where nothing is told, a token is a byte.
    """
    if count is not None:
        return max(told or 0, min(count(text), most))
    size = len(text.encode("utf-8", "replace"))
    least = size if told is None else -(-size // MOST_BYTES_A_TOKEN)
    return max(told or 0, min(least, most))


def _choice(answer: Any) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise BackendError("the server's answer is not of the form that was agreed")
    choice: Mapping[str, Any] = choices[0]
    return choice


def _first(logprobs: Any) -> Mapping[str, float]:
    """The likeliest first tokens: a mapping in the older form, a list of tokens in the newer one."""
    if not isinstance(logprobs, Mapping):
        return {}
    top = logprobs.get("top_logprobs")
    if isinstance(top, list) and top and isinstance(top[0], Mapping):
        return {str(t): float(p) for t, p in top[0].items() if _is_logprob(p)}
    content = logprobs.get("content")
    first = content[0] if isinstance(content, list) and content else None
    tops = first.get("top_logprobs") if isinstance(first, Mapping) else None
    if not isinstance(tops, list):
        return {}
    rows: Sequence[Any] = [t for t in tops if isinstance(t, Mapping) and _is_logprob(t.get("logprob"))]
    return {str(t.get("token")): float(t["logprob"]) for t in rows}


def _is_logprob(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value) and value <= 1e-6


@dataclass(slots=True)
class _Called:
    """A tool call, as far as it has come."""

    id: str | None = None
    name: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def wire(self) -> dict[str, Any]:
        function = {"name": "".join(self.name), "arguments": "".join(self.arguments)}
        call = {"type": "function", "function": function}
        return call if self.id is None else {**call, "id": self.id}


@dataclass(slots=True)
class Gathered:
    """A streamed answer, gathered: `add` takes an event, and gives the new text. Bits are joined once, at the end.

    `most_tokens` is no fewer than the tokens that have come, with reasoning and tool calls, which are in no text.
    """

    text: list[str] = field(default_factory=list)
    other: dict[str, list[str]] = field(default_factory=dict)
    calls: dict[int, _Called] = field(default_factory=dict)
    reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    ended: bool = False
    pieces: int = 0
    size_bytes: int = 0

    @property
    def most_tokens(self) -> int:
        """A token is at least a byte, and some vocabularies spell rare scripts byte by byte; a piece is at least a token."""
        return max(self.pieces, self.size_bytes)

    def add(self, event: Any) -> str:
        """Raises `BackendError` for what is no event of a completion."""
        if not isinstance(event, Mapping) or event.get("error") is not None:
            raise BackendUnavailable("the server failed in the middle of its answer")
        inputs, outputs = read_usage(event)
        self.input_tokens = inputs if inputs is not None else self.input_tokens
        self.output_tokens = outputs if outputs is not None else self.output_tokens
        if not event.get("choices"):
            return ""
        choice = _choice(event)
        if choice.get("finish_reason") is not None:
            self.reason, self.ended = read_reason(choice), True
        delta = choice.get("delta", choice)
        if not isinstance(delta, Mapping):
            raise BackendError("the server's answer is not of the form that was agreed")
        for key in ("reasoning_content", "reasoning", "refusal"):
            if isinstance(delta.get(key), str):
                self.other.setdefault(key, []).append(delta[key])
                self._came(delta[key])
        for call in delta.get("tool_calls") or ():
            self._call(call)
        new = delta.get("content", delta.get("text"))
        new = new if isinstance(new, str) else ""
        self.text.append(new)
        self._came(new)
        return new

    def _came(self, piece: str) -> None:
        self.pieces += bool(piece)
        self.size_bytes += len(piece.encode("utf-8", "replace"))

    def _call(self, part: Any) -> None:
        if not isinstance(part, Mapping) or type(part.get("index", 0)) is not int or len(self.calls) > 256:
            raise BackendError("the server's answer is not of the form that was agreed")
        call = self.calls.setdefault(part.get("index", 0), _Called())
        if isinstance(part.get("id"), str):
            call.id = part["id"]
        function = part.get("function")
        for key, said in (("name", call.name), ("arguments", call.arguments)):
            if isinstance(function, Mapping) and isinstance(function.get(key), str):
                said.append(function[key])
                self._came(function[key])

    def answer(self) -> Answer:
        """The whole. Raises `BackendError` when the stream broke off."""
        if not self.ended:
            raise BackendUnavailable("the server's answer broke off")
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.text)}
        message |= {key: "".join(said) for key, said in self.other.items()}
        if self.calls:
            message["tool_calls"] = [self.calls[i].wire() for i in sorted(self.calls)]
        return Answer(message, self.reason, self.input_tokens, self.output_tokens)
