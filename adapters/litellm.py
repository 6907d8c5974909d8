"""shieldkit as a guardrail of the LiteLLM proxy: each request and each answer is judged by a policy.

    # config.yaml of the proxy
    guardrails:
      - guardrail_name: shieldkit
        litellm_params: {guardrail: shieldkit.adapters.litellm.ShieldGuardrail, mode: [pre_call, post_call], default_on: true}

The policy is the file (or `builtin:NAME`) in the variable `SHIELDKIT_POLICY`. A refusal is an ordinary answer with the
refusal's text and `finish_reason: content_filter`. Streams are held until the whole answer has passed. The proxy calls
the model, so the policy's budget and context cap do not hold here; LiteLLM has its own. Needs LiteLLM's proxy, which
wants its own versions of many packages: install shieldkit into the proxy's environment.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

try:
    import litellm
    from litellm.integrations.custom_guardrail import CustomGuardrail
except ImportError as error:
    raise ImportError("this adapter needs LiteLLM: pip install 'litellm[proxy]'", name=error.name) from None

from shieldkit.outcome import Action, Screening, Stage
from shieldkit.shield import Shield

_CARRIED = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "refusal")


class ShieldGuardrail(CustomGuardrail):  # type: ignore[misc,unused-ignore]
    """A LiteLLM guardrail over a `Shield`: the one that is given, or one made from `SHIELDKIT_POLICY`."""

    def __init__(self, shield: Shield | None = None, *, tenant: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shield = shield or Shield(os.environ.get("SHIELDKIT_POLICY", "builtin:default"))
        self.tenant = tenant

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any] | str:
        """Judge a request. LiteLLM answers with the text that is returned, and asks no model."""
        messages = _asked(data)
        screening = await self.shield.ascreen(messages, tenant=self.tenant)
        if not screening.allowed or screening.conversation is None:
            return self._said(screening)
        if screening.action is Action.REDACT:
            passed = screening.conversation.wire()
            if "messages" in data:
                data["messages"] = [{**old, **new} for old, new in zip(data["messages"], passed, strict=True)]
            elif len(passed) == 1 and isinstance(data.get(_key(data)), str):
                data[_key(data)] = passed[0]["content"]
            else:
                return self._said(screening)  # several texts at once: nothing is passed on half redacted
        return data

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        """Judge every choice of an answer, and put the refusal in the place of one that does not pass."""
        context = _asked(data)
        for choice in getattr(response, "choices", ()):
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

    def _said(self, screening: Screening) -> str:
        return screening.refusal.message if screening.refusal is not None else self.shield.policy.refusal_message


def _key(data: Mapping[str, Any]) -> str:
    return "prompt" if "prompt" in data else "input"


def _asked(data: Mapping[str, Any]) -> list[Any]:
    """What a request gives the model to read."""
    if isinstance(data.get("messages"), list):
        return [{key: value for key, value in message.items() if key in _CARRIED} for message in data["messages"]]
    given = data.get(_key(data))
    texts = given if isinstance(given, list) else [given]
    return [{"role": "user", "content": text if isinstance(text, str) else [{"type": "unread"}]} for text in texts]


def _wire(message: Any) -> dict[str, Any]:
    plain = message.model_dump(exclude_none=True)
    return {"role": "assistant", "content": ""} | {key: value for key, value in plain.items() if key in _CARRIED}


def _settle(choice: Any, judged: Screening, said: str) -> None:
    message = getattr(choice, "message", None)
    if judged.allowed and judged.action is not Action.REDACT:
        return
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
    for thought in ("reasoning_content", "thinking_blocks"):
        if getattr(message, thought, None):
            setattr(message, thought, None)
