"""A model's answer, bit by bit, from the thread that generates it to the chain that reads it.

One worker draws the backend's iterator from its first bit to its last, so that the model is free as soon as it is done,
however slowly the reader reads; it runs ahead of the reader by at most `MAX_AHEAD_CHARS`, and never past the deadline. The
reader waits without a thread: for so many characters, or for the end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from shieldkit.backends.base import Completion, CompletionRequest, StreamingBackend
from shieldkit.chain.metering import Work
from shieldkit.driving import Lanes
from shieldkit.errors import BackendError, BackendTimeout, Overloaded

MAX_AHEAD_CHARS = 65_536
MOST_CHARS_A_TOKEN = 128


class Pump:
    """Draws one answer. Made by the chain, run in a worker, read by the chain."""

    def __init__(self, backend: StreamingBackend, request: CompletionRequest, context: Context, work: Work) -> None:
        self._backend, self._request, self._context, self._work = backend, request, context, work
        self._changed = threading.Condition()
        self._started = False
        self._bits: list[str] = []
        self._untaken = self._total = self._bits_seen = self._bytes = 0
        self._waiting: tuple[int, Future[None]] | None = None
        self._ended = False
        self._error: Exception | None = None
        self._completion: Completion | None = None

    # -- the reader -------------------------------------------------------------------------------------------------

    def begin(self, lanes: Lanes) -> None:
        """Start drawing, the first time. Raises `Overloaded`."""
        if not self._started:
            self._started = True
            lanes["model"].submit(self._run)

    def until(self, chars: int) -> Future[None]:
        """Done when so many characters have come in all, or no more will."""
        future: Future[None] = Future()
        with self._changed:
            self._waiting = (chars, future)
            self._tell()
        return future

    def take(self) -> str:
        """What has come and was not taken yet."""
        with self._changed:
            text, self._bits, self._untaken = "".join(self._bits), [], 0
            self._changed.notify_all()
        return text

    def completion(self) -> Completion:
        """The whole answer, when it has ended. Raises what the backend raised."""
        if self._error is not None:
            raise self._error
        if self._completion is None:
            raise BackendError(f"{self._backend.name} ended its stream without a completion")
        return self._completion

    def stop(self) -> None:
        """End the generation. A second time, or after its end, does nothing."""
        self._request.cancelled.set()
        with self._changed:
            self._changed.notify_all()

    # -- the worker -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        token = otel_context.attach(self._context)
        error: Exception | None = None
        try:
            if self._request.expired():
                raise Overloaded("no thread was free for the model until the deadline")
            self._completion = self._work.run(lambda: self._draw(self._backend.stream(self._request)))
        except Exception as raised:
            odd = isinstance(raised, StopIteration | StopAsyncIteration)
            error = RuntimeError(type(raised).__name__) if odd else raised
        except BaseException as raised:
            error = RuntimeError(type(raised).__name__)
        finally:
            otel_context.detach(token)
        with self._changed:
            self._ended, self._error = True, error
            self._tell()

    def _draw(self, answer: Iterator[str | Completion]) -> Completion | None:
        try:
            for item in answer:
                if isinstance(item, Completion):
                    return item
                if not isinstance(item, str):
                    raise BackendError(f"{self._backend.name} streamed a {type(item).__name__}")
                if not self._put(item):
                    raise BackendTimeout("the answer was not read to its end before the deadline")
            return None
        finally:
            close = getattr(answer, "close", None)
            if close is not None:
                close()

    def _put(self, bit: str) -> bool:
        """Hand over a bit; wait while the reader is far behind. False when nobody wants more."""
        with self._changed:
            self._bits.append(bit)
            self._untaken += len(bit)
            self._total += len(bit)
            self._bytes += len(bit.encode("utf-8", "replace"))
            self._bits_seen += 1
            # A token is at least a byte, and some vocabularies spell rare scripts byte by byte; a bit is at least a token.
            most = min(max(self._bits_seen, self._bytes), self._request.max_output_tokens)
            progress = self._request.progress
            progress.most_output_tokens = max(most, progress.most_output_tokens or 0)
            if self._total > MOST_CHARS_A_TOKEN * self._request.max_output_tokens:
                raise BackendError(f"{self._backend.name} streams more than it was asked for")
            self._tell()
            while self._untaken > MAX_AHEAD_CHARS and not self._request.expired():
                self._changed.wait(min(self._request.deadline - time.monotonic(), threading.TIMEOUT_MAX))
        return not self._request.expired()

    def _tell(self) -> None:
        if self._waiting is not None:
            chars, future = self._waiting
            if self._ended or self._total >= chars:
                self._waiting = None
                if future.set_running_or_notify_cancel():
                    future.set_result(None)


@dataclass(frozen=True, slots=True)
class Pull:
    """A step of the chain: wait until so many characters of an answer have come, or its end."""

    pump: Pump
    chars: int
    timeout_s: float

    def start(self, lanes: Lanes) -> Future[Any]:
        """Begin to wait; the first one starts the answer."""
        self.pump.begin(lanes)
        return self.pump.until(self.chars)

    def abandon(self) -> None:
        """Nobody reads on."""
        self.pump.stop()
