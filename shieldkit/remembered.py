"""What was found out once, known by a key that holds no text: the least asked for is forgotten first."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

K = TypeVar("K")
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """At most so many values (not None), or so much of them by `size`. Safe under threads; a forked process begins anew."""

    def __init__(self, most: int, size: Callable[[V], int] = lambda value: 1) -> None:
        self._most, self._size = most, size
        self.forget()
        _all.add(self)

    def of(self, key: K, make: Callable[[], V]) -> V:
        """What is remembered of `key`, or what `make` makes of it now. Two threads may make the same at the same time."""
        with self._lock:
            found = self._known.get(key)
        if found is None:
            found = make()
            if self._size(found) <= self._most:
                with self._lock:
                    self._known[key] = found
        return found

    def __len__(self) -> int:
        """How many values there are."""
        return len(self._known)

    def forget(self) -> None:
        """Begin anew, also with the lock: after a fork nobody may be there to release it."""
        self._lock = threading.Lock()
        self._known: LRUCache[K, V] = LRUCache(self._most, getsizeof=self._size)


_all: weakref.WeakSet[Remembered[Any, Any]] = weakref.WeakSet()


def _forked() -> None:
    for remembered in list(_all):
        remembered.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
