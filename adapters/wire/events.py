"""The events of `Shield.stream` as server-sent events of the three APIs.

`chunks(asked)` makes a writer: `text` for what may be shown, `end` for the outcome. When the policy does not stream there
is one text, when all gates have passed, and the chunks are the same ones. An answer that is refused half-way ends with the
refusal in its place and `content_filter`; what was shown before had passed the guards as far as it went.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from shieldkit.adapters.wire.answers import (
    call_items,
    finish_reason,
    identity,
    message_item,
    response,
    response_status,
    text_part,
    tool_calls,
    usage,
)
from shieldkit.adapters.wire.errors import ApiError
from shieldkit.adapters.wire.requests import Asked, Surface
from shieldkit.outcome import Reply
from shieldkit.shield import StreamEvent

_Json = dict[str, Any]


class Chunks(Protocol):
    """Writes one stream. Each method gives the bytes to send, which may be none."""

    def text(self, text: str) -> bytes:
        """New text that may be shown."""
        ...

    def end(self, reply: Reply) -> bytes:
        """The outcome, and the end of the stream."""
        ...

    def error(self, error: ApiError) -> bytes:
        """What went wrong after the stream had begun; the stream ends without its end mark."""
        ...


def chunks(asked: Asked) -> Chunks:
    """A writer for one stream that answers `asked`."""
    return _WRITERS[asked.surface](asked)


def written(writer: Chunks, event: StreamEvent) -> bytes:
    """One event of `Shield.stream`, written."""
    text = writer.text(event.text) if event.text else b""
    return text + (writer.end(event.reply) if event.reply is not None else b"")


def _frame(data: Any, event: str = "") -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=True, separators=(',', ':'))}\n\n".encode()


_DONE = b"data: [DONE]\n\n"


class _Plain:
    """Chat completions and completions: anonymous chunks, then `[DONE]`."""

    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._head = identity(asked, uuid.uuid4().hex, self.kind, self.prefix)
        self._begun = False

    def _chunk(self, fields: _Json, reason: str | None = None) -> bytes:
        choice = {"index": 0, **fields, "logprobs": None, "finish_reason": reason}
        usage_field = {"usage": None} if self._asked.include_usage else {}
        return _frame({**self._head, "choices": [choice], **usage_field})

    def _end(self, reply: Reply) -> bytes:
        last = _frame({**self._head, "choices": [], "usage": usage(reply.usage)}) if self._asked.include_usage else b""
        return last + _DONE

    def error(self, error: ApiError) -> bytes:
        return _frame(error.body())


class _ChatChunks(_Plain):
    def _delta(self, **delta: Any) -> bytes:
        first = b"" if self._begun else self._chunk({"delta": {"role": "assistant", "content": ""}})
        self._begun = True
        return first + self._chunk({"delta": delta})

    def text(self, text: str) -> bytes:
        return self._delta(content=text)

    def end(self, reply: Reply) -> bytes:
        out = b""
        if reply.refusal is not None:
            message = reply.refusal.message
            out = self._delta(refusal=message, **({} if self._begun else {"content": message}))
        elif calls := tool_calls(reply):
            out = self._delta(tool_calls=[{"index": i, **call} for i, call in enumerate(calls)])
        elif not self._begun:
            out = self._delta(content="")
        return out + self._chunk({"delta": {}}, finish_reason(reply)) + self._end(reply)


class _CompletionChunks(_Plain):
    kind, prefix = "text_completion", "cmpl"

    def text(self, text: str) -> bytes:
        self._begun = True
        return self._chunk({"text": text})

    def end(self, reply: Reply) -> bytes:
        out = b"" if reply.refusal is None or self._begun else self.text(reply.refusal.message)
        reason = finish_reason(reply)
        return out + self._chunk({"text": ""}, "stop" if reason == "tool_calls" else reason) + self._end(reply)


class _ResponseChunks:
    """The responses API: typed events, numbered, each item opened and closed."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._id = asked, uuid.uuid4().hex
        self._number, self._begun = 0, False
        self._parts: list[_Json] = []
        self._open = ""

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return _frame({"type": kind, "sequence_number": number, **fields}, kind)

    def _begin(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        started = response(self._asked, self._id, "in_progress", [])
        return self._event("response.created", response=started) + self._event("response.in_progress", response=started)

    def _place(self) -> _Json:
        return {"item_id": f"msg_{self._id}", "output_index": 0, "content_index": len(self._parts)}

    def _open_message(self) -> bytes:
        item = message_item(self._id, "in_progress", [])
        return self._event("response.output_item.added", output_index=0, item=item)

    def text(self, text: str) -> bytes:
        out = self._begin()
        if not self._open:
            out += self._open_message() + self._event(
                "response.content_part.added", **self._place(), part=text_part("")
            )
        self._open += text
        return out + self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def _close_text(self) -> bytes:
        part, place = text_part(self._open), self._place()
        done = self._event("response.output_text.done", **place, text=self._open, logprobs=[])
        out = done + self._event("response.content_part.done", **place, part=part)
        self._parts.append(part)
        return out

    def _refuse(self, message: str) -> bytes:
        empty, part = {"type": "refusal", "refusal": ""}, {"type": "refusal", "refusal": message}
        place = self._place()
        out = self._event("response.content_part.added", **place, part=empty)
        out += self._event("response.refusal.delta", **place, delta=message)
        out += self._event("response.refusal.done", **place, refusal=message)
        self._parts.append(part)
        return out + self._event("response.content_part.done", **place, part=part)

    def end(self, reply: Reply) -> bytes:
        out, calls = self._begin(), call_items(reply) if not reply.refused else []
        opened = bool(self._open) or not calls
        if self._open:
            out += self._close_text()
        elif opened:
            out += self._open_message()
        if reply.refusal is not None:
            out += self._refuse(reply.refusal.message)
        status = response_status(reply)
        items = [message_item(self._id, status, self._parts or [text_part("")])] if opened else []
        if opened:
            out += self._event("response.output_item.done", output_index=0, item=items[0])
        for call in calls:
            out += self._call(len(items), call)
            items.append(call)
        final = response(self._asked, self._id, status, items, reply)
        return out + self._event(f"response.{status}", response=final)

    def _call(self, index: int, item: _Json) -> bytes:
        place = {"item_id": item["id"], "output_index": index}
        opened = {**item, "arguments": "", "status": "in_progress"}
        out = self._event("response.output_item.added", output_index=index, item=opened)
        out += self._event("response.function_call_arguments.delta", **place, delta=item["arguments"])
        arguments, name = item["arguments"], item["name"]
        out += self._event("response.function_call_arguments.done", **place, arguments=arguments, name=name)
        return out + self._event("response.output_item.done", output_index=index, item=item)

    def error(self, error: ApiError) -> bytes:
        return self._event("error", code=error.code, message=error.message, param=error.param)


_WRITERS: Mapping[Surface, Callable[[Asked], Chunks]] = {
    "chat.completions": _ChatChunks,
    "completions": _CompletionChunks,
    "responses": _ResponseChunks,
}


def frames(asked: Asked, events: Iterator[StreamEvent]) -> Iterator[bytes]:
    """A whole stream, for a caller that is synchronous."""
    writer = chunks(asked)
    for event in events:
        yield written(writer, event)
