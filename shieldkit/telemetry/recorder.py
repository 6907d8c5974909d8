"""Spans, metrics and log events of a request.

    shieldkit invoke                 the root, a child of whatever span is current in the caller
    ├── apply_guardrail markers      a child for each guard, with an event for each finding
    ├── chat smollm2                 the model, by the GenAI conventions
    └── apply_guardrail leak

Only the OpenTelemetry API is needed; without an SDK all of it costs a few microseconds. What is recorded are names of
guards, rules, stages and actions, numbers, and types of errors. There is no way to hand text to this module: a rule id that
looks like text (a careless guard may have made it of one) is recorded as `_OTHER`.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from shieldkit.outcome import Action, Finding, Usage, Verdict
from shieldkit.outcome import Status as GuardStatus
from shieldkit.telemetry import names
from shieldkit.telemetry.events import emit

MAX_EVENTS = 32
MAX_RULES = 512
_ID = re.compile(r"[\w.:/-]{1,80}")
_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


class Telemetry:
    """Where requests of one policy are recorded. The providers are OpenTelemetry's global ones unless given."""

    def __init__(
        self,
        *,
        policy: str,
        policy_version: str,
        mode: str,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("shieldkit", tracer_provider=tracer_provider)
        meter = metrics.get_meter("shieldkit", meter_provider=meter_provider)
        self._policy: dict[str, AttributeValue] = {
            names.GUARDRAIL_POLICY: policy,
            names.GUARDRAIL_POLICY_VERSION: policy_version,
            names.MODE: mode,
        }
        self._verdicts = meter.create_counter(names.METRIC_VERDICTS, description="Verdicts by guard, rule and action")
        self._refusals = meter.create_counter(names.METRIC_REFUSALS, description="Refusals by rule")
        self._guard_s = meter.create_histogram(
            names.METRIC_GUARD_DURATION, unit="s", description="How long a guard took",
            explicit_bucket_boundaries_advisory=names.BUCKETS_GUARD_S,
        )  # fmt: skip
        self._tokens = meter.create_histogram(
            names.METRIC_TOKENS, unit="{token}", description="Tokens of a call",
            explicit_bucket_boundaries_advisory=names.BUCKETS_TOKENS,
        )  # fmt: skip
        self._model_s = meter.create_histogram(
            names.METRIC_MODEL_DURATION, unit="s", description="How long the model took",
            explicit_bucket_boundaries_advisory=names.BUCKETS_S,
        )  # fmt: skip
        self._rules: set[str] = set()

    def request(self, operation: str) -> RequestTrace:
        """Begin a request: `invoke`, `stream` or `screen`."""
        return RequestTrace(self, self._tracer, operation)

    def _rule(self, guard: str, rule: str) -> str:
        """`guard.rule` as it may be recorded: ids alone, and no more of them than metrics can take."""
        if not rule or rule in self._rules:
            return rule
        own = rule.removeprefix(f"{guard}.")
        if own == rule or len(self._rules) >= MAX_RULES or not _ID.fullmatch(own):
            return f"{guard}.{names.OTHER}"
        self._rules.add(rule)
        return rule


class RequestTrace:
    """The trace of one request. `trace_id` is 32 hex digits, also when nothing is exported."""

    def __init__(self, telemetry: Telemetry, tracer: Tracer, operation: str) -> None:
        self._telemetry = telemetry
        self._tracer = tracer
        self._operation = operation
        self._span = tracer.start_span(
            names.SPAN_REQUEST.format(operation=operation),
            attributes={**telemetry._policy, names.NAMES_VERSION: names.VERSION},
        )
        self._context: Context = trace.set_span_in_context(self._span)
        trace_id = self._span.get_span_context().trace_id
        self.trace_id = trace.format_trace_id(trace_id) if trace_id else secrets.token_hex(16)
        self._done = False

    def guard(self, verdict: Verdict, start_ns: int, end_ns: int) -> None:
        """Record a verdict, after the fact, as a span of its own with an event for each finding."""
        rule, source = self._telemetry._rule(verdict.guard, verdict.rule), verdict.stage.value
        self._telemetry._verdicts.add(1, {
            names.GUARD: verdict.guard, names.STAGE: source, names.STATUS: verdict.status.value,
            names.ACTION: verdict.action.value, names.RULE: rule,
        })  # fmt: skip
        duration: dict[str, AttributeValue] = {
            names.OPERATION: names.OPERATION_GUARD, names.PROVIDER: names.PROVIDER_SHIELDKIT,
            names.GUARDRAIL_COMPONENT: verdict.guard, names.GUARDRAIL_SOURCE: source,
        }  # fmt: skip
        if verdict.status is not GuardStatus.RAN:
            duration[names.ERROR_TYPE] = verdict.status.value
        self._telemetry._guard_s.record(max(0, end_ns - start_ns) / 1e9, duration)
        if self._span.is_recording():
            self._guard_span(verdict, rule, start_ns, max(start_ns, end_ns))
        quiet = verdict.action is Action.ALLOW and verdict.status is GuardStatus.RAN
        emit(
            logging.DEBUG if quiet else logging.INFO,
            "verdict", trace_id=self.trace_id, guard=verdict.guard, stage=source,
            status=verdict.status.value, action=verdict.action.value, would=verdict.would.value, rule=rule,
            findings=len(verdict.findings), coverage=round(verdict.coverage.ratio, 6),
        )  # fmt: skip

    def _guard_span(self, verdict: Verdict, rule: str, start_ns: int, end_ns: int) -> None:
        span = self._tracer.start_span(
            names.SPAN_GUARD.format(guard=verdict.guard),
            context=self._context,
            start_time=start_ns,
            attributes={
                **self._telemetry._policy,
                names.OPERATION: names.OPERATION_GUARD,
                names.PROVIDER: names.PROVIDER_SHIELDKIT,
                names.GUARDRAIL_COMPONENT: verdict.guard,
                names.GUARDRAIL_SOURCE: verdict.stage.value,
                names.GUARDRAIL_RESULT_TYPE: "verdict",
                names.GUARDRAIL_RESULT_VALUE: verdict.action.value,
                names.GUARDRAIL_RULE: rule,
                names.GUARDRAIL_SCORE: verdict.score,
                names.STAGE: verdict.stage.value,
                names.STATUS: verdict.status.value,
                names.WOULD: verdict.would.value,
                names.COVERAGE: verdict.coverage.ratio,
                names.FINDINGS: len(verdict.findings),
            },
        )
        for finding in verdict.findings[:MAX_EVENTS]:
            span.add_event(names.EVENT_RESULT, self._event(finding, verdict), timestamp=end_ns)
        if verdict.status is not GuardStatus.RAN:
            span.set_attribute(names.ERROR_TYPE, verdict.status.value)
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=end_ns)

    def _event(self, finding: Finding, verdict: Verdict) -> dict[str, AttributeValue]:
        rule = self._telemetry._rule(verdict.guard, f"{verdict.guard}.{finding.rule}")
        return {
            **{
                name: self._telemetry._policy[name] for name in (names.GUARDRAIL_POLICY, names.GUARDRAIL_POLICY_VERSION)
            },
            names.PROVIDER: names.PROVIDER_SHIELDKIT,
            names.GUARDRAIL_COMPONENT: verdict.guard,
            names.GUARDRAIL_RULE: rule,
            names.GUARDRAIL_RESULT_TYPE: "verdict",
            names.GUARDRAIL_RESULT_VALUE: verdict.action.value,
            names.GUARDRAIL_CATEGORY: rule.removeprefix(f"{verdict.guard}."),
            names.GUARDRAIL_SCORE: finding.score,
            names.GUARDRAIL_SOURCE: verdict.stage.value,
        }

    def model(self, backend: str, model: str) -> ModelSpan:
        """Begin the model's turn."""
        labels: dict[str, AttributeValue] = {
            names.OPERATION: names.OPERATION_CHAT, names.PROVIDER: backend, names.REQUEST_MODEL: model
        }  # fmt: skip
        span = self._tracer.start_span(
            names.SPAN_CHAT.format(model=model),
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes=labels,
        )
        return ModelSpan(self._telemetry, span, self._context, labels)

    def finish(self, *, refused: bool, rule: str, usage: Usage, action: str) -> None:
        """Close the request with its outcome. A second time does nothing."""
        if self._done:
            return
        self._done = True
        rule = rule if not rule or rule in self._telemetry._rules else names.OTHER  # `guard` has seen it before
        if refused:
            self._telemetry._refusals.add(1, {names.RULE: rule, names.OPERATION: self._operation})
        if self._span.is_recording():
            self._span.set_attributes({
                names.REFUSED: refused, names.RULE: rule, names.ACTION: action,
                names.USAGE_INPUT: usage.input_tokens, names.USAGE_OUTPUT: usage.output_tokens,
            })  # fmt: skip
        self._span.end()
        emit(
            logging.INFO, "request", trace_id=self.trace_id, operation=self._operation, refused=refused, rule=rule,
            action=action, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
        )  # fmt: skip

    def error(self, error: BaseException) -> None:
        """Close the request with the type of an error; its message may hold content, and is not recorded."""
        if self._done:
            return
        self._done = True
        _fail(self._span, error)
        emit(logging.INFO, "request", trace_id=self.trace_id, operation=self._operation, error=type(error).__name__)


class ModelSpan:
    """The model's turn. `context` is for the thread that calls the model, so that spans made there are its children."""

    def __init__(self, telemetry: Telemetry, span: Span, parent: Context, labels: dict[str, AttributeValue]) -> None:
        self._telemetry = telemetry
        self._span = span
        self._labels = labels
        self._start_s = time.perf_counter()
        self.context: Context = trace.set_span_in_context(span, parent)

    def end(self, usage: Usage, finish_reason: str, route: Mapping[str, Any] | None = None) -> None:
        """Close with the real token counts; `route` says who answered, and who was passed over for which reason."""
        self._telemetry._tokens.record(usage.input_tokens, {**self._labels, names.TOKEN_TYPE: "input"})
        self._telemetry._tokens.record(usage.output_tokens, {**self._labels, names.TOKEN_TYPE: "output"})
        self._telemetry._model_s.record(time.perf_counter() - self._start_s, self._labels)
        if self._span.is_recording():
            self._span.set_attributes({
                names.USAGE_INPUT: usage.input_tokens, names.USAGE_OUTPUT: usage.output_tokens,
                # A server says this; only words that are known go on record.
                names.FINISH_REASONS: [finish_reason if finish_reason in _FINISH_REASONS else "other"],
            })  # fmt: skip
            if route is not None:
                self._span.set_attributes({
                    names.ROUTE: str(route["name"]),
                    names.ROUTES_PASSED_OVER: [f"{p['route']}: {p['reason']}" for p in route["passed_over"]],
                })  # fmt: skip
        self._span.end()

    def fail(self, error: BaseException) -> None:
        """Close with the type of an error."""
        labels = {**self._labels, names.ERROR_TYPE: type(error).__name__}
        self._telemetry._model_s.record(time.perf_counter() - self._start_s, labels)
        _fail(self._span, error)


def _fail(span: Span, error: BaseException) -> None:
    span.set_attribute(names.ERROR_TYPE, type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))
    span.end()
