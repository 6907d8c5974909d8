"""The model's turn: one call within its deadline, in a span of its own, that ends in a completion or a typed error."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry import context as otel_context

from shieldkit.backends.base import Backend, CallOptions, Completion, CompletionRequest
from shieldkit.chain.metering import Meter
from shieldkit.chain.trip import Trip
from shieldkit.conversation import Conversation
from shieldkit.driving import Call, Steps
from shieldkit.errors import BackendError, BackendTimeout, ShieldError
from shieldkit.outcome import Usage
from shieldkit.policy import Policy
from shieldkit.telemetry import ModelSpan
from shieldkit.telemetry.events import told


def asked(
    policy: Policy, sent: Conversation, schema: Mapping[str, Any] | None, options: CallOptions
) -> CompletionRequest:
    """What the model is asked, under the policy's caps."""
    return CompletionRequest(
        sent,
        max_output_tokens=options.output_tokens(policy.context.max_output_tokens),
        schema=schema,
        temperature=policy.model.temperature if options.temperature is None else options.temperature,
        seed=options.seed,
        tool_choice=options.tool_choice,
        stop=options.stop,
        deadline=time.monotonic() + policy.model.timeout,
    )


def complete(
    trip: Trip, meter: Meter, sent: Conversation, schema: Mapping[str, Any] | None, options: CallOptions
) -> Steps[Completion]:
    """Ask the model. Raises `BackendError` and its kin, and nothing else that a backend could think of."""
    policy, backend = meter.policy, meter.backend
    request = asked(policy, sent, schema, options)
    with turn(trip, policy, backend, request) as span, meter.working(request) as work:

        def call() -> Completion:
            token = otel_context.attach(span.context)
            try:
                return backend.complete(request)
            finally:
                otel_context.detach(token)

        answer = yield Call(partial(work.run, call), policy.model.timeout, "model", work.leave)
        completion = checked(backend, answer)
        span.end(Usage(completion.input_tokens, completion.output_tokens), completion.finish_reason, completion.route)
    return completion


@contextmanager
def turn(trip: Trip, policy: Policy, backend: Backend, request: CompletionRequest) -> Iterator[ModelSpan]:
    """The model's span; whatever is raised inside closes it, and becomes a typed error."""
    span = trip.trace.model(backend.name, backend.model)
    try:
        yield span
    except BaseException as error:
        span.fail(error)
        if isinstance(error, TimeoutError):
            if time.monotonic() < request.deadline:
                told("backend_failed", error, backend=backend.name)
                raise BackendTimeout(f"{backend.name} gave up before the deadline, by a time-out of its own") from None
            raise BackendTimeout(f"no answer within {policy.model.timeout:g} s (policy: model.timeout)") from None
        if isinstance(error, ShieldError) or not isinstance(error, Exception):
            raise
        told("backend_failed", error, backend=backend.name)
        raise BackendError(f"{backend.name} failed ({type(error).__name__})") from None


def checked(backend: Backend, completion: object) -> Completion:
    """A backend's answer is input: a completion with a message and counts, or `BackendError`."""
    if not isinstance(completion, Completion):
        raise BackendError(f"{backend.name} answered with a {type(completion).__name__}, not a Completion")
    if not isinstance(completion.message, Mapping) or not _is_content(completion.message.get("content")):
        raise BackendError(f"{backend.name} answered with a message that is none")
    for count in (completion.input_tokens, completion.output_tokens):
        if type(count) is not int or count < 0:
            raise BackendError(f"{backend.name} answered with a token count that is none")
    return completion


def is_text(part: Any) -> bool:
    """Whether a part of a message's content is the answer's text."""
    return (
        isinstance(part, Mapping) and part.get("type") in ("text", "output_text") and isinstance(part.get("text"), str)
    )


def _is_content(content: object) -> bool:
    """A text, none (beside tool calls), or parts; a part that calls itself text has one."""
    if isinstance(content, list | tuple):
        return all(isinstance(p, Mapping) and (p.get("type") != "text" or is_text(p)) for p in content)
    return content is None or isinstance(content, str)
