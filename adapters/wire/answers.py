"""Replies as bodies of the three APIs.

A refusal is an answer, and no error: status 200, `finish_reason: content_filter`, and the policy's refusal message both as
`content` and as `refusal`. That one form is read as "blocked" by the official clients, garak, PyRIT, promptfoo and inspect;
an error status is retried, dropped, or ends the run, and an empty content counts as an attack that succeeded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from shieldkit.adapters.wire.requests import Asked, Surface
from shieldkit.outcome import Reply, Usage

_Json = dict[str, Any]
_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter"})


def answer(asked: Asked, reply: Reply) -> _Json:
    """The body that answers `asked`."""
    return _ANSWERS[asked.surface](asked, reply)


def identity(asked: Asked, reply_id: str, kind: str, prefix: str) -> _Json:
    """What every body and chunk begins with. The id holds the trace's, so that an answer leads to its trace."""
    return {"id": f"{prefix}-{reply_id}", "object": kind, "created": int(time.time()), "model": asked.model}


def finish_reason(reply: Reply) -> str:
    """One of the reasons that the API knows."""
    if reply.refused:
        return "content_filter"
    if tool_calls(reply):
        return "tool_calls"
    return reply.finish_reason if reply.finish_reason in _REASONS else "stop"


def usage(used: Usage) -> _Json:
    """Token counts in the words of chat completions."""
    return {"prompt_tokens": used.input_tokens, "completion_tokens": used.output_tokens,
            "total_tokens": used.total_tokens}  # fmt: skip


def tool_calls(reply: Reply) -> list[_Json]:
    """The calls of the answer in the wire form, whatever form the model's server gave them."""
    given = (reply.message or {}).get("tool_calls")
    calls = []
    for index, call in enumerate(given if isinstance(given, list) else ()):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping):
            continue
        arguments = function.get("arguments")
        calls.append({
            "id": str(call.get("id") or f"call_{reply.trace_id[:16]}_{index}"), "type": "function",
            "function": {
                "name": str(function.get("name")),
                "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments or {}),
            },
        })  # fmt: skip
    return calls


def _chat(asked: Asked, reply: Reply) -> _Json:
    calls = tool_calls(reply)
    message: _Json = {"role": "assistant", "content": reply.text or (None if calls else ""), "refusal": None}
    if reply.refusal is not None:
        message |= {"content": reply.refusal.message, "refusal": reply.refusal.message}
    elif calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(reply)}
    return {
        **identity(asked, reply.trace_id, "chat.completion", "chatcmpl"),
        "choices": [choice],
        "usage": usage(reply.usage),
    }


def _completion(asked: Asked, reply: Reply) -> _Json:
    reason = finish_reason(reply)
    text = reply.refusal.message if reply.refusal else reply.text or ""
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop" if reason == "tool_calls" else reason}
    return {
        **identity(asked, reply.trace_id, "text_completion", "cmpl"),
        "choices": [choice],
        "usage": usage(reply.usage),
    }


def response(asked: Asked, reply_id: str, status: str, output: list[_Json], reply: Reply | None = None) -> _Json:
    """The `Response` object of the responses API."""
    incomplete = None
    if status == "incomplete" and reply is not None:
        incomplete = {"reason": "content_filter" if reply.refused else "max_output_tokens"}
    return {
        "id": f"resp_{reply_id}", "object": "response", "created_at": int(time.time()), "model": asked.model,
        "status": status, "output": output, "error": None, "incomplete_details": incomplete, "instructions": None,
        "metadata": {}, "parallel_tool_calls": False, "temperature": asked.options.temperature, "top_p": None,
        "tool_choice": "auto", "tools": [], "max_output_tokens": asked.options.max_output_tokens, "store": False,
        "usage": _responses_usage(reply.usage) if reply is not None else None,
    }  # fmt: skip


def _responses_usage(used: Usage) -> _Json:
    return {
        "input_tokens": used.input_tokens, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used.output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.total_tokens,
    }  # fmt: skip


def response_status(reply: Reply) -> str:
    """Whether the answer is whole."""
    return "incomplete" if finish_reason(reply) in ("content_filter", "length") else "completed"


def text_part(text: str) -> _Json:
    """A part of a message that is text."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(reply_id: str, status: str, content: list[_Json]) -> _Json:
    """A message in the output of a response."""
    return {"type": "message", "id": f"msg_{reply_id}", "role": "assistant", "status": status, "content": content}


def call_items(reply: Reply) -> list[_Json]:
    """The tool calls in the output of a response."""
    return [
        {"type": "function_call", "id": f"fc_{reply.trace_id}_{index}", "call_id": call["id"], "status": "completed",
         **call["function"]}
        for index, call in enumerate(tool_calls(reply))
    ]  # fmt: skip


def _response(asked: Asked, reply: Reply) -> _Json:
    status, calls = response_status(reply), call_items(reply)
    output = list(calls)
    if reply.refusal is not None:
        output = [message_item(reply.trace_id, "incomplete", [{"type": "refusal", "refusal": reply.refusal.message}])]
    elif reply.text or not calls:
        output.insert(0, message_item(reply.trace_id, status, [text_part(reply.text or "")]))
    return response(asked, reply.trace_id, status, output, reply)


_ANSWERS: Mapping[Surface, Callable[[Asked, Reply], _Json]] = {
    "chat.completions": _chat,
    "completions": _completion,
    "responses": _response,
}
