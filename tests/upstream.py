"""A model server on a real socket that does what a test tells it to, down to the bytes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Handler = Callable[["Exchange"], None]
MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "somebody", "max_model_len": 4096}]}


@dataclass
class Exchange:
    """One request, and the socket to answer it on."""

    connection: socket.socket
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    stopped: threading.Event

    def head(self, status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
        self.connection.sendall("\r\n".join([*lines, "connection: close", "", ""]).encode())

    def raw(self, data: bytes, status: str = "200 OK", **headers: str) -> None:
        self.head(status, **{"content_type": "application/json", "content_length": str(len(data)), **headers})
        self.connection.sendall(data)

    def json(self, value: Any, status: str = "200 OK", **headers: str) -> None:
        self.raw(json.dumps(value).encode(), status, **headers)

    def closed(self, within_s: float) -> bool:
        """Whether the caller closes the connection in that time."""
        self.connection.settimeout(within_s)
        try:
            return self.connection.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def wait(self, most_s: float = 20.0) -> None:
        """Say nothing, until the test is over or the caller leaves."""
        end = time.monotonic() + most_s
        while not self.stopped.is_set() and time.monotonic() < end and not self.closed(0.05):
            pass


def answer(text: str = "All is well.", **usage: int) -> dict[str, Any]:
    """A chat completion as OpenAI's."""
    return {
        "id": "1", "object": "chat.completion", "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, **usage},
    }  # fmt: skip


@dataclass
class Upstream:
    """`routes` are by path; what is not there is a 404. `requests` are all that came."""

    routes: dict[str, Handler]
    requests: list[Exchange] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def asked(self, path: str) -> list[Exchange]:
        return [r for r in self.requests if r.path == path]

    def serve(self, listening: socket.socket) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection:
            try:
                reader = connection.makefile("rb")
                method, path, _ = reader.readline().decode().split(" ")
                headers = {}
                while (line := reader.readline().decode().strip()) != "":
                    key, _, value = line.partition(":")
                    headers[key.lower()] = value.strip()
                body = reader.read(int(headers.get("content-length", 0)))
                exchange = Exchange(connection, method, path, headers, json.loads(body or b"null"), self.stopped)
                self.requests.append(exchange)
                self.routes.get(path, lambda e: e.json({"detail": "Not Found"}, "404 Not Found"))(exchange)
                connection.shutdown(socket.SHUT_WR)
            except (OSError, ValueError):
                pass


def says(value: Any) -> Handler:
    """A route that always answers with this JSON."""
    return lambda exchange: exchange.json(value)


@contextmanager
def upstream(chat: Handler | None = None, **routes: Handler) -> Iterator[Upstream]:
    """A server that gives the model `m` with 4096 tokens, and handles chat completions with `chat`."""
    own: dict[str, Handler] = {"/v1/models": says(MODELS)}
    if chat is not None:
        own["/v1/chat/completions"] = chat
    own |= {f"/{path.replace('__', '/')}": handler for path, handler in routes.items()}
    listening = socket.create_server(("127.0.0.1", 0))
    server = Upstream(own, url=f"http://127.0.0.1:{listening.getsockname()[1]}")
    thread = threading.Thread(target=server.serve, args=(listening,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)
