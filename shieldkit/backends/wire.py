"""HTTP to a model server, where every answer is input and every call ends on time.

On the `openai` client, in an event loop of its own (`loop.py`), so that a call can be stopped while it connects, while the
server computes, and while the body drips in. Stopping closes the connection, and so ends the generation. What a server
sends is bounded in time, size and kind before it is parsed; error bodies are not kept; redirects are not followed; an API
key in the environment is for another server and not sent.

`openai_compatible.py` speaks through it to servers. `wire/` among the adapters is something else: the same API seen from the
other end, as the requests of clients and the answers to them.
"""

from __future__ import annotations

import contextvars
import email.utils
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from shieldkit.backends.base import CompletionRequest
from shieldkit.backends.loop import LoopThread
from shieldkit.errors import (
    BackendBusy,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigurationError,
    ContextExceeded,
    MissingExtra,
)

T = TypeVar("T")

MAX_RESPONSE_BYTES = 16_000_000
MAX_LINE_BYTES = 4_000_000
"""Of one event of a stream: more than a whole answer is."""
MAX_ERROR_BYTES = 16_384
MAX_RETRY_AFTER_S = 3600.0
KEEPALIVE_S = 2.0
"""uvicorn, and so vLLM and others, close idle connections after 5 s; one that is used in that moment is a failed call."""
_JSON, _EVENTS, _LINES = "application/json", "text/event-stream", "application/x-ndjson"
# How servers say that a prompt does not fit: OpenAI's code, llama-server's type, vLLM's and SGLang's words.
_TOO_LONG = (
    b"context_length_exceeded", b"exceed_context_size", b"maximum context length", b"context length is", b"context window",
    b"must have less than", b"is longer than the model",
)  # fmt: skip


class RequestRefused(BackendError):
    """The server refused a request as wrong (HTTP 4xx)."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server refused the request (HTTP {status})")
        self.status = status


class Wire:
    """A connection to one server. `root_url` is the server's; the OpenAI protocol is at `base_url`, usually below it."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None,
        headers: Mapping[str, str],
        connect_timeout_s: float,
        max_response_bytes: int,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.root_url = self.base_url.removesuffix("/v1")
        self.max_response_bytes = max_response_bytes
        self._api_key = api_key
        self._headers = dict(headers)
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._pid = 0
        self._loop = LoopThread("shieldkit-wire")
        self._client: Any = None
        self._http: Any = None

    # -- calls ------------------------------------------------------------------------------------------------------

    def get(self, path: str, *, timeout_s: float = 30.0) -> Any:
        """The JSON that the server gives for a path below its root. Raises `BackendError` and its kin."""
        self._open()  # loading the client takes its time, which is not the server's
        return self._run(lambda: self._plain("GET", path, None), time.monotonic() + timeout_s)

    def post(self, path: str, body: Mapping[str, Any], *, deadline: float) -> Any:
        """The JSON that the server answers to a post below its root."""
        return self._run(lambda: self._plain("POST", path, body), deadline)

    def create(self, path: str, body: Mapping[str, Any], *, request: CompletionRequest, max_bytes: int) -> Any:
        """The JSON of one completion, from `chat/completions` or `completions` through the client, or below the root.

        While a connection is made, `request.progress` says that nothing was used.
        """
        sending = _Sending(request)
        return self._run(lambda: self._created(path, body, max_bytes, sending), request.deadline, request.cancelled)

    def events(
        self, path: str, body: Mapping[str, Any], *, request: CompletionRequest, max_bytes: int
    ) -> Iterator[Any]:
        """The JSON values of a streamed completion. Closing the iterator closes the connection. As to progress see `create`."""
        self._open()
        sending = _Sending(request)
        values = self._loop.iterate(
            lambda: self._streamed(path, body, max_bytes, sending), request.deadline, request.cancelled
        )
        try:
            yield from values
        except Exception as error:
            raise _mapped(error) from None

    def close(self) -> None:
        """Close all connections. Calls under way fail."""
        client = self._client

        async def end() -> None:
            if client is not None:
                await client.close()

        self._loop.close(end)

    # -- the client -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """The client, made when first needed; it belongs to the loop, which does not live through a fork."""
        with self._lock:
            if self._client is None or self._pid != os.getpid():
                self._client, self._pid = self._made(), os.getpid()

    def _made(self) -> Any:
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("the openai client", "openai", name=error.name) from None
        limits = _http(openai.DefaultAsyncHttpxClient).Limits(
            max_connections=1000, max_keepalive_connections=100, keepalive_expiry=KEEPALIVE_S
        )
        self._http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, limits=limits, event_hooks={"request": [_followed], "response": [_judged]}
        )
        # The empty ones are said, so that keys and ids that the environment holds for another server are not sent to this.
        return openai.AsyncOpenAI(
            base_url=self.base_url, api_key=self._api_key or "none", organization="", project="", max_retries=0,
            http_client=self._http, default_headers=self._sent_headers(), timeout=None,
        )  # fmt: skip

    def _sent_headers(self) -> dict[str, str]:
        return {"Accept-Encoding": "identity", **self._headers}

    def _run(
        self, call: Callable[[], Coroutine[Any, Any, T]], deadline: float, cancelled: threading.Event | None = None
    ) -> T:
        """Run in the loop, until the deadline or until the caller leaves."""
        self._open()
        try:
            return self._loop.run(call, deadline, cancelled)
        except Exception as error:
            raise _mapped(error) from None

    # -- in the loop ------------------------------------------------------------------------------------------------

    async def _plain(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        async with self._opened(method, path, body) as response:
            return _parsed(await _read(response, self.max_response_bytes, _JSON))

    async def _created(self, path: str, body: Mapping[str, Any], max_bytes: int, sending: _Sending) -> Any:
        _SENDING.set(sending)
        async with self._completing(path, body) as response:
            return _parsed(await _read(response, min(max_bytes, self.max_response_bytes), _JSON))

    async def _streamed(
        self, path: str, body: Mapping[str, Any], max_bytes: int, sending: _Sending
    ) -> AsyncIterator[Any]:
        """Server-sent events, or a JSON value a line; each line and all of them together are bounded."""
        _SENDING.set(sending)
        async with self._completing(path, body) as response:
            kind = _kind(response)
            if kind not in (_EVENTS, _LINES):
                raise BackendError("the server did not answer with a stream of events")
            async for line in _lines(response, min(max_bytes, self.max_response_bytes)):
                data = line if kind == _LINES else line[5:].strip() if line.startswith(b"data:") else b""
                if data == b"[DONE]":
                    return
                if data.strip():
                    yield _parsed(data)

    @asynccontextmanager
    async def _completing(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        """A response whose body is not read yet."""
        client, timeout = self._client, self._timeout()
        if path == "chat/completions":
            rest = {k: v for k, v in body.items() if k not in ("model", "messages", "stream")}
            making = client.chat.completions.with_streaming_response.create(
                model=body["model"], messages=body["messages"], stream=body["stream"], extra_body=rest, timeout=timeout
            )
        elif path == "completions":
            rest = {k: v for k, v in body.items() if k not in ("model", "prompt", "stream")}
            making = client.completions.with_streaming_response.create(
                model=body["model"], prompt=body["prompt"], stream=body["stream"], extra_body=rest, timeout=timeout
            )
        else:
            async with self._opened("POST", path, body) as response:
                yield response
            return
        async with making as made:
            yield made.http_response

    @asynccontextmanager
    async def _opened(self, method: str, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[Any]:
        headers = self._sent_headers()
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        async with self._http.stream(
            method, f"{self.root_url}/{path}", json=body, headers=headers, timeout=self._timeout()
        ) as response:
            yield response

    def _timeout(self) -> Any:
        """Only connecting has a time of its own; the whole call has the deadline."""
        import openai

        return openai.Timeout(None, connect=self._connect_timeout_s)


def _http(client: type) -> Any:
    """The HTTP library below the openai client: httpx, or httpx2."""
    return __import__(client.__mro__[1].__module__.split(".")[0])


# -- what was sent ----------------------------------------------------------------------------------------------------


class _Sending:
    """Follows a request to the server: as long as a connection is still being made, no model can have worked.

    By the events of the HTTP library. Where it tells none, nothing is known, and what was held is charged.
    """

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._held: tuple[int | None, int | None] | None = None
        self._sent = False

    async def event(self, name: str, _: Any) -> None:
        """One step of the HTTP library, before it is done. Raises `BackendError` in place of sending what nobody waits for."""
        progress = self._request.progress
        if ".send_" in name and not self._sent:
            self._sent = True
            if self._held is not None:
                # Whoever left while the connection was made has been told that it costs nothing.
                if self._request.expired():
                    raise BackendError("the caller is gone")
                progress.output_tokens, progress.input_tokens = self._held
        elif ".connect_" in name and not self._sent and self._held is None:
            self._held = progress.output_tokens, progress.input_tokens
            progress.input_tokens = progress.output_tokens = 0


_SENDING: contextvars.ContextVar[_Sending | None] = contextvars.ContextVar("shieldkit_sending", default=None)


async def _followed(request: Any) -> None:
    sending = _SENDING.get()
    if sending is not None:
        request.extensions["trace"] = sending.event


# -- what comes back -------------------------------------------------------------------------------------------------


async def _judged(response: Any) -> None:
    """Before the body is read: a status that is no success ends the call, here, and not after a body of any size."""
    status = int(response.status_code)
    if status < 300:
        return
    if status in (429, 503):
        raise BackendBusy(f"the server has too much to do (HTTP {status})", retry_after_s(response.headers))
    if status in (400, 413, 422) and await _says_too_long(response):
        raise ContextExceeded("the server says that prompt and answer do not fit its context")
    if status in (401, 403):
        raise BackendError(f"the server does not take the key (HTTP {status}): set api_key")
    if 400 <= status < 500:
        raise RequestRefused(status)
    if status < 400:
        raise BackendError(f"the server redirects (HTTP {status}): set base_url to its own address")
    raise BackendUnavailable(f"the server failed (HTTP {status})")


async def _says_too_long(response: Any) -> bool:
    """Whether the first bytes of an error's body speak of the context. They are read for that alone."""
    seen = b""
    async for chunk in response.aiter_raw():
        seen += chunk
        if len(seen) >= MAX_ERROR_BYTES:
            break
    return any(words in seen[:MAX_ERROR_BYTES].lower() for words in _TOO_LONG)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`Retry-After`, in seconds or as a date (RFC 9110, 10.2.3); None where it is neither. At most an hour."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value) if value.isascii() and value.replace(".", "", 1).isdecimal() else None
        if seconds is None:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _kind(response: Any) -> str:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BackendError("the server sent an encoded body, which was not asked for")
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def _read(response: Any, most: int, kind: str) -> bytes:
    """The whole body, if it is of the kind that was asked for and not longer than `most`."""
    if _kind(response) != kind:
        streams = " (it streams, and was asked not to)" if _kind(response) == _EVENTS else ""
        raise BackendError(f"the server did not answer with JSON{streams}")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise BackendError(f"the server's answer is longer than {most} bytes")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > most:
            raise BackendError(f"the server's answer is longer than {most} bytes")
    return bytes(body)


async def _lines(response: Any, most: int) -> AsyncIterator[bytes]:
    """Only what is new is looked through for a line's end: all calls share the loop, and small chunks are many."""
    total, line = 0, bytearray()
    async for chunk in response.aiter_raw():
        total += len(chunk)
        if total > most:
            raise BackendError(f"the server's answer is longer than {most} bytes")
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            _grow(line, end)
            yield bytes(line).rstrip(b"\r")
            line.clear()
        _grow(line, rest)
    if line.strip():
        yield bytes(line)


def _grow(line: bytearray, more: bytes) -> None:
    if len(line) + len(more) > MAX_LINE_BYTES:
        raise BackendError(f"the server's stream has a line longer than {MAX_LINE_BYTES} bytes")
    line += more


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BackendError("the server's answer is not whole JSON") from None


def _mapped(error: BaseException) -> BackendError | ConfigurationError:
    """An error of this tree, whatever the client wrapped it in. No word of the server's is kept."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (BackendError, ConfigurationError)):
            return cause
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return BackendTimeout("the server could not be reached in time")
        last, cause = cause, cause.__cause__
    if "Connect" in type(last).__name__ or isinstance(last, OSError):
        return BackendUnavailable(f"the server cannot be reached ({type(last).__name__})")
    return BackendUnavailable(f"the connection to the server broke ({type(last).__name__})")
