"""Several models as one: the routes in order, the first that may and can answer does.

A route may be used when the policy's `routing` section allows it (model, residency, cost, local only), its circuit is not
open, its own limits leave room, and the request fits its context. What fails in a way that may pass is tried again, with a
jittered pause; after that the next route is asked. A fall-back never loosens the rules: caps of the routes on the way hold
for those after them. Text of a conversation is sent to no route that the policy does not allow, not even to be counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shieldkit.backends.base import Backend, Completion, CompletionRequest, can_stream
from shieldkit.backends.breaker import Breaker
from shieldkit.backends.failures import pause_before_next_s, reason_of, tells_of_the_server, typed
from shieldkit.backends.routes import FORBIDS, PassedOver, Route
from shieldkit.budget import Charge, Exceeded, Ledger, MemoryLedger, Reservation
from shieldkit.conversation import Conversation
from shieldkit.errors import (
    BackendBusy,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    ConfigurationError,
    ContextExceeded,
)
from shieldkit.outcome import Usage
from shieldkit.telemetry.events import emit

if TYPE_CHECKING:
    from shieldkit.policy.model import RoutingSettings


@dataclass(slots=True)
class _Way:
    """One request's way along the routes: who was passed over, and the strictest caps so far."""

    request: CompletionRequest
    streams: bool
    passed: list[PassedOver]
    errors: list[Exception] = field(default_factory=list)
    context_tokens: int | None = None

    def tighten(self, route: Route) -> None:
        """From here on the route's caps hold, whoever answers."""
        if route.max_output_tokens is not None:
            most = min(self.request.max_output_tokens, route.max_output_tokens)
            self.request = replace(self.request, max_output_tokens=most)
        self.streams = self.streams and route.streaming
        if route.max_context_tokens is not None:
            self.context_tokens = min(self.context_tokens or route.max_context_tokens, route.max_context_tokens)


class _NotTaken(Exception):
    """This route does not take this request now."""


class Router:
    """A `Backend` made of routes, in the order in which they are asked.

    `ledger`: where the routes' own limits are kept; in this process by default. `failures` in a row open a route's circuit for
    `cool_down_s`. Every route is opened at start-up: the guards must know the control tokens of all of them.
    Raises `ConfigurationError`.
    """

    name = "router"

    def __init__(
        self,
        routes: Sequence[Route | Backend],
        *,
        ledger: Ledger | None = None,
        failures: int = 5,
        cool_down_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.routes = tuple(r if isinstance(r, Route) else Route(r) for r in routes)
        names = [route.name for route in self.routes]
        if not names or len(set(names)) != len(names):
            problem = "two routes have the same name" if names else "there are none"
            raise ConfigurationError("Router.routes", problem, mend="Give each Route(…, name=…) a name of its own")
        self._breakers = {name: Breaker(failures=failures, cool_down_s=cool_down_s, clock=clock) for name in names}
        self._ledger: Ledger = ledger if ledger is not None else MemoryLedger(max_accounts=1 + len(names))
        self._own_ledger = ledger is None
        self._forbidden: tuple[PassedOver, ...] = ()
        self._streams = True
        self._views: dict[Any, Router] = {}
        self._lock = threading.Lock()

    def under(self, rules: RoutingSettings) -> Router:
        """This router with only the routes that a policy allows. Raises `ConfigurationError` when it allows none."""
        if not rules.restricts:
            return self
        with self._lock:
            view = self._views.get(rules)
            if view is None:
                view = self._views[rules] = self._under(rules)
        return view

    def _under(self, rules: RoutingSettings) -> Router:
        reasons = {route.name: route.forbidden_by(rules) for route in self.routes}
        allowed = tuple(route for route in self.routes if reasons[route.name] is None)
        if not allowed:
            told = ", ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise ConfigurationError("routing", f"allows none of the routes ({told})", mend="Add one, or allow one")
        view = Router(allowed, ledger=self._ledger)
        view._breakers = self._breakers
        view._forbidden = tuple(PassedOver(name, reason) for name, reason in reasons.items() if reason is not None)
        view._streams = not rules.security_critical
        return view

    # -- what it is -------------------------------------------------------------------------------------------------

    def open(self, max_context_tokens: int) -> None:
        """Open every route, with at most this much context. A second time does nothing."""
        for route in self.routes:
            opener = getattr(route.backend, "open", None)
            if opener is not None:
                opener(min(max_context_tokens, route.max_context_tokens or max_context_tokens))

    @property
    def model(self) -> str:
        """The model of the first route."""
        return self.routes[0].backend.model

    @property
    def context_tokens(self) -> int:
        """The most tokens that any of the routes takes. Those that take less are passed over where they do not fit."""
        return max(route.context_tokens for route in self.routes)

    @property
    def control_tokens(self) -> frozenset[str]:
        """The control tokens of all models together."""
        return frozenset().union(*(route.backend.control_tokens for route in self.routes))

    def describe(self) -> Mapping[str, Any]:
        """Every route, with the state of its circuit."""
        return {
            "name": self.name, "model": self.model, "context_tokens": self.context_tokens,
            "routes": [
                {"name": route.name, "model": route.backend.model, "residency": route.residency, "cost": route.cost,
                 "local": route.local, "context_tokens": route.context_tokens,
                 "circuit": self._breakers[route.name].state}
                for route in self.routes
            ],
        }  # fmt: skip

    def close(self) -> None:
        """Close the backends of all routes, and the router's own ledger."""
        for route in self.routes:
            route.backend.close()
        if self._own_ledger:
            self._ledger.close()

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        """The most that any route counts of those that could take it; or, where none could, the least that one counts.

        Routes whose circuit is open, or that cannot count now, are left out. Raises `BackendError` when that is all of them.
        """
        counts: list[tuple[int, Route]] = []
        errors: list[Exception] = []
        for route in self.routes:
            if self._breakers[route.name].state != "open":
                try:
                    counts.append((route.backend.count_tokens(conversation, limit), route))
                except Exception as error:
                    errors.append(error)
        if not counts:
            raise BackendUnavailable("no route can count tokens now" + _kinds(errors))
        fitting = [tokens for tokens, route in counts if tokens < route.context_tokens]
        return max(fitting) if fitting else min(tokens for tokens, _ in counts)

    # -- answering --------------------------------------------------------------------------------------------------

    def complete(self, request: CompletionRequest) -> Completion:
        """The answer of the first route that gives one; `completion.route` says which, and why not the ones before it."""
        for answer in self._answers(_Way(request, False, list(self._forbidden))):
            if isinstance(answer, Completion):
                return answer
        raise BackendError("the answer has no end")

    def stream(self, request: CompletionRequest) -> Iterator[str | Completion]:
        """`complete`, bit by bit. After the first bit there is no falling back: what fails then has failed."""
        yield from self._answers(_Way(request, self._streams, list(self._forbidden)))

    def _answers(self, way: _Way) -> Iterator[str | Completion]:
        for route in self.routes:
            before = way.request, way.streams, way.context_tokens
            way.tighten(route)
            try:
                completion = yield from self._tried(route, way)
            except _NotTaken as no:
                way.passed.append(PassedOver(route.name, str(no)))
                emit(logging.INFO, "route_passed_over", route=route.name, reason=str(no))
                if str(no) == "context":  # it could not have answered: its caps are no rule for those that can
                    way.request, way.streams, way.context_tokens = before
                continue
            told = {"name": route.name, "passed_over": [p.to_dict() for p in way.passed]}
            yield replace(completion, route=told)
            return
        raise _none_answered(way)

    def _tried(self, route: Route, way: _Way) -> Generator[str, None, Completion]:
        """As many attempts as the route has, while what went wrong may pass. Raises `_NotTaken` with the reason."""
        for attempt in range(route.attempts):
            given, answer = False, self._attempt(route, way)
            try:
                while True:
                    try:
                        bit = next(answer)
                    except StopIteration as end:
                        completion: Completion = end.value
                        return completion
                    given = True
                    yield bit
            except _NotTaken:
                raise
            except Exception as error:
                if way.request.cancelled.is_set() or given:
                    raise typed(error, route.name) from None
                way.errors.append(error)
                pause_s = pause_before_next_s(error, attempt, way.request.deadline)
                if pause_s is None or attempt + 1 == route.attempts:
                    raise _NotTaken(reason_of(error)) from None
            finally:
                answer.close()
            if way.request.cancelled.wait(pause_s):
                raise BackendError("the caller is gone")
        raise AssertionError("a route has one attempt at least")

    def _attempt(self, route: Route, way: _Way) -> Generator[str, None, Completion]:
        """One call of one route, within its room, its budget and its time; the breaker is told how it went."""
        breaker, request = self._breakers[route.name], way.request
        if time.monotonic() >= request.deadline:
            raise _NotTaken("timeout")
        if not breaker.admit():
            raise _NotTaken("circuit_open")
        reservation: Reservation | None = None
        most = used = Usage()
        try:
            room = min(route.context_tokens, way.context_tokens or route.context_tokens)
            tokens = route.backend.count_tokens(request.conversation, room)
            if tokens + request.max_output_tokens > room:
                raise _NotTaken("context")
            most = Usage(tokens, request.max_output_tokens)
            reservation = self._reserve(route, most)
            request.progress.input_tokens = request.progress.output_tokens = request.progress.most_output_tokens = None
            if route.timeout_s is not None:
                request = replace(request, deadline=min(request.deadline, time.monotonic() + route.timeout_s))
            completion = yield from _bits(route.backend, request, way.streams)
            used = Usage(completion.input_tokens, completion.output_tokens)
        except BaseException as error:
            said_something = (
                not isinstance(error, _NotTaken) and tells_of_the_server(error) and not request.cancelled.is_set()
            )
            (breaker.failed if said_something else breaker.withdrawn)()
            used = request.used_now(most, error)
            request.progress.attempted = request.used(most, error)
            raise
        else:
            breaker.succeeded()
            return completion
        finally:
            if reservation is not None:
                self._end(reservation, used)

    def _reserve(self, route: Route, tokens: Usage) -> Reservation | None:
        if not route.limits:
            return None
        charges = [
            Charge(
                f"route:{route.name}", limit.window_s, tokens.input_tokens, tokens.output_tokens,
                limit.input_tokens, limit.output_tokens, limit.total_tokens, "route",
            )
            for limit in route.limits
        ]  # fmt: skip
        try:
            outcome = self._ledger.reserve(charges)
        except Exception:
            raise _NotTaken("ledger") from None
        if isinstance(outcome, Exceeded):
            raise _NotTaken("budget")
        return outcome

    def _end(self, reservation: Reservation, used: Usage) -> None:
        """Settle with what was used. A ledger that fails here keeps what it holds: that is safe."""
        held = reservation.charges[0]
        try:
            self._ledger.settle(reservation, Usage(
                used.input_tokens if _is_count(used.input_tokens) else held.input_tokens,
                used.output_tokens if _is_count(used.output_tokens) else held.output_tokens,
            ))  # fmt: skip
        except Exception as error:
            emit(logging.WARNING, "reservation_kept", error=type(error).__name__)


def _bits(backend: Backend, request: CompletionRequest, streams: bool) -> Generator[str, None, Completion]:
    if not streams or not can_stream(backend):
        completion = backend.complete(request)
        if not isinstance(completion, Completion):
            raise BackendError(f"answered with a {type(completion).__name__}, not a Completion")
        return completion
    answer = backend.stream(request)
    try:
        for item in answer:
            if isinstance(item, Completion):
                return item
            if not isinstance(item, str):
                raise BackendError(f"streamed a {type(item).__name__}")
            if item:
                yield item
    finally:
        getattr(answer, "close", lambda: None)()
    raise BackendUnavailable("the stream ended without a completion")


def _none_answered(way: _Way) -> BackendError:
    """The error that says most of why no route answered. Names of routes and reasons only."""
    message = f"no route answered ({', '.join(f'{p.route}: {p.reason}' for p in way.passed)})"
    reasons = {p.reason for p in way.passed if p.reason not in FORBIDS}
    if reasons == {"context"}:
        return ContextExceeded(message)
    if time.monotonic() >= way.request.deadline or reasons == {"timeout"}:
        return BackendTimeout(message)
    waits = [e.retry_after_s for e in way.errors if isinstance(e, BackendBusy) and e.retry_after_s is not None]
    if "busy" in reasons and reasons <= {"busy", "circuit_open", "budget"}:
        return BackendBusy(message, min(waits, default=None))
    return BackendUnavailable(message)


def _kinds(errors: Sequence[Exception]) -> str:
    return f" ({', '.join(sorted({type(e).__name__ for e in errors}))})" if errors else ""


def _is_count(tokens: object) -> bool:
    return type(tokens) is int and tokens >= 0
