"""uvicorn around the gateway: limits on headers, and an end that lets calls under way finish.

On SIGTERM or Ctrl-C no new connection is accepted, and calls under way have `drain_s` seconds; what is left then is
cancelled, and the model stops. An orderly end is no failure.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from shieldkit.adapters.gateway.door import MAX_HEADER_BYTES
from shieldkit.errors import ConfigurationError

HEADER_TIMEOUT_S = 15.0
KEEP_ALIVE_S = 75


class _Protocol(H11Protocol):
    """uvicorn's protocol, with a time limit for the headers too: a connection that says nothing is closed."""

    _slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def _watch(self) -> None:
        reading_headers = self.cycle is None or self.cycle.response_complete
        if reading_headers and self._slow is None:
            self._slow = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.close)
        elif not reading_headers and self._slow is not None:
            self._slow.cancel()
            self._slow = None


class _Server(uvicorn.Server):
    """Says when it listens, and tells the gateway that it drains."""

    def __init__(self, config: uvicorn.Config, gateway: Any, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway, self._ready = gateway, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._gateway.draining = True
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises `ConfigurationError`."""
    # The protocol is said, because asyncio turns Nagle's algorithm off only where it is: else each answer waits 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        problem = f"cannot listen on {host}:{port} ({getattr(error, 'strerror', None) or type(error).__name__})"
        raise ConfigurationError("--host, --port", problem, mend="Choose another; port 0 takes a free one") from None
    return made


def server(app: Starlette, *, drain_s: float = 30.0, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A uvicorn server for a gateway. `ready` is called when connections are accepted."""
    # Tracebacks may quote content. The app turns every error into an answer; what is left goes nowhere.
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    config = uvicorn.Config(
        app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, h11_max_incomplete_event_size=MAX_HEADER_BYTES, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )  # fmt: skip
    return _Server(config, app.state.gateway, ready)


def serve(app: Starlette, listening: socket.socket, *, drain_s: float, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT ends it."""
    # uvicorn raises the signal once more when it has ended; by then there is nothing left to stop.
    previous = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        server(app, drain_s=drain_s, ready=ready).run(sockets=[listening])
    finally:
        for sig, handler in previous.items():
            signal.signal(sig, handler)
