"""shieldkit as a guardrail of the LiteLLM proxy: each request and each answer is judged by a policy.

    # config.yaml of the proxy
    guardrails:
      - guardrail_name: shieldkit
        litellm_params: {guardrail: shieldkit.adapters.litellm.ShieldGuardrail, mode: [pre_call, post_call], default_on: true}

A request's fields are read, or known to carry nothing that a model reads, or the request is refused. A client's system prompt
is not trusted, unless `trust_system: true` says that only applications of one's own are clients.

The policy is the file (or `builtin:NAME`) in the variable `SHIELDKIT_POLICY`. A refusal is an ordinary answer with the
refusal's text and `finish_reason: content_filter`. Streams are held until the whole answer has passed. The proxy calls
the model, so the policy's budget and context cap do not hold here; LiteLLM has its own. Needs LiteLLM's proxy, which
wants its own versions of many packages: install shieldkit into the proxy's environment.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, TypeAlias

from shieldkit.adapters import checks
from shieldkit.adapters.wire.requests import HINTS
from shieldkit.conversation import Conversation, Trust
from shieldkit.errors import InvalidConversation
from shieldkit.outcome import Action, Screening, Stage
from shieldkit.shield import Shield
from shieldkit.tool_definitions import with_tools

try:
    import litellm
    from litellm.integrations.custom_guardrail import CustomGuardrail
except ImportError as error:
    raise checks.NotInstalled("LiteLLM", "litellm[proxy]", name=error.name) from None

_SYSTEM = ("system", "instructions")
_TEXTS = ("prompt", "input", "suffix", "prediction")
_DATA = (
    "response_format", "tool_choice", "function_call", "text", "thinking", "modalities", "size", "quality", "style", "voice",
    "fallbacks",
)  # fmt: skip
"""What else a request may say, in words that a model may come to read: judged, and not rewritten."""
_READ = frozenset({"messages", "tools", "functions", *_SYSTEM, *_TEXTS, *_DATA})
_UNREAD = HINTS | {
    "model", "user", "safety_identifier", "stop", "stream_options", "encoding_format", "api_version", "timeout", "extra_headers",
    # what the proxy itself adds, and how it calls
    "litellm_call_id", "litellm_trace_id", "litellm_session_id", "litellm_logging_obj", "litellm_metadata", "secret_fields",
    "proxy_server_request", "guardrails", "tags", "cache", "model_info", "deployment", "headers", "organization",
}  # fmt: skip
"""Fields with text that goes to no model. A number, or a truth value, is no text under any name."""
_WRITTEN = ("role", "content", "tool_calls")


class ShieldGuardrail(CustomGuardrail):  # type: ignore[misc,unused-ignore]
    """A LiteLLM guardrail over a `Shield`: the one that is given, or one made from `SHIELDKIT_POLICY`.

    `trust_system`: whether clients' system prompts may instruct. `unread`: further fields of requests that carry no text to
    a model; a request with a field that is not known is refused.
    """

    def __init__(
        self,
        shield: Shield | None = None,
        *,
        tenant: str | None = None,
        trust_system: bool = False,
        unread: Iterable[str] = (),
        **kwargs: Any,
    ) -> None:
        if shield is not None:
            checks.shield(shield)
        super().__init__(**kwargs)
        self.shield = shield or Shield(os.environ.get("SHIELDKIT_POLICY", "builtin:default"))
        self.tenant = tenant
        self.trust_system = trust_system is True
        self._unread = _UNREAD.union(unread)

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any] | str:
        """Judge a request. LiteLLM answers with the text that is returned, and asks no model."""
        if any(_carries(value) for name, value in data.items() if name not in _READ | self._unread):
            return str(self.shield.policy.refusal_message)
        asked = _asked(data)
        beside = [{"role": "user", "content": _object(data[name])} for name in _DATA if data.get(name)]
        given = self._conversation([*beside, *(wire for _, _, wire in asked)])
        conversation = with_tools(given, _tools(data), Trust.UNTRUSTED)
        screening = await self.shield.ascreen(conversation, tenant=self.tenant)
        passed = screening.conversation
        if not screening.allowed or passed is None:
            return self._said(screening)
        first = len(beside)
        if passed.wire_tools() != conversation.wire_tools() or passed.wire()[:first] != conversation.wire()[:first]:
            return self._said(screening)  # a definition that is rewritten is another tool, or another schema
        if screening.action is Action.REDACT:
            for (holder, key, _), wire in zip(asked, passed.wire()[first:], strict=True):
                _put(holder, key, wire)
        return data

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        """Judge every choice of an answer, and put the refusal in the place of one that does not pass.

        Raises `InvalidConversation` for an answer of another shape, but for embeddings: they are numbers.
        """
        if not isinstance(getattr(response, "choices", None), list):
            if isinstance(response, litellm.EmbeddingResponse):
                return response
            mend = "Guard chat completions and completions here; put shieldkit's gateway before other APIs"
            raise InvalidConversation("response", "is of a shape that no guard reads", mend=mend)
        context = [wire for _, _, wire in _asked(data)]
        if not self.trust_system:
            # What a system prompt says must not leak, whosever it is; for flows of tools it is a client's text.
            context.insert(0, {"role": "user", "content": ""})
        for choice in response.choices:
            message = getattr(choice, "message", None)
            wire = (
                _wire(message) if message is not None else {"role": "assistant", "content": getattr(choice, "text", "")}
            )
            judged = await self.shield.ascreen(
                [*context, wire], stage=Stage.OUTPUT, tenant=self.tenant, since=len(context)
            )
            _settle(choice, judged, self._said(judged))
        return response

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """Hold a stream until it is whole; then it leaves as it came, or as one piece with what the policy made of it."""
        chunks = [chunk async for chunk in response]
        whole = litellm.stream_chunk_builder(chunks, messages=request_data.get("messages"))
        if whole is None:
            return
        before = [_wire(choice.message) for choice in whole.choices]
        settled = await self.async_post_call_success_hook(request_data, user_api_key_dict, whole)
        if before == [_wire(choice.message) for choice in settled.choices]:
            for chunk in chunks:
                yield chunk
            return
        last = chunks[-1]
        for choice in settled.choices:
            piece = last.model_copy(deep=True)
            piece.choices[0].index = choice.index
            piece.choices[0].delta.role, piece.choices[0].delta.content = "assistant", choice.message.content
            piece.choices[0].delta.tool_calls = choice.message.tool_calls
            piece.choices[0].finish_reason = choice.finish_reason
            yield piece

    def _conversation(self, messages: list[dict[str, Any]]) -> Conversation:
        conversation = Conversation.of(messages)
        return conversation if self.trust_system else conversation.distrusted()

    def _said(self, screening: Screening) -> str:
        return screening.refusal.message if screening.refusal is not None else self.shield.policy.refusal_message


_Asked: TypeAlias = tuple[Any, Any, dict[str, Any]]
"""Where text stands in a request, as (container, key), and the message that it is."""


def _asked(data: Mapping[str, Any]) -> list[_Asked]:
    """What a request gives the model to read."""
    found: list[_Asked] = [(data, key, {"role": "system", "content": data[key]}) for key in _SYSTEM if data.get(key)]
    messages = data.get("messages") or []
    found += [(messages, index, message) for index, message in enumerate(messages)]
    for name in _TEXTS:
        given = data.get(name)
        if isinstance(given, list):
            found += [(given, index, _spoken(value)) for index, value in enumerate(given)]
        elif given:
            found.append((data, name, _spoken(given)))
    return found


def _carries(value: Any) -> bool:
    """Whether a field can carry text: anything but numbers, truth values, and what is empty."""
    if isinstance(value, list | tuple):
        return any(_carries(item) for item in value)
    return bool(value) and not isinstance(value, bool | int | float)


def _object(value: Any) -> dict[str, Any]:
    """Data as the content of a message: an object, so that none of it is taken for a content part."""
    return {"value": value}


def _spoken(value: Any) -> dict[str, Any]:
    """A text or a message that a request has as its input; what is neither is unread."""
    if isinstance(value, dict) and "role" in value:
        return value
    return {"role": "user", "content": value if isinstance(value, str) else [{"type": "unread"}]}


def _put(holder: Any, key: Any, wire: Mapping[str, Any]) -> None:
    """What may go on, where it stood. Fields that are null are not in the wire form, and stay."""
    old = holder[key]
    if isinstance(old, dict) and "role" in old:
        holder[key] = {name: None for name, value in old.items() if value is None} | dict(wire)
    elif isinstance(old, str) or key in _SYSTEM:
        holder[key] = wire["content"]


def _tools(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tool definitions in the wire form, from the forms that there are. A tool without a name is an error where it is read."""
    given = [*(data.get("tools") or ()), *(data.get("functions") or ())]
    return [
        tool if "function" in tool else {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        for tool in given
    ]


def _wire(message: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", **message.model_dump(exclude_none=True)}


def _settle(choice: Any, judged: Screening, said: str) -> None:
    message = getattr(choice, "message", None)
    if judged.allowed and judged.action is not Action.REDACT:
        return
    if getattr(choice, "logprobs", None) is not None:
        choice.logprobs = None  # they repeat the text
    if judged.allowed and judged.conversation is not None:
        passed = judged.conversation.wire()[-1]
        text, calls = passed.get("content"), passed.get("tool_calls")
    else:
        text, calls, choice.finish_reason = said, None, "content_filter"
    if message is None:
        choice.text = text
        return
    message.content = text
    message.tool_calls = [
        type(old)(**new) for old, new in zip(message.tool_calls or (), calls or (), strict=False)
    ] or None
    for name in message.model_dump(exclude_none=True).keys() - set(_WRITTEN):
        setattr(message, name, None)
