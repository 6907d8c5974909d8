"""ASGI middleware for an application of one's own: chosen routes have their JSON screened on the way in and out.

    app.add_middleware(ShieldMiddleware, shield=shield, routes=[Route("/chat", input=["message"], output=["answer"])])

Plain ASGI, with no framework behind it. The strings of a body are judged together; what is blocked ends the request
there, what is redacted is rewritten. The application gets the body written anew from what was judged, so that two JSON
parsers cannot read two things from one body. Whatever cannot be judged (another content type, a stream, a body that is too
large) does not pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from pydantic_core import from_json

from shieldkit.adapters import checks
from shieldkit.adapters.wire.errors import ApiError, api_error
from shieldkit.conversation import MAX_SEGMENTS
from shieldkit.errors import ConfigurationError
from shieldkit.outcome import Screening, Stage
from shieldkit.shield import Shield

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
Refusing: TypeAlias = Callable[[Screening], tuple[int, Any]]

MAX_BODY_BYTES = 8 * 2**20
_CONTROLS = dict.fromkeys((*range(32), 127))
# What a path that an application sees does not hold: patterns, a query, escapes that the server has decoded.
_NEVER_MATCHES = re.compile(r"[\x00-\x1f\x7f{}*?#]|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True)
class Route:
    """A route to screen. `path` is exact, or ends in `/*` for all below it; neither a trailing slash nor a
    control character makes another path.

    `input` and `output` name what to judge in a request's and a response's body: `message`, `user.name`,
    `documents[].text`; a place that holds an object or a list means all strings in it. Where the body is of another shape
    than the name of a place, what stands there is judged as a whole, and so is a body that has none of the places. An
    empty `input` is the whole body; `output=None` leaves responses as they are. Raises `ConfigurationError` for what can
    match no request, since a route that is never taken would let every body pass unread.
    """

    path: str
    input: Sequence[str] = ()
    output: Sequence[str] | None = None

    def __post_init__(self) -> None:
        path = self.path
        if not isinstance(path, str) or not path.startswith("/") or _NEVER_MATCHES.search(path.removesuffix("/*")):
            problem = "is no path that a request can have, so that nothing would be judged"
            mend = 'Write it decoded and from its slash, as in "/chat"; "/users/*" is all below "/users"'
            raise ConfigurationError("Route.path", problem, mend=mend)
        _check_places("Route.input", self.input)
        if self.output is not None:
            _check_places("Route.output", self.output)

    def matches(self, path: str) -> bool:
        """Whether this route is the one of a request's path."""
        path = path.rstrip("/") or "/"
        if self.path.endswith("/*"):
            return path == self.path[:-2] or path.startswith(self.path[:-1])
        return path == (self.path.rstrip("/") or "/")


class ShieldMiddleware:
    """Screens the JSON bodies of `routes` by `shield`, which needs no backend.

    `tenant`: whose part of the policy holds. `refusal` makes status and body of what a refused request is answered;
    by default 403 and the policy's message. `max_body_bytes` bounds requests and screened responses. Raises
    `ConfigurationError` when no route is given, or something else in its place.
    """

    def __init__(
        self,
        app: App,
        shield: Shield,
        routes: Sequence[Route],
        *,
        tenant: str | None = None,
        refusal: Refusing | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        checks.shield(shield)
        _check_routes(routes)
        self.app = app
        self._shield, self._routes, self._tenant = shield, tuple(routes), tenant
        self._refusal, self._most = refusal or _refused, max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request. WebSockets on a screened route are closed: they cannot be judged as a whole."""
        route = None
        if scope["type"] in ("http", "websocket"):
            path = _path(scope)
            route = next((r for r in self._routes if r.matches(path)), None)
        if route is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._screened(route, scope, receive, send)

    async def _screened(self, route: Route, scope: Message, receive: Receive, send: Send) -> None:
        outgoing = _Outgoing(send, self._most) if route.output is not None else None
        try:
            scope, receive = await self._judged_request(route, scope, receive)
            if outgoing is None:
                await self.app(scope, receive, send)
                return
            await self.app(scope, receive, outgoing)
            await outgoing.finish(await self._judged(outgoing.body(), route.output or (), Stage.OUTPUT))
        except _Blocked as blocked:
            await _answer(send, *self._refusal(blocked.screening))
        except ApiError as error:
            await _answer(send, error.status, error.body())

    async def _judged_request(self, route: Route, scope: Message, receive: Receive) -> tuple[Message, Receive]:
        body = await self._read(scope, receive)
        if body is None:
            return scope, _replayed(b"", receive)
        judged = await self._judged(body, route.input, Stage.INPUT)
        length = (b"content-length", str(len(judged)).encode())
        kept = [h for h in scope["headers"] if h[0].lower() not in (b"content-length", b"transfer-encoding")]
        return {**scope, "headers": [*kept, length]}, _replayed(judged, receive)

    async def _read(self, scope: Message, receive: Receive) -> bytes | None:
        """The body, or None when there is none. Raises `ApiError` 413 and 415."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client has left")
            body += message.get("body", b"")
            if len(body) > self._most:
                raise ApiError(413, f"the body is larger than {self._most} bytes", "request_too_large")
            if not message.get("more_body"):
                break
        if not body:
            return None
        if not _is_json(scope["headers"]):
            raise ApiError(415, "content-type must be application/json", "unsupported_media_type")
        return bytes(body)

    async def _judged(self, body: bytes, places: Sequence[str], stage: Stage) -> bytes:
        """The body with what is redacted rewritten. Raises `_Blocked`, and `ApiError` for what cannot be judged."""
        try:
            value: Any = [from_json(body, allow_inf_nan=False)]
        except (ValueError, RecursionError):
            status = 400 if stage is Stage.INPUT else 502
            raise ApiError(status, "the body is not JSON", "invalid_json") from None
        ways = [_parts(place) for place in places]
        found = [place for way in ways for place in _places(value, 0, way)] or [(value, 0)]
        names: set[str] = set()
        strings = list(islice((string for place in found for string in _strings(*place, names)), MAX_SEGMENTS))
        if len(strings) == MAX_SEGMENTS:
            status = 413 if stage is Stage.INPUT else 502
            raise ApiError(status, f"the body holds {MAX_SEGMENTS} strings or more", "too_many_strings")
        told = ["\n".join(sorted(names))] if names else []
        if texts := [*told, *(holder[key] for holder, key in strings)]:
            passed, screening = await self._passed(texts, stage)
            if passed[: len(told)] != told:  # a name that is rewritten is another name
                raise _Blocked(screening)
            for (holder, key), text in zip(strings, passed[len(told) :], strict=True):
                holder[key] = text
        return json.dumps(value[0], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")

    async def _passed(self, texts: Sequence[str], stage: Stage) -> tuple[list[str], Screening]:
        """The texts of one body as they may go on. Raises `_Blocked`."""
        message = {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}
        try:
            screening = await self._shield.ascreen(message, stage=stage, tenant=self._tenant)
        except Exception as error:
            raise api_error(error) from None
        if not screening.allowed or screening.conversation is None:
            raise _Blocked(screening)
        return [segment.text for segment in screening.conversation.segments], screening


class _Blocked(Exception):
    def __init__(self, screening: Screening) -> None:
        super().__init__("blocked")
        self.screening = screening


class _Outgoing:
    """Holds a response back until it is judged."""

    def __init__(self, send: Send, most: int) -> None:
        self._send, self._most = send, most
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if len(self._body) > self._most:
                raise ApiError(502, "the response is too large to be judged", "response_too_large")
        else:
            raise ApiError(502, "the response cannot be judged", "response_unreadable")

    def body(self) -> bytes:
        """The whole body. Raises `ApiError` 502 when it is not JSON."""
        if self._start is None or not _is_json(self._start.get("headers", ())) or _is_encoded(self._start["headers"]):
            raise ApiError(502, "the response is not JSON, and so cannot be judged", "response_unreadable")
        return bytes(self._body)

    async def finish(self, body: bytes) -> None:
        """Send the response, with this body."""
        assert self._start is not None
        kept = [h for h in self._start.get("headers", ()) if h[0].lower() != b"content-length"]
        await self._send({**self._start, "headers": [*kept, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})


def _check_routes(routes: Any) -> None:
    are_routes = isinstance(routes, (list, tuple)) and all(isinstance(route, Route) for route in routes)
    if not are_routes or not routes:
        problem = "are not a list of Route" if not are_routes else "are none, so that nothing would be judged"
        raise ConfigurationError("routes", problem, mend='Give them as in routes=[Route("/chat")]')


def _check_places(field: str, places: Any) -> None:
    """One string would be read as a list of its letters: places that no body has."""
    if not isinstance(places, (list, tuple)) or not all(isinstance(place, str) for place in places):
        raise ConfigurationError(field, "is not a list of places", mend='Give a list, as in ["message", "user.name"]')


def _refused(screening: Screening) -> tuple[int, Any]:
    message = screening.refusal.message if screening.refusal is not None else "refused"
    return 403, {"error": {"message": message, "type": "content_filter", "param": None, "code": "content_filter"}}


async def _answer(send: Send, status: int, body: Any) -> None:
    data = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


def _path(scope: Message) -> str:
    """The path as the application's routes see it: without the path that the application is mounted at.

    Nor control characters: patterns that end in `$`, as Starlette's do, also match before a line break.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return path.translate(_CONTROLS) or "/"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives this body, and after it what comes from the client."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _header(headers: Any, wanted: bytes) -> bytes:
    return next((bytes(value) for name, value in headers if name.lower() == wanted), b"")


def _is_json(headers: Any) -> bool:
    kind = _header(headers, b"content-type").partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


def _is_encoded(headers: Any) -> bool:
    return _header(headers, b"content-encoding") not in (b"", b"identity")


def _parts(place: str) -> list[str]:
    return [p for p in place.replace("[]", ".[]").split(".") if p]


def _places(holder: Any, key: Any, way: list[str]) -> Iterator[tuple[Any, Any]]:
    """Where a way leads, as (container, key). Where the body is of another shape than the way, it ends."""
    value = holder[key]
    if way and isinstance(value, list) and way[0] == "[]":
        for index in range(len(value)):
            yield from _places(value, index, way[1:])
    elif way and isinstance(value, dict) and way[0] != "[]":
        if way[0] in value:
            yield from _places(value, way[0], way[1:])
    else:
        yield holder, key


def _strings(holder: Any, key: Any, names: set[str]) -> Iterator[tuple[Any, Any]]:
    """The strings at a place, as (container, key). The names in its objects, text of the client's too, go into `names`."""
    value = holder[key]
    if isinstance(value, str):
        yield holder, key
    elif isinstance(value, dict):
        names.update(value)
    below: Iterable[Any] = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for inner in below:
        yield from _strings(value, inner, names)
