"""Daemon threads that run guards and models, so that a hanging one neither blocks the caller nor the exit.

Python cannot stop a thread. A call that does not return within its time keeps its thread until it does; the caller is
told at once. When all threads hang, further calls wait in line and run into their own time limit: closed, not open.
The standard pool is not used because the interpreter waits for its threads at exit, however long. Here it waits for at
most `EXIT_WAIT_S`, and for what runs in the callers' own threads, and so has an end, `EXIT_WAIT_HERE_S`: native code that is
cut off in the middle of the interpreter's end takes the process down.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

from shieldkit.errors import Overloaded

EXIT_WAIT_S = 2.0
EXIT_WAIT_HERE_S = 30.0
"""A reading takes milliseconds, but seconds where other daemon threads keep the interpreter's lock busy."""

_Job = tuple["Future[Any]", Callable[[], Any], contextvars.Context]


class Workers:
    """At most `max_threads` daemon threads, started as they are needed; at most `max_waiting` jobs in line."""

    def __init__(self, name: str, max_threads: int, max_waiting: int = 10_000) -> None:
        self._name = name
        self._max_threads = max_threads
        self._max_waiting = max_waiting
        self._closed = False
        self._begin()
        _open.add(self)

    def _begin(self) -> None:
        """With no thread: at first, and in a forked process, which has none of its parent's."""
        self._jobs: deque[_Job] = deque()
        self._condition = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._here = 0

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Run `function` in a worker, in a copy of the caller's context. Raises `Overloaded`."""
        future: Future[Any] = Future()
        with self._condition:
            if self._closed:
                raise Overloaded("the shield is closed")
            if len(self._jobs) >= self._max_waiting:
                raise Overloaded(f"more than {self._max_waiting} calls wait for a {self._name} thread")
            self._jobs.append((future, function, contextvars.copy_context()))
            if self._idle >= len(self._jobs):
                self._condition.notify()
            elif self._threads < self._max_threads:
                self._start()
        return future

    def _start(self) -> None:
        """One more thread, where one is to be had; the last job waits for another if there are others."""
        try:
            threading.Thread(target=self._work, name=f"shieldkit-{self._name}", daemon=True).start()
            self._threads += 1
        except RuntimeError:
            if self._threads == 0:
                self._jobs.pop()
                raise Overloaded(f"no {self._name} thread can be started") from None

    def run_here(self, function: Callable[[], Any]) -> Any:
        """Run `function` in the caller's own thread, as if it were a worker. Raises `Overloaded`.

        What ends the process (Ctrl-C, and `SystemExit` as handlers of signals raise it) reaches the caller as it is.
        """
        condition = self._condition
        with condition:
            if self._closed:
                raise Overloaded("the shield is closed")
            self._here += 1
        try:
            return contextvars.copy_context().run(function)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise _ordinary(error) from None
        finally:
            if condition is self._condition:  # not where the function has forked: the child counts anew
                with condition:
                    self._here -= 1

    def _work(self) -> None:
        condition = self._condition
        while condition is self._condition:  # not in a process that the job has forked
            with condition:
                self._idle += 1
                while not self._jobs and not self._closed:
                    condition.wait()
                self._idle -= 1
                if not self._jobs:
                    self._threads -= 1
                    return
                future, function, context = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(context.run(function))
            except BaseException as error:
                future.set_exception(_ordinary(error))
            del future, function, context

    @property
    def closed(self) -> bool:
        """Whether it takes no more work."""
        return self._closed

    def close(self) -> None:
        """Let idle threads end, and cancel what waits. Calls under way are not waited for."""
        with self._condition:
            self._closed = True
            waiting, self._jobs = list(self._jobs), deque()
            self._condition.notify_all()
        for future, _, _ in waiting:
            future.cancel()

    def join(self, deadline: float, deadline_here: float) -> None:
        """Wait until no thread is at work, at the longest until `deadline`, or `deadline_here` for callers' own threads.

        Both are `time.monotonic()` seconds.
        """
        with self._condition:
            while (self._here and time.monotonic() < deadline_here) or (
                self._threads > self._idle and time.monotonic() < deadline
            ):
                self._condition.wait(0.02)


_open: weakref.WeakSet[Workers] = weakref.WeakSet()


def _forked() -> None:
    for workers in list(_open):
        workers._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _at_exit() -> None:
    started = time.monotonic()
    ending = list(_open)
    for workers in ending:
        workers.close()
    for workers in ending:
        workers.join(started + EXIT_WAIT_S, started + EXIT_WAIT_HERE_S)


def _ordinary(error: BaseException) -> Exception:
    """What a guard raises must not stop the caller's interpreter, generator or event loop."""
    odd = (StopIteration, StopAsyncIteration, CancelledError)
    if isinstance(error, Exception) and not isinstance(error, odd):
        return error
    return RuntimeError(f"raised {type(error).__name__}")
