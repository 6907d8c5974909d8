"""A shield as a `Runnable`: in a chain as the guarded model, or as a screen before or after somebody else's.

prompt | ShieldRunnable(shield) | parser
ShieldRunnable.screen(shield) | model | ShieldRunnable.screen(shield, stage="output") | parser
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar, get_args

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from opentelemetry import trace

from shieldkit.adapters import checks
from shieldkit.adapters.langchain.config import Traced, principal_of
from shieldkit.adapters.langchain.messages import (
    OnRefusal,
    answer,
    last_chunk,
    messages_of,
    outcome_of,
    refused,
    rewritten,
)
from shieldkit.backends.base import CallOptions
from shieldkit.outcome import Action, Reply, Screening, Stage, StreamEvent
from shieldkit.shield import Shield

T = TypeVar("T")


class ShieldRunnable(Runnable[Any, Any]):
    """Asks the shield's model, guarded. Takes a string, messages or a prompt value; gives an `AIMessage`.

    `schema`: the answer must conform to it, and the validated value is given in place of the message. `on_refusal`:
    `"message"` gives an `AIMessage` with the refusal's text and `additional_kwargs["refusal"]`; `"raise"` raises
    `RefusedByShield`. With a schema a refusal is always raised, since there is no value. Who asks is taken from
    `config["configurable"]`: `principal`, or `user_id`, `thread_id`, `tenant_id`, `task_id`.
    """

    def __init__(
        self, shield: Shield, *, schema: Any = None, options: CallOptions | None = None,
        on_refusal: OnRefusal = "message", tracer_provider: trace.TracerProvider | None = None,
    ) -> None:  # fmt: skip
        checks.shield(shield, answers=True)
        checks.word("on_refusal", on_refusal, get_args(OnRefusal))
        self.shield = shield
        self.schema = schema
        self.options = options
        self.on_refusal: OnRefusal = "raise" if schema is not None else on_refusal
        self.tracer_provider = tracer_provider

    @staticmethod
    def screen(
        shield: Shield, stage: Stage | str = Stage.INPUT, *, tracer_provider: trace.TracerProvider | None = None
    ) -> ShieldScreen:
        """A runnable that passes a value on, with the policy's redactions, or raises `RefusedByShield`."""
        return ShieldScreen(shield, stage, tracer_provider=tracer_provider)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask. `kwargs` are not used."""
        return self._call_with_config(self._ask, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """`invoke` for async code."""
        return await self._acall_with_config(self._aask, input, config)

    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Ask, and give the answer bit by bit as the policy's `streaming` allows; in one piece where it is off."""
        yield from self._transform_stream_with_config(input, self._bits, config)

    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """`transform` for async code."""
        async for bit in self._atransform_stream_with_config(input, self._abits, config):
            yield bit

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """The answer bit by bit, as the policy's `streaming` allows."""
        yield from self.transform(iter([input]), config)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """`stream` for async code."""

        async def one() -> AsyncIterator[Any]:
            yield input

        async for bit in self.atransform(one(), config):
            yield bit

    # -- inside -----------------------------------------------------------------------------------------------------

    def _call(self, value: Any, config: RunnableConfig) -> dict[str, Any]:
        return {
            "messages": messages_of(value), "principal": principal_of(config), "schema": self.schema,
            "options": self.options,
        }  # fmt: skip

    def _traced(self, config: RunnableConfig) -> Traced:
        return Traced("ShieldRunnable", config, self.tracer_provider)

    def _given(self, reply: Reply) -> Any:
        if reply.refused and self.on_refusal == "raise":
            raise refused(reply)
        return reply.data if self.schema is not None else answer(reply)

    def _ask(self, value: Any, run_manager: Any, config: RunnableConfig) -> Any:
        with self._traced(config) as traced, traced.current():
            return self._given(self.shield.invoke(**self._call(value, config)))

    async def _aask(self, value: Any, run_manager: Any, config: RunnableConfig) -> Any:
        with self._traced(config) as traced, traced.current():
            return self._given(await self.shield.ainvoke(**self._call(value, config)))

    def _bits(self, values: Iterator[Any], run_manager: Any, config: RunnableConfig) -> Iterator[Any]:
        value = _together(list(values))
        with self._traced(config) as traced:
            events = self.shield.stream(**self._call(value, config))
            shown = False
            for event in traced.each(events):
                yield from self._shown(event, shown)
                shown = shown or bool(event.text)

    async def _abits(self, values: AsyncIterator[Any], run_manager: Any, config: RunnableConfig) -> AsyncIterator[Any]:
        value = _together([v async for v in values])
        with self._traced(config) as traced:
            events = self.shield.astream(**self._call(value, config))
            shown = False
            async for event in traced.aeach(events):
                for bit in self._shown(event, shown):
                    yield bit
                shown = shown or bool(event.text)

    def _shown(self, event: StreamEvent, shown: bool) -> Iterator[Any]:
        if self.schema is not None:
            if event.reply is not None:
                yield self._given(event.reply)
            return
        yield from chunks_of(event, shown, self.on_refusal)


def chunks_of(event: StreamEvent, shown: bool, on_refusal: OnRefusal) -> Iterator[AIMessageChunk]:
    """An event of a stream as a chunk; the one with the reply is the last. Raises `RefusedByShield` if asked to."""
    if event.reply is None:
        yield AIMessageChunk(content=event.text)
    elif event.reply.refused and on_refusal == "raise":
        raise refused(event.reply)
    else:
        yield last_chunk(event.reply, event.text, shown)


def _together(values: list[Any]) -> Any:
    """What an earlier step streamed, as one value."""
    value = values[0]
    for more in values[1:]:
        value = value + more
    return value


class ShieldScreen(Runnable[Any, Any]):
    """Judges a value without a model, and passes it on or raises `RefusedByShield`; see `ShieldRunnable.screen`.

    Takes what `ShieldRunnable` takes. What the policy redacts is redacted in what is passed on. A stream is held back
    until it is whole.
    """

    def __init__(
        self, shield: Shield, stage: Stage | str = Stage.INPUT, *, tracer_provider: trace.TracerProvider | None = None
    ) -> None:
        checks.shield(shield)
        self.shield = shield
        self.stage = Stage(stage)
        self.tracer_provider = tracer_provider

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """The value, or `RefusedByShield`."""
        return self._call_with_config(self._screen, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """`invoke` for async code."""
        return await self._acall_with_config(self._ascreen, input, config)

    def _asked(self, value: Any, config: RunnableConfig) -> dict[str, Any]:
        principal = principal_of(config)
        tenant = principal.tenant if principal is not None else None
        return {"messages": messages_of(value), "stage": self.stage, "tenant": tenant}

    def _screen(self, value: Any, run_manager: Any, config: RunnableConfig) -> Any:
        with Traced("ShieldScreen", config, self.tracer_provider) as traced, traced.current():
            return passed_on(value, self.shield.screen(**self._asked(value, config)))

    async def _ascreen(self, value: Any, run_manager: Any, config: RunnableConfig) -> Any:
        with Traced("ShieldScreen", config, self.tracer_provider) as traced, traced.current():
            return passed_on(value, await self.shield.ascreen(**self._asked(value, config)))


def passed_on(value: T, screening: Screening) -> T | Any:
    """The value as it may go on after a screening, in the shape that it had. Raises `RefusedByShield`."""
    if screening.refusal is not None or screening.conversation is None:
        raise refused(outcome_of(screening))
    if screening.action.severity < Action.REDACT.severity:
        return value
    if isinstance(value, str):
        return screening.text
    messages = messages_of(value)
    if isinstance(messages, BaseMessage):
        return rewritten([messages], screening.conversation)[0]
    if isinstance(messages, list) and all(isinstance(m, BaseMessage) for m in messages):
        changed = rewritten(messages, screening.conversation)
        return ChatPromptValue(messages=changed) if isinstance(value, PromptValue) else changed
    wire = screening.conversation.wire()
    return wire if isinstance(value, list | tuple) else wire[0]
