"""A guarded chat model: what LangChain calls a model, with a shield around it.

    ShieldedChatModel(model=ChatOpenAI(...), policy="policy.yaml")     around any chat model
    ShieldedChatModel(shield=Shield(policy, LlamaCpp("model.gguf")))   over any backend of shieldkit

The model inside is called by the shield alone, without the caller's callbacks: a host that streams tokens from
callbacks, as agents do, gets those that have passed the guards and no others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SkipValidation

from shieldkit.adapters import checks
from shieldkit.adapters.langchain.config import principal_of
from shieldkit.adapters.langchain.messages import OnRefusal, answer, refused, refused_message
from shieldkit.adapters.langchain.runnable import chunks_of
from shieldkit.backends.base import CallOptions
from shieldkit.errors import ConfigurationError
from shieldkit.outcome import Reply
from shieldkit.policy import Policy
from shieldkit.schema import SchemaGate, compile_schema
from shieldkit.shield import Shield
from shieldkit.tools import Approver

_IGNORED = frozenset({"stream", "stream_options", "stream_usage", "parallel_tool_calls", "strict", "ls_provider"})
_PRINCIPAL = "shieldkit_principal"
_SCHEMA = "shieldkit_schema"
_ON_REFUSAL = "shieldkit_on_refusal"


class ShieldedChatModel(BaseChatModel):
    """A chat model behind a shield. Give `model` and `policy` (and an `approver`), or a `shield` that has a backend.

    `on_refusal`: `"message"` (an `AIMessage` with the refusal's text, `additional_kwargs["refusal"]` and finish reason
    `content_filter`) or `"raise"` (`RefusedByShield`). `temperature`, `max_tokens`, `seed` and `stop` are defaults for
    each call, within the policy's caps. `context_tokens`: the context of `model`, where it does not say it itself.
    Raises `ConfigurationError` when something cannot work.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: SkipValidation[BaseChatModel | None] = Field(None, exclude=True, repr=False)
    policy: SkipValidation[Policy | str | Path | None] = Field(None, exclude=True, repr=False)
    approver: SkipValidation[Approver | None] = Field(None, exclude=True, repr=False)
    shield: SkipValidation[Shield | None] = Field(None, exclude=True, repr=False)
    on_refusal: OnRefusal = "message"
    context_tokens: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    streaming: bool = False

    _guarded: Shield = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Build the shield, where none was given, and hold what was given against each other."""
        super().model_post_init(context)
        mend = "Give model=… and policy=…, or shield=Shield(policy, backend)"
        if (self.shield is None) == (self.model is None):
            raise ConfigurationError("ShieldedChatModel", "needs a model or a shield, and not both", mend=mend)
        if self.shield is not None:
            if self.policy is not None or self.approver is not None:
                raise ConfigurationError("policy, approver", "are the shield's own", mend=mend)
            checks.shield(self.shield, answers=True)
            self._guarded = self.shield
            return
        from shieldkit.backends import LangChainModel

        backend = LangChainModel(self.model, context_tokens=self.context_tokens)
        self._guarded = Shield(self.policy or "builtin:default", backend, approver=self.approver)

    @property
    def guarded(self) -> Shield:
        """The shield that answers."""
        return self._guarded

    def close(self) -> None:
        """Close the shield that was built here; one that was given is the caller's."""
        if self.shield is None:
            self._guarded.close()

    # -- LangChain's surface ----------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "shieldkit"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What decides about an answer: a cache of LangChain's holds under the same policy and model only."""
        policy, backend = self._guarded.policy, self._guarded.backend
        return {
            "policy": f"{policy.name}@{policy.version}", "model_name": backend.model if backend is not None else "",
            "on_refusal": self.on_refusal, "temperature": self.temperature, "max_tokens": self.max_tokens,
            "seed": self.seed, "stop": self.stop,
        }  # fmt: skip

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        params = super()._get_ls_params(stop=stop, **kwargs)
        backend = self._guarded.backend
        params["ls_provider"] = "shieldkit"
        params["ls_model_name"] = str(kwargs.get("model") or (backend.model if backend is not None else ""))
        return params

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:  # fmt: skip
        """Ask; who asks is taken from `config["configurable"]`."""
        return super().invoke(input, config, stop=stop, **self._who(config, kwargs))

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:  # fmt: skip
        """`invoke` for async code."""
        return await super().ainvoke(input, config, stop=stop, **self._who(config, kwargs))

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:  # fmt: skip
        """The answer as the policy's `streaming` allows."""
        yield from super().stream(input, config, stop=stop, **self._who(config, kwargs))

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, *, stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:  # fmt: skip
        """`stream` for async code."""
        async for chunk in super().astream(input, config, stop=stop, **self._who(config, kwargs)):
            yield chunk

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], *,
        tool_choice: dict[str, Any] | str | bool | None = None, strict: bool | None = None, **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:  # fmt: skip
        """The model with tools that it may call. The policy's `tools` guard judges the calls."""
        formatted = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        choice = _choice(tool_choice, [tool["function"]["name"] for tool in formatted if "function" in tool])
        return self.bind(tools=formatted, tool_choice=choice, **kwargs)

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, method: str = "json_schema",
        strict: bool | None = None, **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:  # fmt: skip
        """The model with answers that conform to a schema, held by the policy's schema gate: a value, or a refusal.

        Every `method` comes to the same gate. A refusal is raised (`RefusedByShield`); with `include_raw` it is the
        `parsing_error`.
        """
        if kwargs:
            raise ValueError(f"with_structured_output does not take {', '.join(sorted(kwargs))}")
        known = isinstance(schema, type) and issubclass(schema, BaseModel)
        of_pydantic_1 = isinstance(schema, type) and not known and is_basemodel_subclass(schema)
        gate = compile_schema(schema if known else convert_to_json_schema(schema))
        told = {"kwargs": {"method": method, "strict": strict}, "schema": convert_to_json_schema(schema)}
        bound = {_SCHEMA: gate, "ls_structured_output_format": told}
        parsed = partial(_parsed, schema if of_pydantic_1 else None)
        if not include_raw:
            return self.bind(**bound, **{_ON_REFUSAL: "raise"}) | RunnableLambda(parsed)
        raw = RunnableMap(raw=self.bind(**bound, **{_ON_REFUSAL: "message"}))
        found = itemgetter("raw")
        return raw | RunnablePassthrough.assign(
            parsed=found | RunnableLambda(parsed), parsing_error=found | RunnableLambda(refused_message)
        )

    # -- inside -----------------------------------------------------------------------------------------------------

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        call, on_refusal = self._call(stop, kwargs)
        return _result(self._guarded.invoke(messages, **call), on_refusal)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        call, on_refusal = self._call(stop, kwargs)
        return _result(await self._guarded.ainvoke(messages, **call), on_refusal)

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:  # fmt: skip
        call, on_refusal = self._call(stop, kwargs)
        shown = False
        for event in self._guarded.stream(messages, **call):
            for chunk in chunks_of(event, shown, on_refusal):
                yield ChatGenerationChunk(message=chunk)
            shown = shown or bool(event.text)

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:  # fmt: skip
        call, on_refusal = self._call(stop, kwargs)
        shown = False
        async for event in self._guarded.astream(messages, **call):
            for chunk in chunks_of(event, shown, on_refusal):
                yield ChatGenerationChunk(message=chunk)
            shown = shown or bool(event.text)

    def _who(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        principal = principal_of(ensure_config(config))
        return kwargs if principal is None else {_PRINCIPAL: principal, **kwargs}

    def _call(self, stop: list[str] | None, given: Mapping[str, Any]) -> tuple[dict[str, Any], OnRefusal]:
        """What a call of the shield is made with. A parameter that cannot be held is an error, not left out."""
        rest = {key: value for key, value in given.items() if value is not None and key not in _IGNORED}
        on_refusal: OnRefusal = rest.pop(_ON_REFUSAL, self.on_refusal)
        schema = rest.pop(_SCHEMA, None) or _schema_of(rest.pop("response_format", None))
        principal = rest.pop(_PRINCIPAL, None) or principal_of(ensure_config())
        most = [rest.pop(key, None) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
        options = CallOptions(
            tools=tuple(rest.pop("tools", ())),
            tool_choice=_choice(rest.pop("tool_choice", None), []),
            max_output_tokens=min((m for m in most if m is not None), default=self.max_tokens),
            temperature=rest.pop("temperature", self.temperature),
            seed=rest.pop("seed", self.seed),
            stop=tuple(stop or self.stop or ()),
        )
        if rest:
            raise ConfigurationError(
                "ShieldedChatModel", f"a call does not take {', '.join(sorted(rest))}",
                mend="Set it on the model inside; a call takes tools, tool_choice, response_format, max_tokens, "
                "temperature, seed and stop",
            )  # fmt: skip
        return {"principal": principal, "schema": schema, "options": options}, on_refusal


def _result(reply: Reply, on_refusal: OnRefusal) -> ChatResult:
    if reply.refused and on_refusal == "raise":
        raise refused(reply)
    message = answer(reply)
    info = {"finish_reason": reply.finish_reason}
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])


def _choice(choice: Any, names: Sequence[str]) -> Literal["auto", "none", "required"] | Mapping[str, Any] | None:
    """LangChain's ways to say which tool has to be called, in the OpenAI wire form."""
    if choice is None or choice is False:
        return None
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, str) and choice in names:
        return {"type": "function", "function": {"name": choice}}
    found: Literal["auto", "none", "required"] | Mapping[str, Any] = choice
    return found


def _schema_of(response_format: Any) -> SchemaGate | None:
    """The gate for OpenAI's `response_format`; agents ask for structured answers with it."""
    if response_format is None or (isinstance(response_format, Mapping) and response_format.get("type") == "text"):
        return None
    if not isinstance(response_format, Mapping):
        return compile_schema(response_format)
    if response_format.get("type") == "json_object":
        return compile_schema({"type": "object"})
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        mend = "Give {'type': 'json_schema', 'json_schema': {'name': …, 'schema': {…}}}"
        raise ConfigurationError("response_format", "has no schema", mend=mend)
    return compile_schema(schema)


def _parsed(of_pydantic_1: Any, message: AIMessage) -> Any:
    """The value that the gate has passed; as the model's own class where that is one of pydantic 1, which no gate knows."""
    value = message.additional_kwargs.get("parsed")
    return value if of_pydantic_1 is None or value is None else of_pydantic_1(**value)
