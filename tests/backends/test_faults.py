"""What a server may do wrong, on real sockets: each ends in a typed error, in time, with nothing left reserved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from shieldkit import BackendError, CallOptions, Policy, Principal, Shield, Usage
from shieldkit.backends import CompletionRequest, OpenAICompatible
from shieldkit.backends.chat import Gathered
from shieldkit.backends.wire import KEEPALIVE_S, _lines, _Sending
from shieldkit.budget import MemoryLedger
from shieldkit.conversation import Conversation
from shieldkit.errors import BackendBusy, BackendTimeout, ConfigurationError, ContextExceeded
from shieldkit.policy.model import StreamingSettings
from tests.scripted import settled
from tests.upstream import Exchange, Handler, Upstream, answer, says, upstream

SECRET = "zanzibar-pelican"
TIMEOUT_S = 2.0
WHO = Principal(user="u")


def policy(timeout_s: float) -> Policy:
    return Policy.from_yaml(
        f"name: faults\nmodel: {{timeout: {timeout_s}s}}\ncontext: {{max_output_tokens: 64}}\n"
        "budget: {limits: [{scope: user, window: 1h, total_tokens: 5000}]}\nguards: {markers: {}, schema: {}}"
    )


POLICY, PATIENT = policy(TIMEOUT_S), policy(30.0)
"""What must run into its time has little of it; what must fail otherwise has enough, also on a busy machine."""


class Guarded:
    """A shield before a server, and what its ledger says."""

    def __init__(self, server: Upstream, rules: Policy = PATIENT, **options: Any) -> None:
        self.ledger = MemoryLedger()
        self.backend = OpenAICompatible(f"{server.url}/v1", dialect="plain", **options)
        self.shield = Shield(rules, self.backend, ledger=self.ledger)

    @property
    def used(self) -> int:
        """Tokens spent or held."""
        return self.ledger.used(WHO.account("user"), 3600.0).total_tokens

    def close(self) -> None:
        self.shield.close()
        self.backend.close()


@contextlib.contextmanager
def guarded(chat: Handler, rules: Policy = PATIENT) -> Iterator[tuple[Guarded, Upstream]]:
    with upstream(chat) as server:
        made = Guarded(server, rules)
        try:
            yield made, server
        finally:
            made.close()


def reset(exchange: Exchange) -> None:
    exchange.head(content_type="application/json", content_length="1000")
    exchange.connection.sendall(b'{"choices": [{"mess')
    exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.connection.close()


def hang(exchange: Exchange) -> None:
    exchange.wait()


def drip(exchange: Exchange) -> None:
    data = json.dumps(answer()).encode()
    exchange.head(content_type="application/json", content_length=str(len(data)))
    for byte in data:
        exchange.connection.sendall(bytes([byte]))
        if exchange.stopped.wait(0.05):
            return


def drip_of_headers(exchange: Exchange) -> None:
    exchange.connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(1000):
        exchange.connection.sendall(f"x-{number}: y\r\n".encode())
        if exchange.stopped.wait(0.05):
            return


def huge(exchange: Exchange) -> None:
    exchange.head(content_type="application/json")
    chunk = b" " * 1_000_000
    for _ in range(100):
        exchange.connection.sendall(chunk)


def huge_error(exchange: Exchange) -> None:
    exchange.head("500 Internal Server Error", content_type="text/plain")
    for _ in range(100):
        exchange.connection.sendall(SECRET.encode() * 65_536)


def streams(exchange: Exchange) -> None:
    exchange.head(content_type="text/event-stream")
    exchange.connection.sendall(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n')


def compressed(exchange: Exchange) -> None:
    exchange.raw(b"\x1f\x8b", content_encoding="gzip")


FAULTS: dict[str, tuple[Handler, type[BackendError], str]] = {
    "reset in the body": (reset, BackendError, "broke"),
    "hang": (hang, BackendTimeout, "no answer"),
    "slow drip": (drip, BackendTimeout, "no answer"),
    "slow drip of headers": (drip_of_headers, BackendTimeout, "no answer"),
    "closes without a word": (lambda e: None, BackendError, "broke"),
    "429": (lambda e: e.json({"error": SECRET}, "429 Too Many Requests"), BackendBusy, "429"),
    "503": (lambda e: e.json({"error": SECRET}, "503 Service Unavailable"), BackendBusy, "503"),
    "500": (lambda e: e.json({"error": SECRET}, "500 Internal Server Error"), BackendError, "500"),
    "400": (lambda e: e.json({"error": SECRET}, "400 Bad Request"), BackendError, "400"),
    "401": (lambda e: e.json({"error": SECRET}, "401 Unauthorized"), BackendError, "api_key"),
    "redirect": (lambda e: e.raw(b"", "307 Temporary Redirect", location="http://127.0.0.1:9/"), BackendError, "redirects"),
    "does not fit": (
        lambda e: e.json({"error": {"message": f"This model's maximum context length is 5 {SECRET}"}}, "400 Bad Request"),
        ContextExceeded, "context",
    ),
    "truncated JSON": (lambda e: e.raw(b'{"choices": [{"message": {"content": "' + SECRET.encode()), BackendError, "JSON"),
    "deep JSON": (lambda e: e.raw(b"[" * 100_000), BackendError, "JSON"),
    "wrong content type": (lambda e: e.raw(b"<html>", content_type="text/html"), BackendError, "JSON"),
    "100 MB": (huge, BackendError, "longer than"),
    "100 MB announced": (lambda e: e.raw(b"{", content_length="100000000"), BackendError, "longer than"),
    "100 MB of an error": (huge_error, BackendError, "500"),
    "ignores max_tokens": (says(answer("word " * 500, completion_tokens=500)), BackendError, "64 tokens"),
    "ignores max_tokens and lies": (says(answer("x" * 70_000, completion_tokens=5)), BackendError, "allowed"),
    "streams unasked": (streams, BackendError, "streams"),
    "compresses unasked": (compressed, BackendError, "encoded"),
    "no choices": (says({"choices": []}), BackendError, "form"),
    "no message": (says({"choices": [{"index": 0}]}), BackendError, "message"),
    "content that is a number": (says(answer(7)), BackendError, "text"),  # type: ignore[arg-type]
    "a list": (says([1]), BackendError, "form"),
}  # fmt: skip


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("name", FAULTS)
async def test_every_fault_is_a_typed_error_in_time_and_costs_what_the_model_may_have_worked(
    name: str, how: str
) -> None:
    handler, kind, words = FAULTS[name]
    late = kind is BackendTimeout
    with guarded(handler, POLICY if late else PATIENT) as (it, server):
        start = time.monotonic()
        with pytest.raises(kind) as caught:
            if how == "sync":
                it.shield.invoke("hello", principal=WHO)
            else:
                await it.shield.ainvoke("hello", principal=WHO)
        assert time.monotonic() - start < (TIMEOUT_S if late else 30.0) + 2.0
        assert words in str(caught.value)
        assert SECRET not in str(caught.value)
        assert (it.used > 64) is late  # a model that was late has worked: prompt and the most that it may answer
        server.routes["/v1/chat/completions"] = says(answer())
        assert it.shield.invoke("hello", principal=WHO).text == "All is well."


def test_a_server_that_is_not_there_is_an_error_at_start_up_and_in_a_call() -> None:
    with upstream(says(answer())) as server:
        it = Guarded(server)
    with pytest.raises(BackendError, match="cannot be reached"):
        it.shield.invoke("hello", principal=WHO)
    assert it.used == 0
    it.close()
    with pytest.raises(ConfigurationError, match="base_url"):
        Shield(POLICY, OpenAICompatible(f"{server.url}/v1"))


@contextlib.contextmanager
def connects_to_nobody(rules: Policy, **options: Any) -> Iterator[Guarded]:
    """A shield whose server was there at start-up, and then accepts no connection: its line is full."""
    with upstream(says(answer())) as server:
        it = Guarded(server, rules, **options)
    port = int(server.url.rpartition(":")[2])
    with contextlib.ExitStack() as closing:
        closing.callback(it.close)
        listening = closing.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        for _ in range(4):
            waiting = closing.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        time.sleep(KEEPALIVE_S + 0.1)  # connections from start-up are not used again
        yield it


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("rules", "options", "words"),
    [(PATIENT, {"connect_timeout_s": 0.3}, "reached in time"), (POLICY, {}, "no answer within")],
    ids=["connecting has its time", "the call has its time"],
)
def test_a_connection_that_is_never_made_costs_nothing(
    rules: Policy, options: dict[str, Any], words: str, streams: bool
) -> None:
    rules = rules.model_copy(update={"streaming": StreamingSettings(mode="windowed")}) if streams else rules
    with connects_to_nobody(rules, **options) as it:
        with pytest.raises(BackendTimeout, match=words):
            list(it.shield.stream("hello", principal=WHO)) if streams else it.shield.invoke("hello", principal=WHO)
        assert settled(it.ledger)
        assert it.used == 0


async def test_who_leaves_while_a_connection_is_made_pays_nothing() -> None:
    with connects_to_nobody(PATIENT) as it:
        task = asyncio.create_task(it.shield.ainvoke("hello", principal=WHO))
        await asyncio.sleep(0.5)
        assert it.used > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(settled, it.ledger)
        assert it.used == 0


async def test_who_was_told_that_it_costs_nothing_has_nothing_sent() -> None:
    request = CompletionRequest(Conversation.of("hi"), 5)
    sending = _Sending(request)
    await sending.event("connection.connect_tcp.started", {})
    assert request.used(Usage(7, 5)) == Usage()
    request.cancelled.set()
    with pytest.raises(BackendError, match="gone"):
        await sending.event("http11.send_request_headers.started", {})
    assert request.used(Usage(7, 5)) == Usage()


async def test_from_the_first_byte_that_is_sent_the_whole_is_held() -> None:
    request = CompletionRequest(Conversation.of("hi"), 5)
    sending = _Sending(request)
    for event in ("connect_tcp.started", "connect_tcp.complete", "start_tls.started"):
        await sending.event(f"connection.{event}", {})
        assert request.used(Usage(7, 5)) == Usage()
    for event in ("http11.send_request_headers.started", "connection.connect_tcp.started"):
        await sending.event(event, {})
        assert request.used(Usage(7, 5)) == Usage(7, 5)


@pytest.mark.parametrize(("header", "least", "most"), [("7", 7, 7), ("0.5", 0.5, 0.5), ("99999999", 3600, 3600),
    ("Wed, 21 Oct 2065 07:28:00 GMT", 3600, 3600), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0)])  # fmt: skip
def test_a_busy_server_says_when_to_ask_again(header: str, least: float, most: float) -> None:
    with guarded(lambda e: e.json({}, "429 Too Many Requests", retry_after=header)) as (it, _):
        with pytest.raises(BackendBusy) as caught:
            it.shield.invoke("hello", principal=WHO)
        assert caught.value.retry_after_s is not None
        assert least <= caught.value.retry_after_s <= most
        assert it.used == 0


@pytest.mark.parametrize("header", ["soon", "-1", "nan", "1e9", "٧"])
def test_a_time_that_is_none_is_no_time(header: str) -> None:
    def busy(exchange: Exchange) -> None:
        data = f"HTTP/1.1 429 X\r\nretry-after: {header}\r\ncontent-length: 0\r\n\r\n"
        exchange.connection.sendall(data.encode())

    with guarded(busy) as (it, _), pytest.raises(BackendBusy) as caught:
        it.shield.invoke("hello", principal=WHO)
    assert caught.value.retry_after_s is None


async def test_a_cancelled_caller_closes_the_connection_upstream() -> None:
    here, gone = threading.Event(), threading.Event()

    def slow(exchange: Exchange) -> None:
        here.set()
        if exchange.closed(5.0):
            gone.set()

    with guarded(slow, PATIENT) as (it, _):
        task = asyncio.create_task(it.shield.ainvoke("hello", principal=WHO))
        assert await asyncio.to_thread(here.wait, 5)
        assert it.used > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone.wait, 3)
        assert await asyncio.to_thread(settled, it.ledger)
        assert it.used > 64


def test_a_deadline_closes_the_connection_upstream() -> None:
    gone = threading.Event()
    with guarded(lambda e: gone.set() if e.closed(8.0) else None, POLICY) as (it, _):
        with pytest.raises(BackendTimeout):
            it.shield.invoke("hello", principal=WHO)
        assert gone.wait(3)


def test_closing_the_backend_ends_calls_under_way() -> None:
    here = threading.Event()

    def slow(exchange: Exchange) -> None:
        here.set()
        exchange.wait()

    with upstream(slow) as server:
        backend = OpenAICompatible(f"{server.url}/v1", dialect="plain")
        failed: list[BaseException] = []

        def call() -> None:
            try:
                backend.complete(CompletionRequest(Conversation.of("hi"), 5, deadline=time.monotonic() + 30))
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=call)
        backend.open()
        thread.start()
        assert here.wait(5)
        backend.close()
        thread.join(5)
        assert isinstance(failed[0], BackendError)
        with pytest.raises(BackendError, match="closed"):
            backend.complete(CompletionRequest(Conversation.of("hi"), 5, deadline=time.monotonic() + 30))


def test_the_environments_keys_are_for_other_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, SECRET)
    with guarded(says(answer())) as (it, server):
        it.shield.invoke("hello", principal=WHO)
        assert server.requests
        for request in server.requests:
            assert SECRET not in str(request.headers)


def test_a_key_of_ones_own_is_sent_with_every_request() -> None:
    with upstream(says(answer())) as server:
        backend = OpenAICompatible(f"{server.url}/v1", api_key="k1")
        backend.complete(CompletionRequest(Conversation.of("hi"), 5, deadline=time.monotonic() + 10))
        backend.close()
        assert {r.headers.get("authorization") for r in server.requests} == {"Bearer k1"}


def test_nothing_is_streamed_and_no_more_asked_for_than_is_allowed() -> None:
    with guarded(says(answer())) as (it, server):
        it.shield.invoke("hello", principal=WHO, options=CallOptions(max_output_tokens=7, stop=("END",), seed=3))
        (asked,) = server.asked("/v1/chat/completions")
        assert asked.body == {
            "model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": False, "max_tokens": 7,
            "temperature": 0.0, "stop": ["END"], "seed": 3,
        }  # fmt: skip


# -- streams ---------------------------------------------------------------------------------------------------------


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def stream_of(*parts: bytes, then: Handler | None = None) -> Handler:
    def handler(exchange: Exchange) -> None:
        exchange.head(content_type="text/event-stream")
        for part in parts:
            exchange.connection.sendall(part)
        if then is not None:
            then(exchange)

    return handler


def request(seconds: float = 30.0) -> CompletionRequest:
    return CompletionRequest(Conversation.of("hi"), 16, deadline=time.monotonic() + seconds)


USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}\n\ndata: [DONE]\n\n'


def test_a_stream_gives_its_bits_and_then_the_whole() -> None:
    with upstream(stream_of(event("Hel"), b": ping\n\n", event("lo"), event("", "stop"), USAGE)) as server:
        backend = OpenAICompatible(f"{server.url}/v1", dialect="plain")
        *bits, whole = backend.stream(request())
        assert bits == ["Hel", "lo"]
        assert not isinstance(whole, str)
        assert whole.message["content"] == "Hello"
        assert (whole.input_tokens, whole.output_tokens, whole.finish_reason) == (9, 2, "stop")
        assert server.asked("/v1/chat/completions")[0].body["stream"] is True
        backend.close()


@pytest.mark.parametrize(("delta", "most"), [
    ({"role": "assistant"}, 5), ({"reasoning_content": "hm, " * 50}, 205), ({"reasoning": "\U00012000"}, 9),
    ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "x" * 200}}]}, 206),
])  # fmt: skip
def test_reasoning_and_calls_count_for_who_leaves_a_stream(delta: dict[str, object], most: int) -> None:
    first = b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"
    with upstream(stream_of(first, event("Hello"), then=hang)) as server:
        backend = OpenAICompatible(f"{server.url}/v1", dialect="plain")
        asked = CompletionRequest(Conversation.of("hi"), 500, deadline=time.monotonic() + 30)
        events = backend.stream(asked)
        assert next(events) == "Hello"
        events.close()  # type: ignore[attr-defined]
        assert asked.progress.most_output_tokens == most
        backend.close()


LONG = b'data: {"choices": [], "x": "' + b"x" * 4_000_000 + b'"}\n\n'
STREAM_FAULTS: dict[str, tuple[Handler, type[BackendError]]] = {
    "breaks off": (stream_of(event("Hel")), BackendError),
    "hangs": (stream_of(event("Hel"), then=hang), BackendTimeout),
    "is no JSON": (stream_of(b"data: {\n\n"), BackendError),
    "is an error": (stream_of(event("Hel"), b'data: {"error": {"message": "x"}}\n\n'), BackendError),
    "does not stream": (says(answer()), BackendError),
    "never ends": (stream_of(*[event("x" * 1000)] * 200), BackendError),
    "has no line ends": (stream_of(b"x" * 17_000_000), BackendError),
    "has a line as long as no event is": (stream_of(LONG, event("", "stop")), BackendError),
    "500": (lambda e: e.json({}, "500 Internal Server Error"), BackendError),
}


@pytest.mark.parametrize("name", STREAM_FAULTS)
def test_every_fault_of_a_stream_is_a_typed_error_in_time(name: str) -> None:
    handler, kind = STREAM_FAULTS[name]
    with upstream(handler) as server:
        backend = OpenAICompatible(f"{server.url}/v1", dialect="plain")
        backend.open()
        start = time.monotonic()
        with pytest.raises(kind):
            list(backend.stream(request(2.0 if kind is BackendTimeout else 30.0)))
        assert time.monotonic() - start < 33
        backend.close()


def test_a_line_in_many_small_chunks_takes_time_as_its_length() -> None:
    class Drips:
        async def aiter_raw(self) -> AsyncIterator[bytes]:
            for _ in range(10_000):
                yield b"x" * 200
            yield b"\r\ny\n\nz"

    async def read() -> list[bytes]:
        return [line async for line in _lines(Drips(), 10_000_000)]

    start = time.process_time()
    assert asyncio.run(read()) == [b"x" * 2_000_000, b"y", b"", b"z"]
    assert time.process_time() - start < 2


@pytest.mark.parametrize("delta", [
    {"reasoning": "aaaaaaaa"}, {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "aaaaaaaa"}}]},
])  # fmt: skip
def test_an_answer_in_many_small_bits_takes_time_as_its_length(delta: dict[str, object]) -> None:
    whole, start = Gathered(), time.process_time()
    for _ in range(100_000):
        whole.add({"choices": [{"delta": delta}]})
    whole.add({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    said = json.dumps(whole.answer().message)
    assert time.process_time() - start < 1.2
    assert "aaaaaaaa" * 100_000 in said


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_closing_or_cancelling_a_stream_closes_the_connection_upstream(how: str) -> None:
    gone = threading.Event()
    with upstream(stream_of(event("Hel"), then=lambda e: gone.set() if e.closed(5.0) else None)) as server:
        backend = OpenAICompatible(f"{server.url}/v1", dialect="plain")
        asked = request(30)
        events = backend.stream(asked)
        assert next(events) == "Hel"
        if how == "close":
            events.close()  # type: ignore[attr-defined]
        else:
            asked.cancelled.set()
            with pytest.raises(BackendError):
                next(events)
        assert gone.wait(3)
        backend.close()
