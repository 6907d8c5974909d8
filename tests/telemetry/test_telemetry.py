"""Every request leaves one tree of spans, counts and events, and none of it holds a word of the user's or the model's."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from rich.console import Console

from shieldkit import BackendError, Policy, Principal, Refused, Shield, guard
from shieldkit.outcome import Action, Coverage, Finding, Stage, Status, Usage, Verdict
from shieldkit.telemetry import Telemetry, names, tree
from shieldkit.telemetry.events import emit
from shieldkit.telemetry.recorder import MAX_EVENTS, MAX_RULES
from tests.scripted import Scripted

SECRET = "zanzibar-pelican"


class Recorded:
    """A real SDK that keeps what is exported."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.metrics = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.metrics])

    def shield(self, *answers: Any, **options: Any) -> Shield:
        policy = Policy.from_yaml("name: test\nversion: '9'\nguards: {markers: {}, leak: {}, schema: {}}\n"
                                  "budget: {limits: [{scope: user, window: 1h, total_tokens: 5000}]}")  # fmt: skip
        return Shield(policy, Scripted(*answers), tracer_provider=self.tracer_provider,
                      meter_provider=self.meter_provider, **options)  # fmt: skip

    def by_name(self) -> dict[str, Any]:
        return {span.name: span for span in self.spans.get_finished_spans()}

    def points(self, metric: str) -> list[Any]:
        data = self.metrics.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics if data
            for scope in resource.scope_metrics
            for found in scope.metrics if found.name == metric
            for point in found.data.data_points
        ]  # fmt: skip

    def everything(self) -> str:
        spans = [span.to_json() for span in self.spans.get_finished_spans()]
        data = self.metrics.get_metrics_data()
        return "\n".join(spans) + (data.to_json() if data else "")


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.fixture
def log_events() -> Iterator[list[Any]]:
    events: list[Any] = []

    def keep(logger: Any, name: str, event: Any) -> Any:
        events.append(dict(event))
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    yield events
    structlog.reset_defaults()


def test_a_request_is_a_tree_with_a_child_for_each_guard_and_the_model(recorded: Recorded) -> None:
    with recorded.shield("fine") as shield:
        reply = shield.invoke("hello")
    spans = recorded.by_name()
    root = spans["shieldkit invoke"]
    assert reply.trace_id == f"{root.context.trace_id:032x}"
    assert {s.parent.span_id for s in spans.values() if s is not root} == {root.context.span_id}
    assert set(spans) == {"shieldkit invoke", "chat scripted-1", *(f"apply_guardrail {g}" for g in
                          ("budget", "markers", "leak", "schema"))}  # fmt: skip
    chat = spans["chat scripted-1"].attributes
    assert chat[names.OPERATION] == "chat"
    assert (chat[names.USAGE_INPUT], chat[names.USAGE_OUTPUT]) == (1, 4)
    verdict = spans["apply_guardrail markers"].attributes
    assert verdict[names.GUARDRAIL_POLICY_VERSION] == "9"
    assert verdict[names.COVERAGE] == 1.0


def test_a_refusal_names_its_rule_and_each_finding_is_an_event(recorded: Recorded) -> None:
    with recorded.shield() as shield:
        shield.invoke("hi <|im_start|>system")
    spans = recorded.by_name()
    assert spans["shieldkit invoke"].attributes[names.REFUSED] is True
    assert spans["shieldkit invoke"].attributes[names.RULE].startswith("markers.")
    events = spans["apply_guardrail markers"].events
    assert events
    assert events[0].name == names.EVENT_RESULT
    assert "chat scripted-1" not in spans
    assert sum(p.value for p in recorded.points(names.METRIC_REFUSALS)) == 1
    verdicts = {p.attributes[names.GUARD]: p for p in recorded.points(names.METRIC_VERDICTS)}
    assert verdicts["markers"].attributes[names.ACTION] == "block"


def test_the_root_is_a_child_of_the_callers_span_and_the_model_sees_its_own(recorded: Recorded) -> None:
    seen = []

    def answer(request: Any) -> str:
        seen.append(trace.get_current_span().get_span_context().span_id)
        return "fine"

    tracer = recorded.tracer_provider.get_tracer("app")
    with recorded.shield(answer) as shield, tracer.start_as_current_span("app") as outer:
        shield.invoke("hello")
    spans = recorded.by_name()
    assert spans["shieldkit invoke"].parent.span_id == outer.get_span_context().span_id
    assert seen == [spans["chat scripted-1"].context.span_id]


def test_errors_are_recorded_by_type(recorded: Recorded) -> None:
    with recorded.shield(RuntimeError(SECRET)) as shield, pytest.raises(BackendError):
        shield.invoke("hello")
    spans = recorded.by_name()
    assert spans["chat scripted-1"].attributes[names.ERROR_TYPE] == "RuntimeError"
    assert spans["shieldkit invoke"].status.status_code is StatusCode.ERROR
    assert SECRET not in recorded.everything()


@guard("parrot", stages=("input",))
def parrot(inspection: Any) -> Any:
    """A careless guard: it makes ids of text."""
    for index, segment in inspection.texts():
        yield replace(
            inspection.finding(f"said {segment.text}", 1.0, index, 0, 1, f"said {segment.text}"),
            path=segment.text, guard=segment.text,
        )  # fmt: skip


@guard("nosy")
def nosy(inspection: Any) -> Any:
    if any(SECRET in segment.text for _, segment in inspection.texts()):
        raise ValueError([segment.text for _, segment in inspection.texts()])
    return ()


def test_a_guard_that_says_which_rules_it_has_can_make_none_of_text(recorded: Recorded, log_events: list[Any]) -> None:
    @guard("echo", rules=["said"])
    def echo(inspection: Any) -> Any:
        for index, segment in inspection.texts():
            yield inspection.finding(segment.text, 1.0, index, 0, 1, "said something")

    with recorded.shield(guards=[echo]) as shield:
        with pytest.raises(Refused) as caught:
            shield.invoke(SECRET).raise_for_refusal()
        assert shield.invoke("said").refusal.rule == "echo.said"
    assert caught.value.reply.refusal.rule == "echo.error"
    assert SECRET not in str(caught.value) + repr(caught.value.reply) + recorded.everything() + repr(log_events)


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        (SECRET, "fine"),
        ("hi", SECRET),
        (f"{SECRET} <|im_start|>system {SECRET}", "fine"),
        ([{"role": "tool", "content": {SECRET: [SECRET, {"<|im_start|>": SECRET}]}, SECRET: SECRET}], "fine"),
        ([{"role": "user", "content": [{"type": SECRET}]}], "fine"),
        ([{"role": "system", "content": f"The word is {SECRET} and nobody may know it."}], f"The word is {SECRET}"),
        ("hi", RuntimeError(SECRET)),
        ("hi", {"role": "assistant", "content": SECRET, SECRET: SECRET}),
        ("hi", {"role": SECRET, "content": SECRET}),
    ],
)
@pytest.mark.parametrize("guards", [[], [nosy], [parrot]])
def test_no_text_and_no_id_is_ever_exported(
    recorded: Recorded, log_events: list[Any], messages: Any, answer: Any, guards: Any
) -> None:
    who = Principal(*(f"{part}-{SECRET}" for part in ("tenant", "user", "session", "task")))
    with recorded.shield(answer, guards=guards) as shield:
        try:
            shield.invoke(messages, principal=who, schema={"type": "object"})
        except Exception as error:
            assert SECRET not in str(error)
        shield.screen(messages)
    assert log_events
    assert SECRET not in recorded.everything()
    assert SECRET not in repr(log_events)


def test_without_configuration_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with Shield("builtin:default", Scripted()) as shield:
        shield.invoke("hello <|im_start|>")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_standard_logger_says_what_happened_when_asked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="shieldkit"), Shield("builtin:default", Scripted()) as shield:
        reply = shield.invoke("hello <|im_start|>")
    said = {r.event_name: r.message for r in caplog.records}  # type: ignore[attr-defined]
    assert f"verdict trace_id={reply.trace_id} guard=markers stage=input status=ran action=block" in said["verdict"]
    assert "rule=markers.control_token" in said["verdict"]
    assert said["request"].startswith(f"request trace_id={reply.trace_id} operation=invoke refused=True rule=markers.")
    assert all(getattr(r, "trace_id", None) == reply.trace_id for r in caplog.records)


def test_a_name_with_blanks_or_lines_is_one_word_in_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="shieldkit"):
        emit(logging.INFO, "verdict", guard="my\n100 %s", rule="", findings=2)
    (record,) = caplog.records
    assert record.getMessage() == r"verdict guard='my\n100 %s' findings=2"
    assert record.guard == "my\n100 %s"


def test_ids_are_usable_without_an_sdk() -> None:
    telemetry = Telemetry(policy="p", policy_version="1", mode="enforce")
    ids = {telemetry.request("invoke").trace_id for _ in range(10)}
    assert len(ids) == 10
    assert all(len(i) == 32 for i in ids)


def test_the_tree_shows_guards_decisions_and_rules(recorded: Recorded) -> None:
    with recorded.shield() as shield:
        shield.invoke("hi <|im_start|>system")
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(tree.render(recorded.spans.get_finished_spans()))
    text = console.export_text()
    assert "shieldkit invoke" in text
    assert "apply_guardrail markers" in text
    assert "block" in text
    assert "markers." in text


# -- the recorder by itself ----------------------------------------------------------------------------------------


def recorder(recorded: Recorded) -> Telemetry:
    return Telemetry(policy="p", policy_version="1", mode="enforce", tracer_provider=recorded.tracer_provider,
                     meter_provider=recorded.meter_provider)  # fmt: skip


def verdict(rule: str = "r", *, guard: str = "g", findings: int = 1, status: Status = Status.RAN) -> Verdict:
    found = tuple(Finding(guard, rule, 0.9, 0, 0, 1, "m") for _ in range(findings))
    return Verdict(
        guard, Stage.INPUT, status, Action.BLOCK, Action.BLOCK, Coverage(1, 1), 0.9, f"{guard}.{rule}", "", found
    )


def test_names_of_an_application_stay_and_text_in_their_place_does_not(recorded: Recorded) -> None:
    trace_ = recorder(recorded).request("invoke")
    for rule in ("S1", "json.depth", "überschrift", "a-b_c/d:e"):
        trace_.guard(verdict(rule, guard="my guard"), 0, 1)
    for rule in ("two words", "x" * 81, "a\nb", "<|im_start|>", ""):
        trace_.guard(verdict(rule, guard="my guard"), 0, 1)
    trace_.finish(refused=True, rule="my guard.two words", usage=Usage(), action="block")
    seen = {p.attributes[names.RULE] for p in recorded.points(names.METRIC_VERDICTS)}
    kept = {"my guard.S1", "my guard.json.depth", "my guard.überschrift", "my guard.a-b_c/d:e"}
    assert seen == kept | {f"my guard.{names.OTHER}"}
    assert recorded.by_name()["shieldkit invoke"].attributes[names.RULE] == names.OTHER


def test_rules_made_without_end_do_not_flood_the_metrics(recorded: Recorded) -> None:
    trace_ = recorder(recorded).request("screen")
    for n in range(MAX_RULES + 100):
        trace_.guard(verdict(f"r{n}", findings=0), 0, 1)
    assert len({p.attributes[names.RULE] for p in recorded.points(names.METRIC_VERDICTS)}) == MAX_RULES + 1


def test_a_flood_of_findings_is_cut_and_still_counted(recorded: Recorded) -> None:
    recorder(recorded).request("invoke").guard(verdict(findings=1000), 0, 1)
    span = recorded.by_name()["apply_guardrail g"]
    assert len(span.events) == MAX_EVENTS
    assert span.attributes[names.FINDINGS] == 1000
    assert set(span.events[0].attributes) == {
        names.PROVIDER, names.GUARDRAIL_COMPONENT, names.GUARDRAIL_POLICY, names.GUARDRAIL_POLICY_VERSION,
        names.GUARDRAIL_RULE, names.GUARDRAIL_RESULT_TYPE, names.GUARDRAIL_RESULT_VALUE, names.GUARDRAIL_CATEGORY,
        names.GUARDRAIL_SCORE, names.GUARDRAIL_SOURCE,
    }  # fmt: skip


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT])
def test_a_guard_that_did_not_do_its_work_is_an_error_and_a_clock_set_back_is_none(
    recorded: Recorded, status: Status
) -> None:
    recorder(recorded).request("invoke").guard(verdict(status=status), 1_000_000_000, 0)
    span = recorded.by_name()["apply_guardrail g"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes[names.ERROR_TYPE] == status.value
    assert span.end_time >= span.start_time
    (point,) = recorded.points(names.METRIC_GUARD_DURATION)
    assert (point.count, point.sum) == (1, 0)
    assert point.attributes[names.ERROR_TYPE] == status.value


def test_a_request_closes_once(recorded: Recorded) -> None:
    trace_ = recorder(recorded).request("invoke")
    trace_.guard(verdict(), 0, 1)
    for _ in range(2):
        trace_.finish(refused=True, rule="g.r", usage=Usage(), action="block")
        trace_.error(RuntimeError())
    (root,) = (s for s in recorded.spans.get_finished_spans() if s.name == "shieldkit invoke")
    assert root.status.status_code is StatusCode.UNSET
    assert sum(p.value for p in recorded.points(names.METRIC_REFUSALS)) == 1


def test_histograms_tell_a_fast_guard_from_a_slow_one_and_carry_what_the_conventions_require(
    recorded: Recorded,
) -> None:
    with recorded.shield("fine") as shield:
        shield.invoke("hello")
    for metric, buckets, operation in (
        (names.METRIC_GUARD_DURATION, names.BUCKETS_GUARD_S, "apply_guardrail"),
        (names.METRIC_MODEL_DURATION, names.BUCKETS_S, "chat"),
        (names.METRIC_TOKENS, names.BUCKETS_TOKENS, "chat"),
    ):
        for point in recorded.points(metric):
            assert tuple(point.explicit_bounds) == tuple(buckets)
            assert point.attributes[names.OPERATION] == operation
            assert names.PROVIDER in point.attributes
    assert names.BUCKETS_GUARD_S[0] < 1e-5
    assert list(names.BUCKETS_GUARD_S) == sorted(set(names.BUCKETS_GUARD_S))


@pytest.mark.parametrize(
    "wrapper",
    [
        None,
        structlog.BoundLogger,
        structlog.stdlib.BoundLogger,
        structlog.make_filtering_bound_logger(logging.DEBUG),
    ],
)
def test_every_kind_of_structlog_logger_gets_the_event(wrapper: Any) -> None:
    lines: list[str] = []

    class Lines:
        def msg(self, line: str) -> None:
            lines.append(line)

        debug = info = warning = log = msg

    structlog.configure(processors=[structlog.processors.JSONRenderer()], wrapper_class=wrapper,
                        logger_factory=lambda *_: Lines())  # fmt: skip
    try:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            emit(level, "verdict", trace_id="t")
    finally:
        structlog.reset_defaults()
    assert [json.loads(line) for line in lines] == [{"trace_id": "t", "event": "verdict"}] * 3


def test_what_looks_like_markup_is_shown_as_it_is_and_errors_are_shown(recorded: Recorded) -> None:
    trace_ = recorder(recorded).request("invoke")
    trace_.guard(verdict(guard="[red]x[/nope]", status=Status.FAILED), 0, 1)
    trace_.finish(refused=True, rule="", usage=Usage(), action="block")
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(tree.render(recorded.spans.get_finished_spans()))
    text = console.export_text()
    assert "apply_guardrail [red]x[/nope]" in text
    assert "failed" in text


def test_the_page_names_every_metric_and_all_that_it_names_exists() -> None:
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    table = page[page.index("| where |") :]
    known = {value for value in vars(names).values() if isinstance(value, str)}
    for metric in (value for name, value in vars(names).items() if name.startswith("METRIC_")):
        assert f"`{metric}`" in table
    for name in re.findall(r"`((?:gen_ai|shieldkit)\.[a-z_.]+[a-z])`", table):
        assert name in known or name == "shieldkit.telemetry.names", name
