"""The routes, and the way of one request: door, body, shield, answer.

    POST /v1/chat/completions, /v1/completions, /v1/responses        guarded
    GET  /v1/models, /v1/models/NAME
    GET  /healthz, /readyz                                           for whoever starts and stops it
    GET  /metrics                                                    for a key with the role `metrics` or `admin`
    GET  /shield                                                     the dashboard, for a key with the role `admin`

Whatever fails is told in OpenAI's error shape and never quotes text, in the answer or in a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shieldkit.adapters import checks
from shieldkit.adapters.gateway import dashboard, metrics
from shieldkit.adapters.gateway.door import Door, Gone
from shieldkit.adapters.gateway.keys import Key, Keys
from shieldkit.adapters.gateway.tally import Tally
from shieldkit.adapters.wire import SURFACES, ApiError, Asked, Surface, answer, api_error, chunks, read
from shieldkit.adapters.wire.errors import budget_error
from shieldkit.adapters.wire.events import Chunks, written
from shieldkit.budget import MemoryLedger, Principal
from shieldkit.conversation import Conversation
from shieldkit.outcome import Reply
from shieldkit.shield import Shield, StreamEvent

T = TypeVar("T")

LARGE_BODY_BYTES = 65_536
"""Bodies above this are parsed in a thread: tens of milliseconds would hold up everybody else's events."""

NOBODY = Key(id="local", sha256="0" * 64, may_name=("user", "session", "task"), show_rule=True)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the gateway is told beside its shield and keys.

    `model`: the one model name that is served. `max_body_bytes`: larger bodies are a 413. `max_in_flight`: more requests at
    a time are a 503. `trust_system`: where there are no keys, whether system messages of this machine's clients are trusted.
    """

    model: str
    max_body_bytes: int = 8 * 2**20
    max_in_flight: int = 512
    trust_system: bool = False


@dataclass(slots=True)
class Gateway:
    """The state of one gateway: everything that its routes share."""

    shield: Shield
    settings: Settings
    door: Door
    ledger: MemoryLedger | None = None
    tally: Tally = field(default_factory=Tally)
    draining: bool = False
    accounts: dashboard.Accounts = field(default_factory=dashboard.Accounts)


def gateway(
    shield: Shield, settings: Settings, keys: Keys | None = None, *, ledger: MemoryLedger | None = None
) -> Starlette:
    """The ASGI app. The shield stays the caller's to close. Its state is `app.state.gateway`.

    `keys`: whom to serve; without, this machine alone. `ledger`: the shield's, where the dashboard is to show it. Raises
    `ConfigurationError`.
    """
    checks.shield(shield, answers=True)
    nobody = NOBODY.model_copy(update={"may_instruct": settings.trust_system})
    state = Gateway(shield, settings, Door(keys, nobody, settings.max_body_bytes), ledger)
    registry = metrics.registry(state.tally)

    def route(path: str, handler: Callable[[Gateway, Request], Awaitable[Response]], method: str = "GET") -> Route:
        return Route(path, functools.partial(_handled, handler, state), methods=[method])

    async def exposed(gate: Gateway, request: Request) -> Response:
        gate.door.role(request, "metrics", "admin")
        return Response(metrics.exposition(registry), headers={"content-type": metrics.CONTENT_TYPE})

    app = Starlette(
        routes=[
            *(
                route(f"/v1{path}", functools.partial(_completed, surface), "POST")
                for path, surface in SURFACES.items()
            ),
            route("/v1/models", _models),
            route("/v1/models/{name:path}", _models),
            route("/healthz", _health),
            route("/readyz", _ready),
            route("/metrics", exposed),
            route("/shield", _page),
            route("/shield/live", _live),
        ],
        exception_handlers={HTTPException: _unrouted},
    )
    app.state.gateway = state
    return app


# -- the way of one request -----------------------------------------------------------------------------------------


async def _handled(
    handler: Callable[[Gateway, Request], Awaitable[Response]], gate: Gateway, request: Request
) -> Response:
    """Run a handler; whatever it raises becomes an answer, so that no traceback with text in it is ever written."""
    try:
        gate.door.headers(request)
        return await handler(gate, request)
    except Gone:
        return Response(status_code=499)
    except Exception as error:
        return _failure(api_error(error))


def _failure(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, dict(error.headers))


async def _unrouted(_: Request, error: Exception) -> Response:
    """A path or method that is not here."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, message = ("not_found", "there is nothing here") if status == 404 else ("not_allowed", "not allowed here")
    return _failure(ApiError(status, message, code))


async def _completed(surface: Surface, gate: Gateway, request: Request) -> Response:
    """A guarded call, counted whatever becomes of it."""
    call = None
    try:
        key = gate.door.key(request)
        gate.door.count(key)
        if gate.tally.in_flight >= gate.settings.max_in_flight:
            raise ApiError(503, "too many calls are under way; try again", "overloaded", headers={"retry-after": "1"})
        call = _Call(gate, key, surface)
        gate.tally.in_flight += 1
        try:
            return await call.answered(request)
        finally:
            if not call.streaming:
                gate.tally.in_flight -= 1
    except (Gone, asyncio.CancelledError):
        gate.tally.left(surface)
        raise
    except Exception as error:
        failure = api_error(error)
        if call is None or not call.counted:
            gate.tally.failed(surface, failure.code or "error")
        return _failure(failure)


@dataclass(slots=True)
class _Call:
    """One guarded call."""

    gate: Gateway
    key: Key
    surface: Surface
    streaming: bool = False
    counted: bool = False
    begun_s: float = field(default_factory=time.perf_counter)

    async def answered(self, request: Request) -> Response:
        """Read, ask, answer."""
        body = await self.gate.door.body(request)
        reading = functools.partial(_read, self.surface, body, self.key)
        asked, conversation = await run_in_threadpool(reading) if len(body) > LARGE_BODY_BYTES else reading()
        del body
        if asked.model != self.gate.settings.model:
            raise ApiError(404, "this model is not served here", "model_not_found", "model")
        principal = self.key.principal(asked.named(request.headers))
        self.gate.accounts.saw(self.gate.shield.policy, principal)
        ask: dict[str, Any] = {"principal": principal, "schema": asked.schema, "options": asked.options}
        if asked.stream and self.key.stream:
            return await self._streamed(request, asked, self.gate.shield.astream(conversation, **ask), principal)
        reply = await _unless_gone(request, self.gate.shield.ainvoke(conversation, **ask))
        self._counted(reply, principal)
        headers = self._headers(asked, reply)
        if asked.stream:
            once = written(chunks(asked), StreamEvent(reply.text or "", reply))
            return Response(once, headers=headers, media_type="text/event-stream")
        return JSONResponse(answer(asked, reply), headers=headers)

    async def _streamed(
        self, request: Request, asked: Asked, events: AsyncIterator[StreamEvent], principal: Principal
    ) -> Response:
        """A stream. Its first event is awaited before the status is sent, so that what fails at once is told by it."""
        try:
            first = await _unless_gone(request, _next(events))
            if first.reply is not None:
                self._counted(first.reply, principal)
        except BaseException:
            await _closed(events)
            raise
        self.streaming = True
        stream = _Stream(self._frames(chunks(asked), first, events), headers=self._headers(asked, first.reply))
        stream.after = functools.partial(self._ended, events)
        return stream

    async def _frames(
        self, writer: Chunks, first: StreamEvent, events: AsyncIterator[StreamEvent]
    ) -> AsyncIterator[bytes]:
        try:
            yield written(writer, first)
            async for event in events:
                if event.reply is not None:
                    self._counted(event.reply)
                yield written(writer, event)
        except Exception as error:
            failure = api_error(error)
            self.counted = True
            self.gate.tally.failed(self.surface, failure.code or "error")
            yield writer.error(failure)

    async def _ended(self, events: AsyncIterator[StreamEvent]) -> None:
        await _closed(events)
        self.gate.tally.in_flight -= 1
        if not self.counted:
            self.gate.tally.left(self.surface)

    def _counted(self, reply: Reply, principal: Principal | None = None) -> None:
        """Count a reply. Raises `ApiError` where a used-up budget is an error: it is counted as the refusal that it is."""
        self.counted = True
        self.gate.tally.replied(self.surface, reply, time.perf_counter() - self.begun_s)
        if self.key.over_budget == "error" and principal is not None:
            policy = self.gate.shield.policy.for_tenant(self.key.tenant)
            rule = reply.refusal.rule.removeprefix("budget.") if reply.refusal else ""
            windows = [limit.window for limit in policy.budget.limits if limit.scope == rule and limit.window]
            if (error := budget_error(reply, min(windows, default=None))) is not None:
                raise error

    def _headers(self, asked: Asked, reply: Reply | None) -> dict[str, str]:
        headers = {"cache-control": "no-store"}
        if asked.hints:
            headers["x-shieldkit-ignored"] = ", ".join(asked.hints)
        if reply is not None:
            headers["x-shieldkit-trace"] = reply.trace_id
            if reply.refusal is not None and self.key.show_rule:
                headers["x-shieldkit-rule"] = "".join(c for c in reply.refusal.rule if c.isascii() and c.isprintable())
        return headers


def _read(surface: Surface, body: bytes, key: Key) -> tuple[Asked, Conversation]:
    """The request, with the trust that its key has."""
    asked = read(surface, body)
    conversation = Conversation.of(asked.messages)
    if key.may_instruct:
        return asked, conversation
    if asked.schema not in (None, {"type": "object"}):
        message = "this key may not instruct the model, and so may not send a schema"
        raise ApiError(403, message, "forbidden", "response_format")
    return asked.distrusted(), conversation.distrusted()


class _Stream(StreamingResponse):
    """A stream that is cleaned up after, also when its client left before it had begun."""

    media_type = "text/event-stream"
    after: Callable[[], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self.after()


async def _next(events: AsyncIterator[StreamEvent]) -> StreamEvent:
    return await anext(events)


async def _closed(events: AsyncIterator[StreamEvent]) -> None:
    """Close a stream that may not be at its end: the model stops, and what it had reserved is given back."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; when the client leaves before, stop it, and raise `Gone`."""
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for made in (task, leaving):
            made.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await made


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# -- the other routes -----------------------------------------------------------------------------------------------


async def _models(gate: Gateway, request: Request) -> Response:
    gate.door.key(request)
    name = gate.settings.model
    model = {"id": name, "object": "model", "created": int(gate.tally.started_s), "owned_by": "shieldkit"}
    wanted = request.path_params.get("name")
    if wanted is None:
        return JSONResponse({"object": "list", "data": [model]})
    if wanted != name:
        raise ApiError(404, "this model is not served here", "model_not_found", "model")
    return JSONResponse(model)


async def _health(_: Gateway, __: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _ready(gate: Gateway, _: Request) -> Response:
    ready = not gate.draining and gate.tally.in_flight < gate.settings.max_in_flight
    return JSONResponse({"status": "ready" if ready else "busy"}, 200 if ready else 503)


async def _page(gate: Gateway, request: Request) -> Response:
    gate.door.role(request, "admin")
    return dashboard.page(gate.shield, gate.settings.model, gate.tally, gate.accounts, gate.ledger)


async def _live(gate: Gateway, request: Request) -> Response:
    gate.door.role(request, "admin")
    return dashboard.live(gate.shield, gate.settings.model, gate.tally, gate.accounts, gate.ledger)
