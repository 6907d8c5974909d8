"""Between LangChain's messages and the shield's conversation and reply, both ways."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    InvalidToolCall,
    ToolCall,
    ToolCallChunk,
    convert_to_messages,
    message_chunk_to_message,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.prompt_values import PromptValue

from shieldkit.conversation import BESIDE, Conversation
from shieldkit.errors import Refused
from shieldkit.outcome import Refusal, Reply, Screening, Stage
from shieldkit.tools import ToolCall as Call
from shieldkit.tools import calls_of

try:
    from langchain_core.exceptions import ModelRefusalError
except ImportError:  # langchain-core before 1.7.5
    from langchain_core.exceptions import LangChainException as ModelRefusalError  # type: ignore[assignment]

OnRefusal: TypeAlias = Literal["message", "raise"]
META = "shieldkit"
FINISH_REASON = "content_filter"


class RefusedByShield(Refused, ModelRefusalError):
    """A refusal as an exception that LangChain's users know too. `reply` holds the whole outcome."""


def messages_of(value: Any) -> Any:
    """What a runnable was given, as `Conversation.of` reads it: prompt values and LangChain's short forms become messages."""
    if isinstance(value, PromptValue):
        return value.to_messages()
    if isinstance(value, (list, tuple)) and any(isinstance(item, (tuple, list)) for item in value):
        return convert_to_messages(value)
    return value


def outcome_of(screening: Screening) -> Reply:
    """A screening as the outcome of a call that was not made."""
    return Reply(
        screening.verdicts, refusal=screening.refusal, finish_reason=FINISH_REASON if screening.refusal else "",
        trace_id=screening.trace_id, policy=screening.policy,
    )  # fmt: skip


def refused(reply: Reply) -> RefusedByShield:
    """The exception for a refusal."""
    return RefusedByShield(reply)


def refused_message(message: AIMessage) -> RefusedByShield | None:
    """The exception for a message that is a refusal; None when it is none. The verdicts are not in a message."""
    meta = message.response_metadata.get(META)
    if "refusal" not in message.additional_kwargs or not isinstance(meta, Mapping) or "rule" not in meta:
        return None
    told = str(message.additional_kwargs["refusal"])
    refusal = Refusal(str(meta.get("guard")), str(meta["rule"]), Stage(meta.get("stage", "output")), told)
    reply = Reply((), refusal=refusal, finish_reason=FINISH_REASON, trace_id=str(meta.get("trace_id", "")))
    return RefusedByShield(reply)


def answer(reply: Reply) -> AIMessage:
    """The assistant's message of a reply, or the message of a refusal: its text, `refusal`, and the rule that was broken."""
    if reply.refusal is not None:
        told = reply.refusal.message
        extra: dict[str, Any] = {"refusal": told}
        return AIMessage(
            told, additional_kwargs=extra, response_metadata=_metadata(reply), usage_metadata=_usage(reply)
        )
    calls = _calls(reply)
    message = reply.message or {}
    content = message.get("content")
    return AIMessage(
        content if isinstance(content, list) else reply.text or "",
        tool_calls=[ToolCall(name=c.name or "", args=dict(c.arguments or {}), id=c.id, type="tool_call")
                    for c in calls if _clear(c)],
        invalid_tool_calls=[
            InvalidToolCall(name=c.name, args=None, id=c.id, error="cannot be read", type="invalid_tool_call")
            for c in calls if not _clear(c)
        ],
        additional_kwargs=_additional(reply), response_metadata=_metadata(reply), usage_metadata=_usage(reply),
    )  # fmt: skip


def last_chunk(reply: Reply, text: str, shown: bool) -> AIMessageChunk:
    """The end of a streamed reply: its last text, tool calls and usage, or the refusal; its text where none was `shown`."""
    calls = [
        ToolCallChunk(
            name=c.name,
            args=json.dumps(dict(c.arguments)) if c.arguments is not None else "{",
            id=c.id,
            index=i,
            type="tool_call_chunk",
        )
        for i, c in enumerate(_calls(reply))
    ]
    told = text if reply.refusal is None or shown else reply.refusal.message
    extra = {"refusal": reply.refusal.message} if reply.refusal is not None else _additional(reply)
    return AIMessageChunk(
        content=told, tool_call_chunks=calls, additional_kwargs=extra, response_metadata=_metadata(reply),
        usage_metadata=_usage(reply), chunk_position="last",
    )  # fmt: skip


def rewritten(messages: Sequence[BaseMessage], passed: Conversation) -> list[BaseMessage]:
    """The messages as they may go on: those whose text the policy redacted are copies, the others are themselves.

    `passed` is `Screening.conversation` of a screening of exactly these messages.
    """
    wires = Conversation.of(messages).wire()
    return [
        message if before == after else _rewritten(message, before, after)
        for message, before, after in zip(messages, wires, passed.wire(), strict=True)
    ]


def _rewritten(message: BaseMessage, before: Mapping[str, Any], after: Mapping[str, Any]) -> BaseMessage:
    message = message_chunk_to_message(message)  # a chunk holds its calls a second time, as they came
    was, now = _beside(message, before), _beside(message, after)
    # What is not redacted stays what it was: not all of it need be JSON.
    given = message.additional_kwargs
    extra = {name: given.get(name, new) if was.get(name) == new else new for name, new in now.items()}
    update: dict[str, Any] = {"content": after["content"], "additional_kwargs": extra}
    if isinstance(message, AIMessage):
        calls = calls_of(after)
        update["tool_calls"] = [
            {**old, "name": new.name or "", "args": dict(new.arguments or {})}
            for old, new in zip(message.tool_calls, calls, strict=False)
        ]
        update["invalid_tool_calls"] = after.get("invalid_tool_calls", [])
    return message.model_copy(update=update)


def _beside(message: BaseMessage, wire: Mapping[str, Any]) -> dict[str, Any]:
    """The message's `additional_kwargs`, as they are in its wire form."""
    fields = {name: wire[name] for name in BESIDE if name in message.additional_kwargs and name in wire}
    return {**fields, **wire.get("additional_kwargs", {})}


def _clear(call: Call) -> bool:
    return call.name is not None and call.arguments is not None


def _calls(reply: Reply) -> list[Call]:
    """The calls beside the content; those in content parts are in the content already."""
    return [c for c in calls_of(reply.message or {}) if ".content[" not in c.path]


def _additional(reply: Reply) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    reasoning = (reply.message or {}).get("reasoning_content")
    if isinstance(reasoning, str):
        extra["reasoning_content"] = reasoning
    if reply.data is not None:
        extra["parsed"] = reply.data
    return extra


def _metadata(reply: Reply) -> dict[str, Any]:
    meta: dict[str, Any] = {"action": reply.action.value, "policy": reply.policy, "trace_id": reply.trace_id}
    if reply.refusal is not None:
        meta |= {"rule": reply.refusal.rule, "guard": reply.refusal.guard, "stage": reply.refusal.stage.value}
    found: dict[str, Any] = {"finish_reason": reply.finish_reason, META: meta}
    model = reply.backend.get("model")
    if isinstance(model, str):
        found["model_name"] = model
    return found


def _usage(reply: Reply) -> UsageMetadata:
    usage = reply.usage
    return UsageMetadata(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, total_tokens=usage.total_tokens
    )
