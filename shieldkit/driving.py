"""Two drivers for one chain.

The chain is a generator that yields a `Step` for whatever takes time (a guard, a model, a token count) and is resumed
with its result. It may also yield an `Emit`: that event leaves at once. `run` drives a chain for a
synchronous caller, `arun` for an asynchronous one; the logic exists once. `drive` and `adrive` are for a chain of which
only the outcome matters. Calls run on worker threads with a time limit, so a sync call inside a running event loop works
(and blocks it), and an async call never blocks its loop. A call that cannot hang may stay in the thread of a synchronous
caller, who would wait for it anyway. The pattern is httpx's `auth_flow`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

from shieldkit.errors import Overloaded
from shieldkit.workers import Workers

T = TypeVar("T")
E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
Lanes: TypeAlias = dict[str, Workers]


class Step(Protocol):
    """Something that takes time, at most `timeout_s`."""

    @property
    def timeout_s(self) -> float:
        """How long it may take."""
        ...

    def start(self, lanes: Lanes) -> concurrent.futures.Future[Any]:
        """Begin, and tell where the result will be."""
        ...

    def abandon(self) -> None:
        """Nobody waits for the result any more."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A function to run in a worker. `on_abandon` is called when nobody waits for the result any more.

    `inline` says that it cannot hang: a synchronous caller runs it himself, and holds its time against `timeout_s` when it is
    over.
    """

    function: Callable[[], Any]
    timeout_s: float
    lane: Literal["guard", "count", "model", "person"] = "guard"
    on_abandon: Callable[[], None] | None = None
    inline: bool = False

    def start(self, lanes: Lanes) -> concurrent.futures.Future[Any]:
        """Hand it to a worker of its lane. Raises `Overloaded`."""
        return lanes[self.lane].submit(self.function)

    def abandon(self) -> None:
        """Tell the function, if there is a way."""
        if self.on_abandon is not None:
            self.on_abandon()


@dataclass(frozen=True, slots=True)
class Emit(Generic[E_co]):
    """An event that leaves while the chain is under way."""

    event: E_co


Steps: TypeAlias = Generator[Step, Any, T]
"""A chain, or a part of one, from which nothing leaves before its end."""

Flow: TypeAlias = Generator[Step | Emit[E], Any, T]
"""A chain from which events of type `E` leave on the way."""


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The last that comes out of `arun`: what the chain returned."""

    value: T


def drive(chain: Flow[Any, T], lanes: Lanes) -> T:
    """Run a chain to its end and return its value. A step that takes too long raises `TimeoutError` inside the chain."""
    flow: Generator[Any, None, T] = run(chain, lanes)
    try:
        while True:
            next(flow)
    except StopIteration as stop:
        value: T = stop.value
        return value


def run(chain: Flow[E, T], lanes: Lanes) -> Generator[E, None, T]:
    """Run a chain, giving out its events as they come. Closing this closes the chain where it stands."""
    try:
        step = next(chain)
        while True:
            if isinstance(step, Emit):
                yield step.event
                step = chain.send(None)
                continue
            try:
                result = _wait(step, lanes)
            except Exception as error:
                step = chain.throw(error)
            else:
                step = chain.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        chain.close()


def _wait(step: Step, lanes: Lanes) -> Any:
    if isinstance(step, Call) and step.inline:
        return _run_here(step, lanes)
    future = step.start(lanes)
    try:
        return future.result(timeout=step.timeout_s)
    except (TimeoutError, KeyboardInterrupt, SystemExit):
        _abandon(step, future)
        raise


def _run_here(call: Call, lanes: Lanes) -> Any:
    started = time.monotonic()
    result = lanes[call.lane].run_here(call.function)
    if time.monotonic() - started > call.timeout_s:
        raise TimeoutError
    return result


async def adrive(chain: Flow[Any, T], lanes: Lanes) -> T:
    """`drive` for a running event loop. When the caller is cancelled, the step under way is told, and the chain closed."""
    async with aclosing(arun(chain, lanes)) as flow:
        async for event in flow:
            if isinstance(event, Done):
                value: T = event.value
                return value
    raise AssertionError("a chain ends with its value")


async def arun(chain: Flow[E, T], lanes: Lanes) -> AsyncGenerator[E | Done[T], None]:
    """`run` for a running event loop. An async generator has no value of its own: the chain's comes last, as `Done`."""
    try:
        step = next(chain)
        while True:
            if isinstance(step, Emit):
                yield step.event
                step = chain.send(None)
                continue
            try:
                result = await _await(step, lanes)
            except Exception as error:
                step = chain.throw(error)
            else:
                step = chain.send(result)
    except StopIteration as stop:
        yield Done(stop.value)
    finally:
        chain.close()


async def _await(step: Step, lanes: Lanes) -> Any:
    future = step.start(lanes)
    try:
        # Not `wait_for`: Python 3.11's drops a cancellation that comes together with the result.
        async with asyncio.timeout(step.timeout_s):
            return await asyncio.wrap_future(future)
    except TimeoutError:
        _abandon(step, future)
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and (task is None or not task.cancelling()):
            raise Overloaded("the shield was closed") from None
        _abandon(step, future)
        raise


def _abandon(step: Step, future: concurrent.futures.Future[Any]) -> None:
    future.cancel()
    step.abandon()
