"""Two drivers for one chain.

The chain is a generator that yields a `Call` for whatever takes time (a guard, a model, a token count) and is resumed
with its result. `drive` runs the calls for a synchronous caller, `adrive` for an asynchronous one; the logic exists
once. Both run calls on worker threads with a time limit, so a sync call inside a running event loop works, and an
async call never blocks its loop. The pattern is httpx's `auth_flow`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from shieldkit.errors import Overloaded
from shieldkit.workers import Workers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """Something that takes time. `on_abandon` is called when nobody waits for the result any more."""

    function: Callable[[], Any]
    timeout_s: float
    lane: Literal["guard", "model", "person"] = "guard"
    on_abandon: Callable[[], None] | None = None


Steps: TypeAlias = Generator[Call, Any, T]
Lanes: TypeAlias = dict[str, Workers]


def drive(chain: Steps[T], lanes: Lanes) -> T:
    """Run a chain to its end and return its value. A call that takes too long raises `TimeoutError` inside the chain."""
    try:
        call = next(chain)
        while True:
            try:
                result = _wait(call, lanes)
            except Exception as error:
                call = chain.throw(error)
            else:
                call = chain.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        chain.close()


def _wait(call: Call, lanes: Lanes) -> Any:
    future = lanes[call.lane].submit(call.function)
    try:
        return future.result(timeout=call.timeout_s)
    except concurrent.futures.TimeoutError:
        if not future.done():
            _abandon(call, future)
        raise
    except (KeyboardInterrupt, SystemExit):
        _abandon(call, future)
        raise


async def adrive(chain: Steps[T], lanes: Lanes) -> T:
    """`drive` for a running event loop. When the caller is cancelled, the call under way is told, and the chain closed."""
    try:
        call = next(chain)
        while True:
            try:
                result = await _await(call, lanes)
            except Exception as error:
                call = chain.throw(error)
            else:
                call = chain.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        chain.close()


async def _await(call: Call, lanes: Lanes) -> Any:
    future = lanes[call.lane].submit(call.function)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), call.timeout_s)
    except TimeoutError:
        _abandon(call, future)
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and (task is None or not task.cancelling()):
            raise Overloaded("the shield was closed") from None
        _abandon(call, future)
        raise


def _abandon(call: Call, future: concurrent.futures.Future[Any]) -> None:
    future.cancel()
    if call.on_abandon is not None:
        call.on_abandon()
