"""Several readings at once: the encoder runs each window in one thread, and two windows side by side cost less than one window
on two cores.

Threads are started for each text: none is idle in between, none is missing after a fork.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

THREADS = min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
"""For one text; more are left to the application."""


def in_parallel(function: Callable[[T], U], items: Sequence[T], threads: int = THREADS) -> list[U]:
    """`[function(item), …]`, made by this thread and others. What one of them raises ends them all, and is raised here."""
    left = deque(enumerate(items))
    made: dict[int, U] = {}
    raised: list[BaseException] = []

    def work() -> None:
        while (taken := _next(left)) is not None:
            number, item = taken
            made[number] = function(item)

    def help_out() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)
            left.clear()

    helpers: list[threading.Thread] = []
    try:
        for _ in range(min(threads, len(items)) - 1):
            helper = threading.Thread(target=help_out, daemon=True)
            try:
                helper.start()
            except RuntimeError:  # no more threads are to be had: this one does it all
                break
            helpers.append(helper)
        work()
        for helper in helpers:
            helper.join()
    finally:
        left.clear()
    if raised:
        raise raised[0]
    return [made[number] for number in range(len(items))]


def _next(left: deque[tuple[int, T]]) -> tuple[int, T] | None:
    try:
        return left.popleft()
    except IndexError:
        return None
