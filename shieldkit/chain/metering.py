"""Count, reserve, settle, release. What goes wrong here is always closed: no count, no call.

What is held for a call of the model is held until the model has stopped, whoever has left by then, and then settled: giving
back what a model works on would let anyone who leaves in time work it for nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from shieldkit.backends.base import Backend, Completion, CompletionRequest
from shieldkit.budget import Admission, Budget, Principal, Reservation
from shieldkit.chain.trip import Trip
from shieldkit.conversation import Conversation
from shieldkit.driving import Call, Steps
from shieldkit.errors import BackendError, Overloaded
from shieldkit.outcome import Action, Coverage, Stage, Status, Usage, Verdict
from shieldkit.policy import Policy
from shieldkit.policy.decision import failed
from shieldkit.policy.model import GuardSettings
from shieldkit.telemetry.events import emit, told

T = TypeVar("T")

_CLOSED = GuardSettings()


@dataclass(slots=True)
class Meter:
    """The reservation of one request. `open()` makes sure that none outlives it, but for a model that is still at work."""

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
            tokens = yield Call(count, self.policy.budget.timeout, "count")
            self.input_tokens = tokens if type(tokens) is int and tokens >= 0 else 0
            reserve = _Reserving(self.budget, self.principal, tokens, self.max_output_tokens)
            admission = yield Call(reserve, self.policy.budget.timeout, on_abandon=reserve.abandon)
        except TimeoutError:
            reason = "counting or reserving tokens took too long"
            verdict = failed(blank, _CLOSED, Status.TIMED_OUT, "timeout", reason, "enforce")
        except (BackendError, Overloaded):
            raise
        except Exception as error:
            reason = f"tokens could not be counted or reserved ({type(error).__name__})"
            verdict = failed(blank, _CLOSED, Status.FAILED, "ledger", reason, "enforce")
            verdict = replace(verdict, error=told("ledger_failed", error))
        else:
            self.reservation = admission.reservation
            rule, reason = admission.findings[0] if admission.findings else ("", "")
            action = Action.BLOCK if rule else Action.ALLOW
            verdict = replace(blank, action=action, would=action, reason=reason, coverage=Coverage(total, total))
            verdict = replace(verdict, rule=f"budget.{rule}" if rule else "")
        trip.note(verdict, start_ns, time.time_ns())

    @contextmanager
    def working(self, request: CompletionRequest) -> Iterator[Work]:
        """A call of the model, which takes over what is reserved. Settled at the end of this, or when the model has stopped.

        Raises `Overloaded` where its time was over before a thread was free for it.
        """
        reservation, self.reservation = self.reservation, None
        work = Work(self.budget, reservation, request, Usage(self.input_tokens, request.max_output_tokens))
        try:
            yield work
        except TimeoutError:
            if not work.began:
                problem = f"no thread was free for the model within {self.policy.model.timeout:g} s"
                raise Overloaded(f"{problem} (Shield(max_calls=…), policy: model.timeout)") from None
            raise
        finally:
            work.leave()

    def release(self) -> None:
        """Give back what was reserved. Harmless when nothing is."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            with _kept_on_failure():
                self.budget.release(reservation)


class Work:
    """The model at work on a request, and what is held for it. Settled once, by whoever comes last: worker or caller.

    With an answer, its counts are what was used. Where the caller left or the time was over, it is what was counted on the
    way, or else all that was held. What never began, or failed by itself before anything came, is given back.
    """

    def __init__(
        self, budget: Budget, reservation: Reservation | None, request: CompletionRequest, most: Usage
    ) -> None:
        self._budget, self._reservation, self._request, self._most = budget, reservation, request, most
        self._lock = threading.Lock()
        self._began = self._left = False
        self._used: Usage | None = None

    @property
    def began(self) -> bool:
        """Whether a worker has taken it."""
        return self._began

    def run(self, answer: Callable[[], T]) -> T:
        """Let the model work, in a worker. Raises `BackendError` where nobody waits for it any more."""
        with self._lock:
            if self._left:
                raise BackendError("the caller is gone")
            self._began = True
        used = self._most
        try:
            given = answer()
            used = _counted(given) or self._request.used(self._most, BackendError())
            return given
        except BaseException as error:
            used = self._request.used(self._most, error)
            raise
        finally:
            with self._lock:
                self._used, alone = used, self._left
            if alone:
                self._settle(used)

    @property
    def used(self) -> Usage:
        """What was used so far, at the most."""
        with self._lock:
            return self._used or self._request.used(self._most)

    def leave(self) -> None:
        """Nobody waits any more: the model is told, and pays when it has stopped. A second time does nothing."""
        self._request.cancelled.set()
        with self._lock:
            again, self._left = self._left, True
            used = self._used if self._began else Usage()
        if not again and used is not None:
            self._settle(used)

    def _settle(self, used: Usage) -> None:
        if self._reservation is not None:
            with _kept_on_failure():
                self._budget.settle(self._reservation, used)


def _counted(answer: object) -> Usage | None:
    """What an answer says that it took, where these are counts."""
    if not isinstance(answer, Completion):
        return None
    counts = answer.input_tokens, answer.output_tokens
    return Usage(*counts) if all(type(n) is int and n >= 0 for n in counts) else None


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
