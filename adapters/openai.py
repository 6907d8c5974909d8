"""A guarded OpenAI client: the same object, with a shield between it and the model.

    client = guarded_client(OpenAI(), Shield("builtin:default"))
    client.chat.completions.create(model="gpt-5", messages=[…])      # as before

`guarded_client` gives a client of the same class whose transport is the shield: every request that the client can make, by
whichever method, helper or wrapper, passes here. Chat completions, completions and responses are answered through the shield;
models, embeddings and moderations pass; all else is refused, unless it is named in `unguarded`, because it could bring text
that no guard has read. The bodies are the gateway's, so parsing, streaming and the client's types are its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from shieldkit.adapters import checks
from shieldkit.adapters.wire import SURFACES, Asked, answer, api_error, chunks, read
from shieldkit.adapters.wire.errors import budget_error
from shieldkit.adapters.wire.events import Chunks, written
from shieldkit.budget import Principal
from shieldkit.errors import ConfigurationError, MissingExtra, Refused
from shieldkit.outcome import Reply
from shieldkit.shield import Shield, StreamEvent

try:
    import httpx2
    import openai
except ImportError as error:
    raise MissingExtra("the openai client (3.x)", "openai", name=error.name) from None

from shieldkit.adapters.openai_model import CURRENT, ClientModel, Upstream

__all__ = ["RefusedByShield", "UnguardedError", "guard", "guarded_client"]

Client = TypeVar("Client", bound="openai.OpenAI | openai.AsyncOpenAI")
Who = Principal | Callable[[], Principal | None] | None

PASSES = frozenset({"models", "embeddings", "moderations"})
"""What passes unread: it brings no generated text back."""

NO_SOCKETS = "wss://no-guard-reads-websockets.invalid"
"""Where WebSockets lead that are opened past the methods which refuse: nowhere (RFC 2606)."""

_SOCKETS = ("realtime", "live")
_SEGMENT = re.compile(r"(?!\.+$)[\w.:@-]+", re.ASCII)
_DEPLOYMENT = re.compile("^deployments/[^/]+/")
# What the responses and the chat API call by the same name.
_SHARED_HINTS = frozenset({"metadata", "service_tier", "store", "top_p", "prompt_cache_key", "prompt_cache_retention",
                           "parallel_tool_calls"})  # fmt: skip


class UnguardedError(openai.OpenAIError):
    """A request that no guard reads, and that was not named in `unguarded`. It was not sent."""


class RefusedByShield(Refused, openai.OpenAIError):
    """The policy refused, and `guarded_client(…, on_refusal="raise")` asked for an exception; `reply` holds the whole outcome."""


def guarded_client(
    client: Client,
    shield: Shield,
    *,
    principal: Who = None,
    on_refusal: Literal["answer", "raise"] = "answer",
    unguarded: Collection[str] = (),
    context_tokens: int | None = None,
    count: Callable[[str], int] | None = None,
) -> Client:
    """A client of the same class, sync or async, that speaks to its models through `shield`. `client` is left as it is.

    A shield without a backend asks through `client`; one with a backend of its own asks that, and `model` is then a name
    only. `principal`: who asks, or a function that tells it for each call; a call may name parts of it in the headers
    `X-Shield-User`, `X-Shield-Session` and `X-Shield-Task` (`extra_headers=`), or as `user=`.
    `on_refusal`: a refusal is an answer with `finish_reason` `content_filter` and the policy's message, or raises
    `RefusedByShield`. `unguarded`: first parts of paths that may be asked unread, such as `files` or `images`.
    `context_tokens`: what the models take, by default the policy's cap. `count`: the tokens of a text; see `ClientModel`.
    System messages are trusted: the application sends them. Raises `ConfigurationError`.
    """
    if not isinstance(client, (openai.OpenAI, openai.AsyncOpenAI)):
        problem = f"a {type(client).__name__} is neither OpenAI nor AsyncOpenAI"
        raise ConfigurationError("client", problem, mend="Give the client of openai>=3")
    checks.shield(shield)
    checks.word("on_refusal", on_refusal, ("answer", "raise"))
    inner = client._client
    if not isinstance(inner, (httpx2.Client, httpx2.AsyncClient)):
        raise ConfigurationError("client", "its http_client is not of httpx2", mend="Give an httpx2 client, or none")
    own = shield
    if shield.backend is None:
        tokens = context_tokens or shield.policy.context.cap
        own = shield.with_backend(ClientModel(client, context_tokens=tokens, count=count))
    way = _Way(own, str(client.base_url.path).strip("/"), principal, on_refusal, PASSES | frozenset(unguarded))
    # Only the transport is new. The base URL, the keys and what else the client sends stay the client's own.
    http: Any
    if isinstance(inner, httpx2.AsyncClient):
        http = httpx2.AsyncClient(transport=_AsyncTransport(way, inner), timeout=inner.timeout)
    else:
        http = httpx2.Client(transport=_Transport(way, inner), timeout=inner.timeout)
    made: Any = client.copy(http_client=http)
    made.__class__ = _without_sockets(type(client), frozenset(unguarded))
    if not set(_SOCKETS) & set(unguarded):
        made.websocket_base_url = NO_SOCKETS
    return made  # type: ignore[no-any-return]


guard = guarded_client
"""The same, by a shorter name, which `shieldkit.guard` (a guard of one's own) has too."""


@dataclass(frozen=True, slots=True)
class _Way:
    """Where a request goes, and how it is asked and answered. The transports only differ in how they wait."""

    shield: Shield
    base: str
    principal: Who
    on_refusal: str
    passes: frozenset[str]

    def asked(self, request: httpx2.Request, body: bytes) -> Asked | None:
        """What a guarded request asks; None for one that passes. Raises `UnguardedError` and `ApiError`."""
        # As it is sent: what a server makes of an escape or of dots is its own affair, so they are not let through.
        base, path = f"/{self.base}/" if self.base else "/", request.url.raw_path.decode("ascii").partition("?")[0]
        below = _DEPLOYMENT.sub("", path.removeprefix(base)) if path.startswith(base) else None
        plain = below is not None and all(_SEGMENT.fullmatch(part) for part in below.split("/"))
        surface = SURFACES.get(f"/{below}") if request.method == "POST" else None
        if surface is not None:
            return read(surface, body)
        if below is not None and plain and below.partition("/")[0] in self.passes and f"/{below}" not in SURFACES:
            return None
        shown = below if below is not None else "another base URL"
        raise UnguardedError(
            f"{request.method} {shown} was not sent: no guard reads it. Name the first part of its path in "
            "guarded_client(…, unguarded=…) if it may pass unread"
        )

    def who(self, asked: Asked, request: httpx2.Request) -> Principal | None:
        known = self.principal() if callable(self.principal) else self.principal
        named = asked.named(request.headers)
        return replace(known or Principal(), **named) if named else known

    def upstream(self, asked: Asked, request: httpx2.Request, loop: asyncio.AbstractEventLoop | None) -> Upstream:
        timeout = request.extensions.get("timeout", {}).get("read")
        hints = asked.hints
        if asked.surface != "chat.completions":
            hints = {name: value for name, value in hints.items() if name in _SHARED_HINTS}
        return Upstream(asked.model, hints, float("inf") if timeout is None else timeout, loop)

    def checked(self, reply: Reply) -> Reply:
        """The reply, or the exception that it is to be."""
        if reply.refused and self.on_refusal == "raise":
            raise RefusedByShield(reply)
        if (error := budget_error(reply, None)) is not None:
            raise error
        return reply

    def answer(self, asked: Asked, reply: Reply) -> httpx2.Response:
        return httpx2.Response(200, json=answer(asked, self.checked(reply)), headers=_trace(reply))

    def written(self, writer: Chunks, event: StreamEvent) -> bytes:
        if event.reply is not None:
            self.checked(event.reply)
        return written(writer, event)


def _trace(reply: Reply) -> dict[str, str]:
    return {"x-shieldkit-trace": reply.trace_id}


def _failure(error: Exception) -> httpx2.Response:
    """An error as the client knows it: its own, as it came, where the model's server told it; a status otherwise."""
    if isinstance(error, openai.OpenAIError):
        raise error
    if isinstance(error.__cause__, openai.OpenAIError):
        raise error.__cause__
    failure = api_error(error)
    return httpx2.Response(failure.status, json=failure.body(), headers=dict(failure.headers))


def _broken(writer: Chunks, error: Exception) -> bytes:
    """The same, after the stream has begun."""
    if isinstance(error, openai.OpenAIError):
        raise error
    return writer.error(api_error(error))


_EVENTS = {"content-type": "text/event-stream"}


class _Transport(httpx2.BaseTransport):
    def __init__(self, way: _Way, inner: httpx2.Client) -> None:
        self._way, self._inner = way, inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            asked = self._way.asked(request, request.read())
            if asked is None:
                return self._inner.send(request, stream=True)
            return self._answered(asked, request)
        except Exception as error:
            return _failure(error)

    def _answered(self, asked: Asked, request: httpx2.Request) -> httpx2.Response:
        way = self._way
        ask: Any = {"principal": way.who(asked, request), "schema": asked.schema, "options": asked.options}
        token = CURRENT.set(way.upstream(asked, request, None))
        try:
            if not asked.stream:
                return way.answer(asked, way.shield.invoke(asked.messages, **ask))
            events, writer = way.shield.stream(asked.messages, **ask), chunks(asked)
            first = way.written(writer, next(events))
            return httpx2.Response(200, headers=_EVENTS, stream=_Stream(way, writer, first, events, CURRENT.get()))
        finally:
            CURRENT.reset(token)

    def close(self) -> None:
        self._inner.close()


class _Stream(httpx2.SyncByteStream):
    def __init__(
        self, way: _Way, writer: Chunks, first: bytes, events: Iterator[StreamEvent], upstream: Upstream
    ) -> None:
        self._way, self._writer, self._first, self._events, self._upstream = way, writer, first, events, upstream

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        while True:
            token = CURRENT.set(self._upstream)
            try:
                frame = self._way.written(self._writer, next(self._events))
            except StopIteration:
                return
            except Exception as error:
                yield _broken(self._writer, error)
                return
            finally:
                CURRENT.reset(token)
            yield frame

    def close(self) -> None:
        self._events.close()  # type: ignore[attr-defined]


class _AsyncTransport(httpx2.AsyncBaseTransport):
    def __init__(self, way: _Way, inner: httpx2.AsyncClient) -> None:
        self._way, self._inner = way, inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            asked = self._way.asked(request, await request.aread())
            if asked is None:
                return await self._inner.send(request, stream=True)
            return await self._answered(asked, request)
        except Exception as error:
            return _failure(error)

    async def _answered(self, asked: Asked, request: httpx2.Request) -> httpx2.Response:
        way = self._way
        ask: Any = {"principal": way.who(asked, request), "schema": asked.schema, "options": asked.options}
        token = CURRENT.set(way.upstream(asked, request, asyncio.get_running_loop()))
        try:
            if not asked.stream:
                return way.answer(asked, await way.shield.ainvoke(asked.messages, **ask))
            events, writer = way.shield.astream(asked.messages, **ask), chunks(asked)
            first = way.written(writer, await anext(events))
            return httpx2.Response(200, headers=_EVENTS, stream=_AsyncStream(way, writer, first, events, CURRENT.get()))
        finally:
            CURRENT.reset(token)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _AsyncStream(httpx2.AsyncByteStream):
    def __init__(
        self, way: _Way, writer: Chunks, first: bytes, events: AsyncIterator[StreamEvent], upstream: Upstream
    ) -> None:
        self._way, self._writer, self._first, self._events, self._upstream = way, writer, first, events, upstream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._first
        while True:
            token = CURRENT.set(self._upstream)
            try:
                frame = self._way.written(self._writer, await anext(self._events))
            except StopAsyncIteration:
                return
            except Exception as error:
                yield _broken(self._writer, error)
                return
            finally:
                CURRENT.reset(token)
            yield frame

    async def aclose(self) -> None:
        await self._events.aclose()  # type: ignore[attr-defined]


def _without_sockets(kind: type, unguarded: frozenset[str]) -> type:
    """The client's class, without what goes past HTTP: WebSocket connections are opened by no transport."""

    def refused(name: str) -> property:
        def refuse(_: Any) -> Any:
            raise UnguardedError(
                f"{name} opens a WebSocket, which no guard reads; guarded_client(…, unguarded={{'{name}'}}) lets it"
            )

        return property(refuse)

    def responses(self: Any) -> Any:
        made = kind.responses.func(self)  # type: ignore[attr-defined]
        made.connect = lambda *_, **__: refused("responses.connect").fget(None)  # type: ignore[misc]
        return made

    names: dict[str, Any] = {name: refused(name) for name in _SOCKETS if name not in unguarded and hasattr(kind, name)}
    return type(kind.__name__, (kind,), {**names, "responses": property(responses), "__module__": __name__})
