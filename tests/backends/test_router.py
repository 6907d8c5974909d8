"""Several models as one: the first that may and can answers, and falling back never loosens the rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from shieldkit import ConfigurationError, Policy, Principal, Shield, Usage
from shieldkit.backends import LlamaCpp, OpenAICompatible, Route, RouteLimit, Router
from shieldkit.backends.base import Backend, Completion, CompletionRequest, StreamingBackend
from shieldkit.backends.breaker import Breaker
from shieldkit.budget import MemoryLedger
from shieldkit.conversation import Conversation
from shieldkit.errors import BackendBusy, BackendError, BackendTimeout, BackendUnavailable, ContextExceeded, LedgerError
from shieldkit.policy.model import RoutingSettings
from shieldkit.telemetry import names
from tests.scripted import Scripted, Streamed
from tests.upstream import Handler, answer, says, upstream

DOWN = BackendUnavailable("no connection")
HELLO = Conversation.of("hello there")


def backend(*answers: Any, name: str = "m", **options: Any) -> Scripted:
    made = Scripted(*answers, **options)
    made.model = name
    return made


def ask(**options: Any) -> CompletionRequest:
    return CompletionRequest(HELLO, **{"max_output_tokens": 8, "deadline": time.monotonic() + 20, **options})


def router(*routes: Any, **options: Any) -> Router:
    named = [r if isinstance(r, Route) else Route(r, name="abcdef"[i]) for i, r in enumerate(routes)]
    return Router(named, **options)


def passed(completion: Completion) -> dict[str, str]:
    assert completion.route is not None
    return {p["route"]: p["reason"] for p in completion.route["passed_over"]}


def policy(routing: str = "{}", **parts: str) -> Policy:
    lines = ["name: test", "guards: {markers: {}, leak: {}}", f"routing: {routing}"]
    return Policy.from_yaml("\n".join([*lines, *(f"{key}: {value}" for key, value in parts.items())]))


# -- who answers ---------------------------------------------------------------------------------------------------


def test_it_is_a_backend() -> None:
    assert isinstance(router(backend()), Backend)
    assert isinstance(router(backend()), StreamingBackend)


def test_the_first_route_answers_and_the_reply_says_so() -> None:
    with Shield(policy(), router(backend("one"), backend("two"))) as shield:
        reply = shield.invoke("hello")
    assert reply.text == "one"
    assert reply.backend["answered_by"] == {"name": "a", "passed_over": []}
    assert [r["circuit"] for r in reply.backend["routes"]] == ["closed", "closed"]


@pytest.mark.parametrize(
    ("fault", "reason", "attempts"),
    [
        (DOWN, "unavailable", 2),
        (BackendBusy("busy"), "busy", 2),
        (BackendBusy("busy", 0.01), "busy", 2),
        (BackendBusy("busy", 3600), "busy", 1),
        (BackendTimeout("late"), "timeout", 2),
        (BackendError("HTTP 400"), "failed", 1),
        (ContextExceeded("too long"), "context", 1),
        (ValueError("secret"), "failed", 1),
        (lambda request: Completion, "failed", 1),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_what_fails_is_tried_again_only_where_that_helps_and_then_the_next_is_asked(
    fault: Any, reason: str, attempts: int, streams: bool
) -> None:
    first, second = backend(fault), Streamed(["se", "cond"]) if streams else backend("second")
    made = router(first, second)
    *bits, completion = made.stream(ask()) if streams else [made.complete(ask())]
    assert isinstance(completion, Completion)
    assert completion.message["content"] == "second"
    assert bits == (["se", "cond"] if streams else [])
    assert passed(completion) == {"a": reason}
    assert len(first.requests) == attempts


def test_a_route_that_comes_back_answers_at_the_next_attempt() -> None:
    first = backend(DOWN, "here again")
    completion = router(first, backend("second")).complete(ask())
    assert completion.message["content"] == "here again"
    assert passed(completion) == {}


@pytest.mark.parametrize(
    ("faults", "kind"),
    [
        ((DOWN, BackendBusy("x", 2)), BackendUnavailable),
        ((BackendBusy("x", 9), BackendBusy("x", 7)), BackendBusy),
        ((BackendTimeout("x"), BackendTimeout("x")), BackendTimeout),
        ((ContextExceeded("x"), ContextExceeded("x")), ContextExceeded),
        ((ValueError("secret"), ContextExceeded("secret")), BackendUnavailable),
    ],
)
def test_when_none_answers_the_error_says_why_of_each_and_nothing_else(faults: Any, kind: type[BackendError]) -> None:
    with pytest.raises(BackendError) as caught:
        router(*(Route(backend(f), name=n, attempts=1) for f, n in zip(faults, "ab", strict=True))).complete(ask())
    assert type(caught.value) is kind
    assert "a: " in str(caught.value)
    assert "b: " in str(caught.value)
    assert "secret" not in str(caught.value)
    if isinstance(caught.value, BackendBusy):
        assert caught.value.retry_after_s == 7


def test_the_deadline_is_carried_through_and_not_waited_past() -> None:
    first, start = backend(DOWN), time.monotonic()
    with pytest.raises(BackendError):
        router(Route(first, name="a", attempts=1000)).complete(ask(deadline=start + 0.3))
    assert time.monotonic() - start < 2
    assert first.requests[0].deadline == start + 0.3


def test_a_route_has_a_time_of_its_own_within_the_deadline() -> None:
    def hangs(request: CompletionRequest) -> str:
        while not request.expired():
            time.sleep(0.005)
        raise BackendTimeout("late")

    slow, start = backend(hangs), time.monotonic()
    completion = router(Route(slow, name="a", timeout_s=0.1, attempts=1), backend("quick")).complete(ask())
    assert passed(completion) == {"a": "timeout"}
    assert time.monotonic() - start < 5
    assert not completion.route or completion.message["content"] == "quick"


@pytest.mark.parametrize("where", ["before", "pausing", "answering"])
def test_a_cancelled_caller_is_not_passed_on_to_the_next_route(where: str) -> None:
    cancelled = threading.Event()

    def cancels(request: CompletionRequest) -> str:
        cancelled.set()
        raise DOWN

    first = backend(cancels if where == "answering" else BackendBusy("busy", 3))
    second = backend("second")
    made = router(first, second)
    if where == "before":
        cancelled.set()
    if where == "pausing":
        threading.Timer(0.1, cancelled.set).start()
    start = time.monotonic()
    with pytest.raises(BackendError, match=r"gone|no connection|busy"):
        made.complete(ask(cancelled=cancelled))
    assert not second.requests
    assert time.monotonic() - start < 2
    assert made.describe()["routes"][0]["circuit"] == "closed"


# -- context -------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_a_route_goes_to_one_that_it_fits() -> None:
    small, large = backend("small", context_tokens=9), backend("large", context_tokens=1000)
    made = router(small, large)
    assert made.context_tokens == 1000
    completion = made.complete(ask())
    assert completion.message["content"] == "large"
    assert passed(completion) == {"a": "context"}
    assert not small.requests


def test_what_fits_no_route_is_refused_by_the_budget_or_is_a_typed_error() -> None:
    made = router(backend(context_tokens=9), Route(backend(), name="b", max_context_tokens=9))
    with pytest.raises(ContextExceeded):
        made.complete(ask())
    with Shield(policy(context="{max_output_tokens: 8}"), made) as shield:
        reply = shield.invoke("one two three")
    assert reply.refusal is not None
    assert reply.refusal.rule == "budget.context"


class Counting(Scripted):
    def __init__(self, tokens: int, **options: Any) -> None:
        super().__init__("x", **options)
        self.tokens, self.counted = tokens, 0

    def count_tokens(self, conversation: Conversation, limit: int | None = None) -> int:
        self.counted += 1
        if self.tokens < 0:
            raise BackendUnavailable("cannot count")
        return self.tokens


@pytest.mark.parametrize(
    ("tokens", "counted"),
    [((5, 7), 7), ((5, 500), 5), ((300, 500), 300), ((-1, 7), 7)],
)
def test_tokens_are_the_most_that_a_route_which_could_take_them_counts(tokens: tuple[int, int], counted: int) -> None:
    made = router(*(Counting(n, context_tokens=100) for n in tokens))
    assert made.count_tokens(HELLO) == counted


def test_when_no_route_can_count_that_is_a_typed_error() -> None:
    with pytest.raises(BackendError):
        router(Counting(-1)).count_tokens(HELLO)


# -- what the policy allows ----------------------------------------------------------------------------------------


def routes() -> dict[str, Route]:
    return {
        "home": Route(backend("home", name="small"), name="home", residency="eu", cost=0, local=True),
        "near": Route(backend("near", name="large"), name="near", residency="eu", cost=2),
        "far": Route(backend("far", name="large"), name="far", residency="us", cost=1),
    }


@pytest.mark.parametrize(
    ("rules", "allowed"),
    [
        ({}, {"home", "near", "far"}),
        ({"models": ["large"]}, {"near", "far"}),
        ({"residency": ["eu"]}, {"home", "near"}),
        ({"max_cost": 1}, {"home", "far"}),
        ({"security_critical": True}, {"home"}),
        ({"models": ["large"], "residency": ["eu", "ch"]}, {"near"}),
    ],
)
def test_a_route_that_the_policy_does_not_allow_sees_no_text_and_is_not_fallen_back_to(
    rules: Mapping[str, Any], allowed: set[str]
) -> None:
    class Watched(Counting):
        pass

    made = {n: replace(r, backend=Watched(3), name=n) for n, r in routes().items()}
    for name, route in made.items():
        route.backend.model = routes()[name].backend.model  # type: ignore[misc]
        route.backend.answers = (DOWN,)  # type: ignore[attr-defined]
    given_policy = Policy.from_dict({"name": "t", "guards": {"leak": {}}, "routing": rules})
    with Shield(given_policy, Router([*made.values()])) as shield, pytest.raises(BackendError) as caught:
        shield.invoke("hello")
    seen = {n for n, r in made.items() if r.backend.requests or r.backend.counted}  # type: ignore[attr-defined]
    assert seen == allowed
    assert all(name in str(caught.value) for name in made)


def test_a_policy_that_allows_no_route_is_an_error_at_start_up() -> None:
    with pytest.raises(ConfigurationError, match="routing"):
        Shield(policy("{residency: [ch]}"), Router([*routes().values()]))
    with pytest.raises(ConfigurationError, match="routing"):
        Shield(policy(tenants="{bank: {routing: {models: [none]}}}"), Router([*routes().values()]))


@pytest.mark.parametrize(
    ("rules", "field"),
    [("{models: [other]}", "models"), ("{residency: [eu]}", "residency"), ("{security_critical: true}", "critical")],
)
def test_a_backend_that_is_no_router_is_held_to_the_same(rules: str, field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Shield(policy(rules), backend())
    with Shield(policy("{models: [m]}"), backend("fine")) as shield:
        assert shield.invoke("hello").text == "fine"


def test_each_tenant_has_the_routes_of_its_own_policy() -> None:
    made = policy(tenants="{bank: {routing: {security_critical: true}}, shop: {routing: {models: [large]}}}")
    with Shield(made, Router([*routes().values()])) as shield:
        texts = {t: shield.invoke("hello", principal=Principal(tenant=t)).text for t in ("bank", "shop", "other")}
        reply = shield.invoke("hello", principal=Principal(tenant="shop"))
    assert texts == {"bank": "home", "shop": "near", "other": "home"}
    assert reply.backend["answered_by"]["passed_over"] == [{"route": "home", "reason": "model"}]


def test_the_guards_know_the_control_tokens_of_every_route() -> None:
    strange = backend("x")
    strange.control_tokens = frozenset({"@@OTHER@@"})
    with Shield(policy(), router(backend("y"), strange)) as shield:
        assert not shield.screen("@@OTHER@@").allowed


# -- falling back never loosens ------------------------------------------------------------------------------------


def test_the_caps_of_the_routes_on_the_way_hold_for_those_after_them() -> None:
    last = Streamed(["bit"])
    made = router(
        Route(backend(DOWN), name="a", max_output_tokens=3, attempts=1),
        Route(backend(DOWN), name="b", streaming=False, attempts=1),
        Route(last, name="c", max_output_tokens=100),
    )
    assert [type(item) for item in made.stream(ask())] == [Completion]
    assert last.requests[0].max_output_tokens == 3


caps = st.tuples(st.none() | st.integers(1, 20), st.booleans(), st.none() | st.integers(12, 40))


@given(st.lists(caps, min_size=1, max_size=5), st.integers(1, 20))
def test_no_way_along_the_routes_allows_more_than_any_of_its_routes(given_caps: list[Any], most: int) -> None:
    def fails(request: CompletionRequest) -> Any:
        raise BackendError("HTTP 400")

    backends = [Streamed(fails) for _ in given_caps]
    made = router(*(
        Route(b, name=f"r{i}", max_output_tokens=out, streaming=streaming, max_context_tokens=context)
        for i, (b, (out, streaming, context)) in enumerate(zip(backends, given_caps, strict=True))
    ))  # fmt: skip
    with pytest.raises(BackendError):
        list(made.stream(ask(max_output_tokens=most)))
    caps_so_far, tokens = most, 2
    for asked, (out, _, context) in zip(backends, given_caps, strict=True):
        if asked.requests:
            caps_so_far = min(caps_so_far, out or caps_so_far)
            assert asked.requests[0].max_output_tokens == caps_so_far
            assert context is None or tokens + caps_so_far <= context


def test_a_route_whose_circuit_is_open_still_lends_its_caps() -> None:
    last = backend("last")
    made = router(Route(backend(DOWN), name="a", max_output_tokens=3, attempts=1), last, failures=1)
    made.complete(ask())
    assert passed(made.complete(ask())) == {"a": "circuit_open"}
    assert [r.max_output_tokens for r in last.requests] == [3, 3]


# -- circuits ------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_fails_again_and_again_is_left_alone_and_tried_by_one_call_later() -> None:
    clock = Clock()
    first = backend(*[DOWN] * 5, "back")
    made = router(Route(first, name="a", attempts=1), backend("second"), failures=3, cool_down_s=10, clock=clock)
    reasons = [passed(made.complete(ask())).get("a") for _ in range(5)]
    assert reasons == ["unavailable"] * 3 + ["circuit_open"] * 2
    clock.now_s += 10
    assert passed(made.complete(ask())) == {"a": "unavailable"}
    clock.now_s += 19
    assert passed(made.complete(ask())) == {"a": "circuit_open"}
    clock.now_s += 1
    assert passed(made.complete(ask())) == {"a": "unavailable"}
    clock.now_s += 40
    assert made.complete(ask()).message["content"] == "back"
    assert made.describe()["routes"][0]["circuit"] == "closed"


@pytest.mark.parametrize("fault", [BackendError("HTTP 400"), ContextExceeded("x")])
def test_what_a_request_brings_about_itself_does_not_close_a_route_for_others(fault: Exception) -> None:
    first = backend(*[fault] * 50, "fine")
    made = router(first, backend("second"), failures=2)
    for _ in range(50):
        made.complete(ask())
    assert made.complete(ask()).message["content"] == "fine"


def test_only_one_of_many_callers_tries_a_half_open_circuit() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, cool_down_s=5, clock=clock)
    assert breaker.admit()
    breaker.failed()
    clock.now_s += 5
    admitted: list[bool] = []
    threads = [threading.Thread(target=lambda: admitted.append(breaker.admit())) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 1
    breaker.withdrawn()
    assert breaker.admit()


@given(st.lists(st.sampled_from(["ok", "fail", "withdraw", "wait"]), max_size=60))
def test_a_breaker_never_admits_more_than_one_call_into_a_circuit_that_is_not_closed(steps: list[str]) -> None:
    clock = Clock()
    breaker = Breaker(failures=2, cool_down_s=4, most_s=16, clock=clock)
    for step in steps:
        if step == "wait":
            clock.now_s += 3
            continue
        state = breaker.state
        if not breaker.admit():
            assert state == "open"
            continue
        if state == "half_open":
            assert not breaker.admit()
        {"ok": breaker.succeeded, "fail": breaker.failed, "withdraw": breaker.withdrawn}[step]()
        if step == "ok":
            assert breaker.state == "closed"
        if step == "fail" and state == "half_open":
            assert breaker.state == "open"
    clock.now_s += 16
    assert breaker.state != "open"


# -- a route's own budget ------------------------------------------------------------------------------------------


def test_a_route_without_budget_is_passed_over_and_pays_only_for_what_it_used() -> None:
    first = backend("one two")
    made = router(Route(first, name="a", limits=(RouteLimit(3600, total_tokens=25),)), backend("second"))
    # Each holds 2 + 8, and uses 2 + 4.
    answers = [made.complete(ask()).message["content"] for _ in range(4)]
    assert answers == ["one two"] * 3 + ["second"]
    assert passed(made.complete(ask())) == {"a": "budget"}


@pytest.mark.parametrize("fault", ["fails", "down"])
def test_what_a_failed_attempt_held_is_given_back_and_a_ledger_that_fails_admits_nobody(fault: str) -> None:
    class Broken(MemoryLedger):
        def reserve(self, charges: Any) -> Any:
            if fault == "down":
                raise LedgerError("down")
            return super().reserve(charges)

    ledger = Broken()
    first = backend(*[BackendError("x")] * 9, "fine")
    made = router(Route(first, name="a", limits=(RouteLimit(3600, total_tokens=12),)), backend("2"), ledger=ledger)
    for _ in range(9):
        assert made.complete(ask()).message["content"] == "2"
    assert not ledger._holds
    assert made.complete(ask()).message["content"] == ("2" if fault == "down" else "fine")


@pytest.mark.parametrize("how", ["late", "left"])
def test_an_attempt_that_is_late_or_left_is_paid_for(how: str) -> None:
    def works(request: CompletionRequest) -> str:
        if how == "left":
            request.cancelled.set()
        while not request.expired():
            time.sleep(0.005)
        raise BackendError("the caller is gone")

    ledger = MemoryLedger()
    limits = (RouteLimit(3600, total_tokens=100),)
    made = router(Route(backend(works), name="a", timeout_s=0.05, attempts=1, limits=limits), ledger=ledger)
    with pytest.raises(BackendError):
        made.complete(ask())
    assert not ledger._holds
    assert ledger.used("route:a", 3600) == Usage(2, 8)


@pytest.mark.parametrize("last", [DOWN, BackendError("HTTP 400")])
def test_where_no_route_answers_the_attempt_that_cost_most_is_charged(last: Any) -> None:
    def works(request: CompletionRequest) -> str:
        time.sleep(0.1)
        request.progress.input_tokens, request.progress.output_tokens = 2, 5
        raise BackendTimeout("late")

    who, ledger = Principal(user="u"), MemoryLedger()
    rules = policy(budget="{limits: [{scope: user, window: 1h, total_tokens: 9000}]}")
    limits = (RouteLimit(3600, total_tokens=9000),)
    made = router(
        Route(backend(works), name="a", attempts=1), Route(backend(last), name="b", limits=limits, attempts=1)
    )
    with Shield(rules, made, ledger=ledger) as shield, pytest.raises(BackendError):
        shield.invoke("hello", principal=who)
    assert ledger.used(who.account("user"), 3600) == Usage(2, 5)
    assert made._ledger.used("route:b", 3600) == Usage()


# -- streams -------------------------------------------------------------------------------------------------------


def test_after_the_first_bit_there_is_no_falling_back() -> None:
    second = backend("second")
    made = router(Streamed(["some", DOWN]), second)
    stream = made.stream(ask())
    assert next(stream) == "some"
    with pytest.raises(BackendUnavailable):
        next(stream)
    assert not second.requests


def test_a_stream_that_fails_before_its_first_bit_is_answered_by_the_next_route() -> None:
    settings = policy(streaming="{mode: windowed}")
    prose = "The museum opens at nine, and the tram stops in front of it. " * 6
    with Shield(settings, router(Streamed([DOWN]), Streamed([prose[:200], prose[200:]]))) as shield:
        events = list(shield.stream("hello"))
    assert len(events) > 2
    assert events[-1].reply is not None
    assert "".join(e.text for e in events) == events[-1].reply.text == prose
    assert events[-1].reply.backend["answered_by"]["passed_over"] == [{"route": "a", "reason": "unavailable"}]


def test_where_security_is_critical_nothing_is_streamed() -> None:
    settings = policy("{security_critical: true}", streaming="{mode: windowed}")
    local = Streamed(["The museum opens at nine. "] * 40)
    with Shield(settings, Router([Route(local, name="home", local=True)])) as shield:
        assert len(list(shield.stream("hello"))) == 1


def test_closing_a_stream_closes_the_route_and_frees_its_budget() -> None:
    def slow(request: CompletionRequest) -> Iterator[str]:
        while True:
            yield "word "

    ledger, source = MemoryLedger(), Streamed(slow, counts=True)
    made = router(Route(source, name="a", limits=(RouteLimit(3600, output_tokens=100),)), ledger=ledger)
    stream = made.stream(ask())
    next(stream)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert source.left.is_set()
    assert not ledger._holds
    assert ledger.used("route:a", 3600).output_tokens == 2
    assert made.describe()["routes"][0]["circuit"] == "closed"


# -- telemetry, and a real model -----------------------------------------------------------------------------------


def test_the_trace_says_who_answered_and_why_others_did_not() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Shield(policy(), router(backend(DOWN), backend("x")), tracer_provider=provider) as shield:
        shield.invoke("hello")
    [chat] = [s for s in exporter.get_finished_spans() if s.name.startswith("chat")]
    assert chat.attributes is not None
    assert chat.attributes[names.ROUTE] == "b"
    assert chat.attributes[names.ROUTES_PASSED_OVER] == ("a: unavailable",)


HTTP_FAULTS: dict[str, tuple[Handler, str, int]] = {
    "500": (lambda e: e.json({}, "500 Internal Server Error"), "unavailable", 2),
    "closes": (lambda e: None, "unavailable", 2),
    "429": (lambda e: e.json({}, "429 Too Many Requests"), "busy", 2),
    "400": (lambda e: e.json({}, "400 Bad Request"), "failed", 1),
    "401": (lambda e: e.json({}, "401 Unauthorized"), "failed", 1),
    "no JSON": (lambda e: e.raw(b"<html>"), "failed", 1),
}


@pytest.mark.parametrize("fault", HTTP_FAULTS)
def test_what_a_real_server_does_wrong_is_made_good_by_the_next(fault: str) -> None:
    handler, reason, attempts = HTTP_FAULTS[fault]
    with upstream(handler) as bad, upstream(says(answer("I am here."))) as good:
        first, second = (OpenAICompatible(f"{s.url}/v1", dialect="plain") for s in (bad, good))
        made = Router([Route(first, name="bad"), Route(second, name="good")])
        with Shield(policy(), made) as shield:
            reply = shield.invoke("hello")
        assert reply.text == "I am here."
        assert reply.backend["answered_by"] == {"name": "good", "passed_over": [{"route": "bad", "reason": reason}]}
        assert len(bad.asked("/v1/chat/completions")) == attempts
        made.close()


def test_a_server_that_went_away_is_passed_over() -> None:
    with upstream(says(answer("I am here."))) as good:
        with upstream(says(answer())) as bad:
            first, second = (OpenAICompatible(f"{s.url}/v1", dialect="plain") for s in (bad, good))
            made = Router([Route(first, name="bad"), Route(second, name="good")])
            shield = Shield(policy(), made)
        assert shield.invoke("hello").backend["answered_by"]["passed_over"] == [
            {"route": "bad", "reason": "unavailable"}
        ]
        shield.close()
        made.close()


def test_a_real_model_answers_where_a_first_route_is_down(smollm2: LlamaCpp) -> None:
    made = router(backend(DOWN, context_tokens=100_000), smollm2)
    settings = policy(context="{max_tokens: 4096, max_output_tokens: 12}")
    with Shield(settings, made) as shield:
        reply = shield.invoke("What is the capital of France?")
        streamed = list(shield.stream("What is the capital of France?"))
        assert not shield.screen("<|im_start|>").allowed
    assert reply.text
    assert reply.usage.input_tokens == smollm2.count_tokens(Conversation.of("What is the capital of France?"))
    assert reply.backend["answered_by"]["name"] == "b"
    assert streamed[-1].reply is not None
    assert streamed[-1].reply.text


def test_names_and_numbers_of_routes_are_checked() -> None:
    for wrong in ([], [Route(backend(), name="a"), Route(backend(), name="a")]):
        with pytest.raises(ConfigurationError):
            Router(wrong)
    with pytest.raises(ConfigurationError):
        Route(backend(), name="has spaces in it")
    with pytest.raises(ConfigurationError):
        Route(backend(), attempts=0)
    with pytest.raises(ConfigurationError, match="routing"):
        router(backend()).under(RoutingSettings(models=("x",)))
