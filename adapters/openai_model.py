"""An OpenAI client as a `Backend`: what the guarded client asks through.

The model is asked over chat completions, whatever API the application used: the messages that the guards have read are
what is sent. The client is the application's: its keys, retries and transport hold. An asynchronous client is asked in the
event loop that it belongs to, from the thread that the chain waits in. Where no application has a client, the backend for
such servers is `shieldkit.backends.OpenAICompatible`, which makes its own and knows their tokens.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import openai

from shieldkit.backends.base import Completion, CompletionRequest
from shieldkit.backends.chat import Answer, Gathered, messages_of, read_answer, said, tools_of, written_tokens
from shieldkit.backends.inert import Inert
from shieldkit.backends.tokens import BYTES_A_TOKEN, TOKENS_A_MESSAGE, TOKENS_A_TEMPLATE
from shieldkit.conversation import Conversation
from shieldkit.errors import BackendError, BackendTimeout, ContextExceeded

T = TypeVar("T")

_TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Upstream:
    """What one call says beside its messages: the model's name, how to sample, how long to wait, and in which loop."""

    model: str
    hints: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = float("inf")
    loop: asyncio.AbstractEventLoop | None = None


CURRENT: contextvars.ContextVar[Upstream] = contextvars.ContextVar("shieldkit_openai_upstream")
"""The call under way. The chain's worker threads run in a copy of the caller's context, and so see it."""


class ClientModel:
    """The model behind an `OpenAI` or `AsyncOpenAI` client. A `Backend` and a `StreamingBackend`.

    `context_tokens`: what its models take. `count`: the tokens of a text by the model's own tokenizer; without it each byte
    counts as one, which is never too few, and some four times too many.
    """

    name = "openai-client"
    control_tokens: frozenset[str] = frozenset()

    def __init__(
        self, client: openai.OpenAI | openai.AsyncOpenAI, *, context_tokens: int, count: Callable[[str], int] | None
    ) -> None:
        self._client: Any = client
        self._count, self._exact = count or _bytes, count
        self.context_tokens = context_tokens
        official = client.base_url.host.endswith((".openai.com", ".azure.com"))
        self._most = "max_completion_tokens" if official else "max_tokens"
        self._inert = _AsItIs() if official else Inert()

    @property
    def model(self) -> str:
        """The model that the call under way names."""
        upstream = CURRENT.get(None)
        return upstream.model if upstream is not None else "unknown"

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        """No fewer than the tokens that will be sent."""
        total = TOKENS_A_TEMPLATE + TOKENS_A_MESSAGE * (len(conversation.messages) + len(conversation.tools))
        for segment in conversation.segments:
            total += self._count(segment.text if segment.trusted else self._inert.neutralised(segment.text))
            if limit is not None and total > limit:
                break
        return total

    def complete(self, request: CompletionRequest) -> Completion:
        """Ask, and wait for the whole answer. Raises `BackendError` and its kin."""
        answer = self._run(request, lambda: self._create(request, stream=False))
        return self._completion(request, read_answer(_plain(answer)))

    def stream(self, request: CompletionRequest) -> Iterator[str | Completion]:
        """Ask, and give the answer's text as it comes, and last the whole of it."""
        stream = self._run(request, lambda: self._create(request, stream=True))
        whole = Gathered()
        try:
            chunks = iter(stream) if self._loop is None else aiter(stream)
            while (chunk := self._run(request, lambda: _next(chunks))) is not None:
                new = whole.add(_plain(chunk))
                request.progress.most_output_tokens = min(whole.most_tokens, request.max_output_tokens) or None
                if whole.size_bytes > BYTES_A_TOKEN * request.max_output_tokens:
                    raise BackendError("the model writes more than it was allowed")
                if new:
                    yield new
        finally:
            self._run(request, stream.close, always=True)
        yield self._completion(request, whole.answer())

    def describe(self) -> Mapping[str, Any]:
        """What is used to answer."""
        return {"name": self.name, "model": self.model, "context_tokens": self.context_tokens}

    def close(self) -> None:
        """Does nothing: the client is the application's."""

    # -- asking -----------------------------------------------------------------------------------------------------

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None:
        return CURRENT.get().loop

    def _create(self, request: CompletionRequest, *, stream: bool) -> Any:
        upstream = CURRENT.get()
        body: dict[str, Any] = {**upstream.hints, "temperature": request.temperature, "stream": stream}
        body[self._most] = request.max_output_tokens
        optional = {
            "seed": request.seed, "stop": list(request.stop) or None,
            "tools": tools_of(request.conversation, self._inert) or None,
            "tool_choice": request.tool_choice, "stream_options": {"include_usage": True} if stream else None,
            "response_format": _format(request.schema),
        }  # fmt: skip
        body |= {name: value for name, value in optional.items() if value is not None}
        messages = messages_of(request.conversation, self._inert)
        left_s = min(request.deadline - time.monotonic(), upstream.timeout_s)
        if left_s <= 0:
            raise BackendTimeout("no answer within the deadline")
        timeout = min(left_s, threading.TIMEOUT_MAX)
        return self._client.chat.completions.create(
            model=upstream.model, messages=messages, extra_body=body, stream=stream, timeout=timeout
        )

    def _run(self, request: CompletionRequest, call: Callable[[], Any], *, always: bool = False) -> Any:
        """Run a call of the client, where it belongs. Errors become ours, with the client's own as their cause."""
        try:
            loop = self._loop
            return call() if loop is None else _in_loop(loop, call, request, always)
        except openai.APITimeoutError as error:
            raise BackendTimeout("no answer within the deadline") from error
        except openai.APIStatusError as error:
            if error.code == "context_length_exceeded":
                raise ContextExceeded("the server says that prompt and answer do not fit its context") from error
            raise BackendError(f"the server failed (HTTP {error.status_code})") from error
        except openai.OpenAIError as error:
            raise BackendError(f"the server cannot be asked ({type(error).__name__})") from error

    def _completion(self, request: CompletionRequest, answer: Answer) -> Completion:
        """What came, as the chain takes it. Counts that the server does not give are counted here."""
        read, written = answer.input_tokens, answer.output_tokens
        if read is None:
            read = self.count_tokens(request.conversation)
        if written is None:
            written = self.count_tokens(Conversation.of(answer.message))
        written = written_tokens(said(answer.message), written, request.max_output_tokens, self._exact)
        return Completion(answer.message, read, written, answer.finish_reason, self.model)


class _AsItIs(Inert):
    """For servers that never read a control token out of text: OpenAI's own."""

    def __init__(self) -> None:
        """Nothing to look for."""

    def neutralised(self, text: str) -> str:
        """The text."""
        return text


def _in_loop(
    loop: asyncio.AbstractEventLoop,
    call: Callable[[], Coroutine[Any, Any, T]],
    request: CompletionRequest,
    always: bool,
) -> T:
    """Run a coroutine in the client's loop, from another thread; stop it when the caller has left."""

    async def made() -> T:
        return await call()

    future = asyncio.run_coroutine_threadsafe(made(), loop)
    while True:
        try:
            return future.result(_TICK_S)
        except TimeoutError:
            if future.done():
                raise BackendTimeout("no answer within the deadline") from None
            if request.expired() and not always:
                future.cancel()
                raise BackendTimeout("the caller is gone, or the time is over") from None


def _next(chunks: Any) -> Any:
    """The next chunk, or None at the end; awaitable where the stream is."""
    return anext(chunks, None) if hasattr(chunks, "__anext__") else next(chunks, None)


def _plain(answer: Any) -> dict[str, Any]:
    """A typed answer of the client as plain data."""
    if not isinstance(answer, openai.BaseModel):
        raise BackendError("the server's answer is not JSON")
    return answer.model_dump(mode="json", warnings=False)


def _format(schema: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    if schema == {"type": "object"}:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema)}}


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
