"""One chain, two drivers: the same result, on time, and closed cleanly when the caller leaves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shieldkit.driving import Call, Lanes, Steps, adrive, drive
from shieldkit.errors import Overloaded
from shieldkit.workers import Workers

_NOTED = contextvars.ContextVar("noted", default="as it was")


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = {"guard": Workers("guard", 4), "model": Workers("model", 2)}
    yield made
    for workers in made.values():
        workers.close()


def chain(function: Callable[[], Any], events: list[str], timeout_s: float = 5.0) -> Steps[Any]:
    try:
        try:
            value = yield Call(function, timeout_s, on_abandon=lambda: events.append("abandoned"))
        except Exception as error:
            return type(error).__name__
        return value
    finally:
        events.append("closed")


def both(function: Callable[[], Any], lanes: Lanes, timeout_s: float = 5.0) -> list[tuple[Any, list[str]]]:
    out = []
    for run in (drive, lambda c, w: asyncio.run(adrive(c, w))):
        events: list[str] = []
        out.append((run(chain(function, events, timeout_s), lanes), events))
    return out


def raises(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


def test_sync_and_async_give_the_same_value(lanes: Lanes) -> None:
    assert both(lambda: 42, lanes) == [(42, ["closed"]), (42, ["closed"])]


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration(), StopAsyncIteration(), SystemExit(1),
                                   KeyboardInterrupt(), GeneratorExit(), TimeoutError()])  # fmt: skip
def test_whatever_a_call_raises_is_an_ordinary_error_inside_the_chain(lanes: Lanes, error: BaseException) -> None:
    for name, events in both(raises(error), lanes):
        assert name in ("ValueError", "RuntimeError", "TimeoutError")
        assert events[-1] == "closed"


def test_a_hanging_call_ends_on_time_and_is_told(lanes: Lanes) -> None:
    release = threading.Event()
    start = time.monotonic()
    results = both(lambda: release.wait(30), lanes, timeout_s=0.1)
    assert time.monotonic() - start < 5
    release.set()
    assert results == [("TimeoutError", ["abandoned", "closed"])] * 2


def inline(function: Callable[[], Any], timeout_s: float = 5.0) -> Steps[Any]:
    try:
        value = yield Call(function, timeout_s, inline=True)
    except Exception as error:
        return type(error).__name__
    return value


def test_an_inline_call_stays_in_the_thread_of_who_waits_for_it_but_never_in_a_loops(lanes: Lanes) -> None:
    here = threading.current_thread().name
    assert drive(inline(lambda: threading.current_thread().name), lanes) == here
    assert asyncio.run(adrive(inline(lambda: threading.current_thread().name), lanes)) != here


def test_an_inline_call_that_takes_too_long_is_late_all_the_same(lanes: Lanes) -> None:
    assert drive(inline(lambda: time.sleep(0.05), timeout_s=0.01), lanes) == "TimeoutError"


@pytest.mark.parametrize(("error", "name"), [(ValueError("x"), "ValueError"), (StopIteration(), "RuntimeError"),
                                             (TimeoutError(), "TimeoutError"), (GeneratorExit(), "RuntimeError"),
                                             (asyncio.CancelledError(), "RuntimeError")])  # fmt: skip
def test_what_an_inline_call_raises_is_an_ordinary_error_too(lanes: Lanes, error: BaseException, name: str) -> None:
    assert drive(inline(raises(error)), lanes) == name


def test_an_inline_call_has_a_context_of_its_own(lanes: Lanes) -> None:
    drive(inline(lambda: _NOTED.set("changed")), lanes)
    assert _NOTED.get() == "as it was"


@pytest.mark.parametrize("run", [drive, lambda chain, lanes: asyncio.run(adrive(chain, lanes))])
def test_nothing_runs_after_the_end_inline_either(lanes: Lanes, run: Any) -> None:
    lanes["guard"].close()
    assert run(inline(lambda: 42), lanes) == "Overloaded"


def test_ctrl_c_in_an_inline_call_reaches_the_caller(lanes: Lanes) -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(inline(raises(KeyboardInterrupt())), lanes)


async def test_an_async_call_does_not_block_the_loop(lanes: Lanes) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await adrive(chain(lambda: time.sleep(0.3), []), lanes)
    ticker.cancel()
    assert ticks >= 5


async def test_a_sync_call_works_inside_a_running_loop(lanes: Lanes) -> None:
    assert drive(chain(lambda: 1, []), lanes) == 1


async def test_a_cancelled_caller_closes_the_chain_and_abandons_the_call(lanes: Lanes) -> None:
    release, events = threading.Event(), []  # type: ignore[var-annotated]
    task = asyncio.create_task(adrive(chain(lambda: release.wait(30), events), lanes))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert events == ["abandoned", "closed"]


async def test_a_caller_who_is_cancelled_just_when_the_result_comes_is_cancelled(lanes: Lanes) -> None:
    release, events = threading.Event(), []  # type: ignore[var-annotated]
    task = asyncio.create_task(adrive(chain(lambda: release.wait(30), events), lanes))
    await asyncio.sleep(0.05)
    release.set()
    time.sleep(0.05)  # the loop is busy while the result comes
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events[-1] == "closed"


def test_a_call_that_ends_just_when_nobody_waits_any_more_is_told(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EndsJustThen(concurrent.futures.Future[Any]):
        """What `result` gave up on has ended when anyone looks."""

        def done(self) -> bool:
            concurrent.futures.wait([self], 5)
            return super().done()

    monkeypatch.setattr("shieldkit.workers.Future", EndsJustThen)
    events: list[str] = []
    assert drive(chain(lambda: time.sleep(0.2), events, 0.05), lanes) == "TimeoutError"
    assert events == ["abandoned", "closed"]


def test_when_every_thread_hangs_further_calls_run_into_their_own_limit() -> None:
    release = threading.Event()
    lanes = {"guard": Workers("guard", 2)}
    assert [drive(chain(lambda: release.wait(30), [], 0.05), lanes) for _ in range(3)] == ["TimeoutError"] * 3
    release.set()
    assert drive(chain(lambda: 7, [], 5.0), lanes) == 7
    lanes["guard"].close()


def test_too_long_a_line_is_refused() -> None:
    release = threading.Event()
    workers = Workers("guard", max_threads=1, max_waiting=1)
    running = workers.submit(lambda: release.wait(30))
    while not running.running():
        time.sleep(0.001)
    workers.submit(lambda: None)
    with pytest.raises(Overloaded):
        workers.submit(lambda: None)
    release.set()
    workers.close()


def test_nothing_starts_after_close() -> None:
    workers = Workers("guard", 1)
    workers.close()
    with pytest.raises(Overloaded):
        workers.submit(lambda: None)


def test_many_threads_share_the_workers_without_losing_a_result(lanes: Lanes) -> None:
    results: list[int] = []

    def caller(n: int) -> None:
        results.append(drive(chain(lambda: n, []), lanes))

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(200)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == list(range(200))
