"""A circuit breaker: what fails again and again is left alone for a while, and then tried by one call.

Closed: calls pass. After `failures` of them in a row have failed it opens: none passes for `cool_down_s`. Then it is half
open: one call may try; if it succeeds the breaker closes, if it fails it opens again, for twice as long each time, up to
`most_s`. See M. Nygard, "Release It!", chapter 5.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

State: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """Safe to share between threads. `clock` gives seconds that never go back."""

    def __init__(
        self, *, failures: int = 5, cool_down_s: float = 10.0, most_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._most_failures, self._cool_down_s, self._most_s, self._clock = failures, cool_down_s, most_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._pause_s = cool_down_s
        self._opened_at: float | None = None
        self._probe_until = 0.0

    @property
    def state(self) -> State:
        """What it is now."""
        with self._lock:
            return self._state()

    def admit(self) -> bool:
        """Whether a call may be made now. One that may tells how it went: `succeeded`, `failed` or `withdrawn`."""
        with self._lock:
            state = self._state()
            if state != "half_open":
                return state == "closed"
            now_s = self._clock()
            if now_s < self._probe_until:
                return False
            # A probe that never tells how it went does not keep the others out for ever.
            self._probe_until = now_s + self._most_s
            return True

    def succeeded(self) -> None:
        """The call was answered."""
        with self._lock:
            self._failures, self._pause_s = 0, self._cool_down_s
            self._opened_at, self._probe_until = None, 0.0

    def failed(self) -> None:
        """The call failed in a way that says something of who was called."""
        with self._lock:
            self._failures += 1
            if self._opened_at is not None:
                if self._state() == "half_open":
                    self._pause_s = min(self._most_s, 2 * self._pause_s)
                    self._opened_at, self._probe_until = self._clock(), 0.0
            elif self._failures >= self._most_failures:
                self._opened_at = self._clock()

    def withdrawn(self) -> None:
        """The call ended in a way that says nothing of who was called."""
        with self._lock:
            self._probe_until = 0.0

    def _state(self) -> State:
        if self._opened_at is None:
            return "closed"
        return "half_open" if self._clock() - self._opened_at >= self._pause_s else "open"
