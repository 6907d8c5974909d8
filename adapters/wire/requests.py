"""Request bodies of the chat completions, completions and responses APIs, read into what a shield is asked.

A parameter is honoured, or ignored by name (`HINTS`: how to sample, how to bill), or refused. Nothing reaches the model
that the guards have not read, so what would carry text past them (`prediction`, `web_search_options`, stored responses) is
refused, and so is what would bring text back that they do not read (`logprobs`, more than one choice).

Source: OpenAI's API reference, as the types of its Python client 3.57 have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from shieldkit.adapters.wire.errors import ApiError
from shieldkit.backends.base import CallOptions
from shieldkit.conversation import Trust

HINTS = frozenset({
    "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "metadata",
    "service_tier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "reasoning_effort", "reasoning",
    "verbosity", "store", "parallel_tool_calls", "truncation", "include", "max_tool_calls", "moderation",
})  # fmt: skip
"""Parameters that the shield does not read. The guarded client hands them on; the gateway says that it ignores them."""

NAMED = {"user": "x-shield-user", "session": "x-shield-session", "task": "x-shield-task"}
"""The headers in which a request names parts of its principal."""

MAX_STOPS = 16
MAX_TOOLS = 512

_NAME = re.compile("[a-z_]{1,40}")

Surface = Literal["chat.completions", "completions", "responses"]
_Json = dict[str, Any]
_Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
_Stop = str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks of the shield: messages in the chat wire form, options, schema; and how to answer."""

    surface: Surface
    model: str
    messages: list[_Json]
    options: CallOptions
    schema: Mapping[str, Any] | None = None
    stream: bool = False
    include_usage: bool = False
    user: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)

    def named(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The parts of the principal that the request names, in its headers or as OpenAI's `user`."""
        given = {part: headers.get(header) for part, header in NAMED.items()}
        given["user"] = given["user"] or self.user
        return {part: value for part, value in given.items() if value}

    def distrusted(self) -> Asked:
        """The same for an asker who may not instruct the model: the guards read his tools as they read his text."""
        return replace(self, options=replace(self.options, tool_trust=Trust.UNTRUSTED))


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    stream: bool | None = None
    stream_options: _Json | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    user: str | None = None
    safety_identifier: str | None = None


class _Sampled(_Body):
    """What chat completions and completions share."""

    n: Literal[1] | None = None
    seed: int | None = None
    stop: _Stop = None
    max_tokens: _Tokens | None = None


class _Chat(_Sampled):
    messages: Annotated[list[_Json], Field(min_length=1)]
    max_completion_tokens: _Tokens | None = None
    tools: Annotated[list[_Json], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | _Json | None = None
    response_format: _Json | None = None
    modalities: list[Literal["text"]] | None = None
    logprobs: Literal[False] | None = None


class _Completions(_Sampled):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None


class _Responses(_Body):
    input: str | Annotated[list[_Json], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: _Tokens | None = None
    tools: Annotated[list[_Json], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | _Json | None = None
    text: _Json | None = None
    background: Literal[False] | None = None


def read(surface: Surface, body: bytes) -> Asked:
    """Read a request body. Raises `ApiError` 400, which names the parameter and quotes no text."""
    try:
        # Bounded in depth; numbers that are none are refused; of a key that stands twice the last counts, and only that
        # is ever seen by guards and model.
        data = from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON", "invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body is not a JSON object", "invalid_json")
    hints = {name: data[name] for name in sorted(HINTS & data.keys()) if data[name] is not None}
    wanted = {name: value for name, value in data.items() if name not in HINTS}
    return _READERS[surface](wanted, hints)


def _validated(model: type[BaseModel], data: _Json) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        param = name if _NAME.fullmatch(name) else None
        if first["type"] == "extra_forbidden":
            raise ApiError(
                400, f"{param or 'a parameter'} is not supported here", "unsupported_parameter", param
            ) from None
        problem = str(first["msg"]).replace("Input should be", "must be")
        raise ApiError(400, f"{param}: {problem}", "invalid_value", param) from None


def _chat(data: _Json, hints: _Json) -> Asked:
    body: _Chat = _validated(_Chat, data)
    options = _options(body, body.max_completion_tokens or body.max_tokens, _tools(body.tools), body.tool_choice,
                       body.seed, body.stop)  # fmt: skip
    schema = _schema(body.response_format, "response_format")
    return _asked("chat.completions", body, body.messages, options, schema, hints)


def _completions(data: _Json, hints: _Json) -> Asked:
    body: _Completions = _validated(_Completions, data)
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    options = _options(body, body.max_tokens, (), None, body.seed, body.stop)
    return _asked("completions", body, [{"role": "user", "content": prompt}], options, None, hints)


def _responses(data: _Json, hints: _Json) -> Asked:
    body: _Responses = _validated(_Responses, data)
    tools = _tools([_chat_tool(tool, i) for i, tool in enumerate(body.tools or ())])
    choice = body.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    options = _options(body, body.max_output_tokens, tools, choice, None, None)
    schema = _schema(_chat_format((body.text or {}).get("format")), "text.format")
    messages = [{"role": "system", "content": body.instructions}] if body.instructions else []
    items = [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    for index, item in enumerate(items):
        _add_item(messages, item, f"input[{index}]")
    return _asked("responses", body, messages, options, schema, hints)


_READERS: Mapping[Surface, Callable[[_Json, _Json], Asked]] = {
    "chat.completions": _chat,
    "completions": _completions,
    "responses": _responses,
}
SURFACES: Mapping[str, Surface] = {
    "/chat/completions": "chat.completions",
    "/completions": "completions",
    "/responses": "responses",
}
"""By path, below the base URL (`/v1`). All of them are POST."""


def _options(
    body: _Body, tokens: int | None, tools: tuple[_Json, ...], choice: str | _Json | None, seed: int | None, stop: _Stop
) -> CallOptions:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return CallOptions(
        tools=tools, tool_choice=choice, max_output_tokens=tokens, temperature=body.temperature, seed=seed, stop=stops
    )


def _asked(
    surface: Surface, body: _Body, messages: list[_Json], options: CallOptions, schema: Any, hints: _Json
) -> Asked:
    usage = bool((body.stream_options or {}).get("include_usage"))
    user = body.safety_identifier or body.user
    return Asked(surface, body.model, messages, options, schema, bool(body.stream), usage, user, hints)


def _tools(tools: list[_Json] | None) -> tuple[_Json, ...]:
    for index, tool in enumerate(tools or ()):
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            raise ApiError(
                400, f"tools[{index}]: only tools of type 'function' are supported", "invalid_value", "tools"
            )
    return tuple(tools or ())


def _schema(wanted: _Json | None, param: str) -> Mapping[str, Any] | None:
    """The JSON Schema that a response format asks for."""
    kind = (wanted or {}).get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    holder = (wanted or {}).get("json_schema")
    schema = holder.get("schema") if isinstance(holder, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise ApiError(400, f"{param}: must be text, json_object, or json_schema with a schema", "invalid_value", param)
    return schema


# -- the responses API, in the words of chat completions ------------------------------------------------------------


def _chat_tool(tool: _Json, index: int) -> _Json:
    if tool.get("type") != "function":
        message = f"tools[{index}]: only tools of type 'function' are supported; built-in tools run past the guards"
        raise ApiError(400, message, "unsupported_parameter", "tools")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type" and v is not None}}


def _chat_format(wanted: Any) -> _Json | None:
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return wanted if isinstance(wanted, dict) else None
    return {"type": "json_schema", "json_schema": {k: v for k, v in wanted.items() if k != "type"}}


def _add_item(messages: list[_Json], item: _Json, path: str) -> None:
    kind = item.get("type", "message")
    if kind == "message" and "role" in item:
        messages.append({"role": item["role"], "content": _parts(item.get("content"))})
    elif kind == "function_call":
        call = {"id": item.get("call_id"), "type": "function",
                "function": {"name": item.get("name"), "arguments": item.get("arguments")}}  # fmt: skip
        if messages and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"].append(call)
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif kind == "function_call_output":
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": _parts(item.get("output"))})
    else:
        problem = "only messages, function calls and their outputs can be read by guards"
        raise ApiError(400, f"{path}: {problem}", "unsupported_parameter", "input")


_PARTS = {"input_text": "text", "output_text": "text", "input_image": "image_url"}


def _parts(content: Any) -> Any:
    """Content parts under the names that chat completions have for them; their text is not touched."""
    if not isinstance(content, list):
        return content
    return [{**part, "type": _PARTS.get(str(part.get("type")), part.get("type"))} if isinstance(part, dict) else part
            for part in content]  # fmt: skip
