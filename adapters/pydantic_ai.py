"""shieldkit in Pydantic AI: a guarded model, around any of its models.

    agent = Agent(ShieldedModel("openai:gpt-4o", shield), tools=[...])

Before each request the conversation is judged (what the user says, what tools return), and each answer, with its tool calls,
before the agent sees it; the policy's `tools` guard judges the calls. What the policy redacts is redacted. A stream is
held until the whole answer has passed. The model inside is Pydantic AI's own, so the policy's budget and context cap do
not hold here: limit usage with `UsageLimits`. Needs `pip install 'shieldkit[pydantic-ai]'`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from typing import Any, Literal

from shieldkit.adapters import checks
from shieldkit.errors import MissingExtra
from shieldkit.outcome import Action, Reply, Screening, Stage
from shieldkit.shield import Shield

try:
    from pydantic_ai.messages import (
        ModelMessage,
        ModelRequest,
        ModelResponse,
        RetryFeedbackPart,
        SystemPromptPart,
        TextPart,
        ThinkingPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )
    from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.settings import ModelSettings
except ImportError as error:
    raise MissingExtra("Pydantic AI", "pydantic-ai", name=error.name) from None

_Wire = dict[str, Any]
_APPLICATIONS = ("instruction-", "tool-availability", "capability-load-delta", "model-settings")
"""Kinds of parts in which the application, and nobody else, speaks."""


class ShieldedModel(WrapperModel):
    """A model whose requests and answers are screened by a shield.

    `on_refusal`: `"text"` answers with the refusal's text and `finish_reason: content_filter` (add Pydantic AI's
    `RaiseContentFilterError` to end the run); `"raise"` raises `Refused`, which holds the verdicts. Raises
    `ConfigurationError`.
    """

    def __init__(
        self, wrapped: Model | str, shield: Shield, *, tenant: str | None = None,
        on_refusal: Literal["text", "raise"] = "text",
    ) -> None:  # fmt: skip
        checks.shield(shield)
        checks.word("on_refusal", on_refusal, ("text", "raise"))
        super().__init__(wrapped)
        self.shield, self.tenant, self.on_refusal = shield, tenant, on_refusal

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:  # fmt: skip
        """Judge, ask, judge."""
        asked = _wires(messages)
        screening = await self.shield.ascreen([w for _, w in asked], tenant=self.tenant)
        if not screening.allowed:
            return self._refused(screening)
        passed = _rewritten(messages, asked, screening)
        response = await super().request(passed, model_settings, model_request_parameters)
        answer = _answer(response)
        context = [w for _, w in _wires(passed)]
        judged = await self.shield.ascreen(
            [*context, answer], stage=Stage.OUTPUT, tenant=self.tenant, since=len(context)
        )
        if not judged.allowed:
            return replace(self._refused(judged), usage=response.usage)
        return _as_passed(response, answer, judged)

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters, run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:  # fmt: skip
        """The whole answer, when it has passed, as a stream."""
        response = await self.request(messages, model_settings, model_request_parameters)
        yield CompletedStreamedResponse(response, model_request_parameters=model_request_parameters, replay_events=True)

    def _refused(self, screening: Screening) -> ModelResponse:
        reply = Reply(
            screening.verdicts, refusal=screening.refusal, trace_id=screening.trace_id, policy=screening.policy
        )
        if self.on_refusal == "raise":
            reply.raise_for_refusal()
        refusal = screening.refusal
        said = refusal.message if refusal is not None else self.shield.policy.refusal_message
        told = {"rule": refusal.rule if refusal is not None else "", "trace_id": screening.trace_id}
        return ModelResponse(
            [TextPart(said)], model_name=self.model_name, finish_reason="content_filter",
            provider_details={"shieldkit": told},
        )  # fmt: skip


# -- their messages and ours: one wire message for each part, with the place of the part --------------------------------

_Place = tuple[int, int, int]
"""Message, part, and piece of a user prompt."""


def _wires(messages: Sequence[ModelMessage]) -> list[tuple[_Place, _Wire]]:
    found: list[tuple[_Place, _Wire]] = []
    for number, message in enumerate(messages):
        if isinstance(message, ModelRequest) and message.instructions:
            found.append(((number, -1, 0), {"role": "system", "content": message.instructions}))
        for index, part in enumerate(message.parts):
            found += [((number, index, piece), wire) for piece, wire in enumerate(_part(part))]
    return found


def _part(part: Any) -> Iterator[_Wire]:
    if isinstance(part, SystemPromptPart):
        yield {"role": "system", "content": part.content}
    elif isinstance(part, UserPromptPart):
        for piece in [part.content] if isinstance(part.content, str) else part.content:
            yield {"role": "user", "content": _user(piece)}
    elif isinstance(part, ToolReturnPart):
        text = part.model_response_str()
        yield {"role": "tool", "content": text, "tool_call_id": part.tool_call_id, "name": part.tool_name}
    elif isinstance(part, RetryFeedbackPart):
        yield {"role": "user", "content": part.model_response()}  # it quotes what the model has said
    elif isinstance(part, TextPart | ThinkingPart | ToolCallPart):
        yield _answer(ModelResponse([part]))
    elif not str(getattr(part, "part_kind", "")).startswith(_APPLICATIONS):
        yield {"role": "user", "content": [{"type": type(part).__name__}]}  # unread; the policy says what then


def _user(piece: Any) -> Any:
    text = piece if isinstance(piece, str) else getattr(piece, "content", None)
    if isinstance(text, str):
        return text
    return [] if getattr(piece, "kind", "") == "cache-point" else [{"type": type(piece).__name__}]


def _answer(response: ModelResponse) -> _Wire:
    """An answer as one message: text, thinking, tool calls; what is none of these is unread."""
    texts = [part.content for part in response.parts if isinstance(part, TextPart)]
    thoughts = [part.content for part in response.parts if isinstance(part, ThinkingPart)]
    calls = [
        {"id": part.tool_call_id, "type": "function", "function": {"name": part.tool_name, "arguments": part.args_as_json_str()}}
        for part in response.parts if isinstance(part, ToolCallPart)
    ]  # fmt: skip
    others = [
        {"type": type(part).__name__}
        for part in response.parts
        if not isinstance(part, TextPart | ThinkingPart | ToolCallPart)
    ]
    content: Any = [*({"type": "text", "text": t} for t in texts), *others] if others else "\n".join(texts)
    wire: _Wire = {"role": "assistant", "content": content}
    if thoughts:
        wire["reasoning_content"] = "\n".join(thoughts)
    return wire | ({"tool_calls": calls} if calls else {})


def _rewritten(
    messages: list[ModelMessage], asked: Sequence[tuple[_Place, _Wire]], screening: Screening
) -> list[ModelMessage]:
    """The messages as they may go on, with the policy's redactions."""
    if screening.action is not Action.REDACT or screening.conversation is None:
        return messages
    made: list[Any] = [copy(message) for message in messages]
    for message in made:
        message.parts = list(message.parts)
    for ((number, index, piece), before), after in zip(asked, screening.conversation.wire(), strict=True):
        if before.get("content") == after.get("content") and before.get("tool_calls") == after.get("tool_calls"):
            continue
        if index < 0:
            made[number].instructions = after["content"]
            continue
        part = made[number].parts[index]
        if isinstance(part, ToolCallPart):
            made[number].parts[index] = replace(part, args=after["tool_calls"][0]["function"]["arguments"])
        elif isinstance(part, UserPromptPart) and not isinstance(part.content, str):
            pieces = list(part.content)
            pieces[piece] = after["content"]
            made[number].parts[index] = replace(part, content=pieces)
        else:
            made[number].parts[index] = replace(part, content=after["content"])
    return made


def _as_passed(response: ModelResponse, answer: _Wire, judged: Screening) -> ModelResponse:
    """The answer as it may go on. After a redaction the text is one part, and thinking, which is signed, is left out."""
    if judged.action is not Action.REDACT or judged.conversation is None:
        return response
    after: Mapping[str, Any] = judged.conversation.wire()[-1]
    calls = iter(after.get("tool_calls") or ())
    parts: list[Any] = (
        [TextPart(after["content"])] if isinstance(after.get("content"), str) and after["content"] else []
    )
    kept = [part for part in response.parts if isinstance(part, ToolCallPart)]
    parts += [replace(part, args=next(calls)["function"]["arguments"]) for part in kept]
    return replace(response, parts=parts)
