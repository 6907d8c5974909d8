"""Count, reserve, settle, release. What goes wrong here is always closed: no count, no call."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from shieldkit.backends.base import Backend
from shieldkit.budget import Admission, Budget, Principal, Reservation
from shieldkit.chain.trip import Trip
from shieldkit.conversation import Conversation
from shieldkit.driving import Call, Steps
from shieldkit.errors import BackendError
from shieldkit.outcome import Action, Coverage, Stage, Status, Usage, Verdict
from shieldkit.policy import Policy
from shieldkit.policy.decision import failed
from shieldkit.policy.model import GuardSettings
from shieldkit.telemetry.events import emit

_CLOSED = GuardSettings()


@dataclass(slots=True)
class Meter:
    """The reservation of one request. `open()` makes sure that none outlives it."""

    policy: Policy
    budget: Budget
    backend: Backend
    principal: Principal | None
    max_output_tokens: int
    reservation: Reservation | None = None
    input_tokens: int = 0

    @contextmanager
    def open(self) -> Iterator[Meter]:
        """Release on the way out whatever is still reserved: after a refusal, an error, or a caller that left."""
        try:
            yield self
        finally:
            self.release()

    def reserve(self, trip: Trip, sent: Conversation) -> Steps[None]:
        """Count the tokens of what will be sent, and reserve them with the most that may be answered."""
        start_ns = time.time_ns()
        total = sum(len(s.text) for s in sent.segments)
        blank = Verdict("budget", Stage.INPUT, Status.RAN, Action.BLOCK, Action.BLOCK, Coverage(0, total))
        count = partial(self.backend.count_tokens, sent, limit=self.policy.context.cap)
        try:
            tokens = yield Call(count, self.policy.budget.timeout, "model")
            self.input_tokens = tokens if type(tokens) is int and tokens >= 0 else 0
            reserve = _Reserving(self.budget, self.principal, tokens, self.max_output_tokens)
            admission = yield Call(reserve, self.policy.budget.timeout, on_abandon=reserve.abandon)
        except TimeoutError:
            reason = "counting or reserving tokens took too long"
            verdict = failed(blank, _CLOSED, Status.TIMED_OUT, "timeout", reason, "enforce")
        except BackendError:
            raise
        except Exception as error:
            reason = f"tokens could not be counted or reserved ({type(error).__name__})"
            verdict = failed(blank, _CLOSED, Status.FAILED, "ledger", reason, "enforce")
        else:
            self.reservation = admission.reservation
            rule, reason = admission.findings[0] if admission.findings else ("", "")
            action = Action.BLOCK if rule else Action.ALLOW
            verdict = replace(blank, action=action, would=action, reason=reason, coverage=Coverage(total, total))
            verdict = replace(verdict, rule=f"budget.{rule}" if rule else "")
        trip.note(verdict, start_ns, time.time_ns())

    def settle(self, usage: Usage) -> None:
        """Put the real counts in place of what was reserved."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            with _kept_on_failure():
                self.budget.settle(reservation, usage)

    def release(self) -> None:
        """Give back what was reserved. Harmless when nothing is."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            with _kept_on_failure():
                self.budget.release(reservation)


@contextmanager
def _kept_on_failure() -> Iterator[None]:
    """A ledger that fails here keeps what it holds: counting too much is safe, and no reason to lose an answer."""
    try:
        yield
    except Exception as error:
        emit(logging.WARNING, "reservation_kept", error=type(error).__name__)


class _Reserving:
    """Reserve, for a caller who may have left by the time that it is done: then it is given back."""

    def __init__(self, budget: Budget, principal: Principal | None, tokens: int, most: int) -> None:
        self._budget, self._asked = budget, (principal, tokens, most)
        self._lock, self._abandoned = threading.Lock(), False
        self._admission: Admission | None = None

    def __call__(self) -> Admission:
        admission = self._budget.reserve(*self._asked)
        with self._lock:
            self._admission = admission
            late = self._abandoned
        if late:
            self._give_back()
        return admission

    def abandon(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._abandoned = True
            done = self._admission is not None
        if done:
            self._give_back()

    def _give_back(self) -> None:
        if self._admission is not None and self._admission.reservation is not None:
            with _kept_on_failure():
                self._budget.release(self._admission.reservation)
