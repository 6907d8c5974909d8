"""An event loop on a thread of its own, for calls that must be stopped wherever they stand.

Only there can a call be ended while it connects, waits or reads; ending it closes its connection, and so ends the
generation upstream. The caller's thread waits outside, and leaves in time whatever the call does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from shieldkit.errors import BackendError, BackendTimeout

T = TypeVar("T")

_TICK_S = 0.02
GRACE_S = 1.0
_END = object()


class LoopThread:
    """Runs coroutines for callers in other threads. Started when first needed; after a fork, started anew."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._closed = False

    def running(self) -> asyncio.AbstractEventLoop:
        """The loop. Raises `BackendError` after `close`."""
        with self._lock:
            if self._closed:
                raise BackendError("the backend was closed")
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True).start()
            return self._loop

    def run(
        self, call: Callable[[], Coroutine[Any, Any, T]], deadline: float, cancelled: threading.Event | None = None
    ) -> T:
        """The result, or what the call raised. Raises `BackendTimeout` at the deadline, `BackendError` when cancelled."""
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise BackendTimeout("no answer within the deadline")

        async def bounded() -> T:
            async with asyncio.timeout(min(left_s, threading.TIMEOUT_MAX)):
                return await call()

        future = asyncio.run_coroutine_threadsafe(bounded(), self.running())
        tick_s = _TICK_S if cancelled is not None else min(left_s + GRACE_S, 3600.0)
        try:
            while not concurrent.futures.wait([future], tick_s).done:
                if time.monotonic() > deadline + GRACE_S:
                    raise BackendTimeout("no answer within the deadline")
                if cancelled is not None and cancelled.is_set():
                    raise BackendError("the caller is gone")
            return future.result()
        except TimeoutError:
            raise BackendTimeout("no answer within the deadline") from None
        except concurrent.futures.CancelledError:
            raise BackendError("the backend was closed") from None
        finally:
            future.cancel()

    def iterate(
        self, values: Callable[[], AsyncIterator[T]], deadline: float, cancelled: threading.Event
    ) -> Iterator[T]:
        """The values as they come. Closing the iterator ends the call. Raises as `run` does."""
        queue: asyncio.Queue[Any] = asyncio.Queue(256)

        async def pump() -> None:
            last: Any = _END
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    async for value in values():
                        await queue.put(value)
            except TimeoutError:
                last = BackendTimeout("no answer within the deadline")
            except Exception as error:
                last = error
            await queue.put(last)

        pumping = asyncio.run_coroutine_threadsafe(pump(), self.running())
        try:
            while True:
                value = self.run(queue.get, deadline + GRACE_S, cancelled)
                if value is _END:
                    return
                if isinstance(value, Exception):
                    raise value
                yield value
        finally:
            pumping.cancel()

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """End all calls, run `last`, and stop. It cannot be used again."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is None or self._pid != os.getpid():
            return

        async def end() -> None:
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            try:
                await last()
            finally:
                loop.stop()

        asyncio.run_coroutine_threadsafe(end(), loop)
