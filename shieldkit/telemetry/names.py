"""All names of spans, attributes, metrics and events, in one place and under one version.

`gen_ai.*` without `guardrail`: OpenTelemetry's semantic conventions for generative AI (status: development).
`gen_ai.guardrail.*`: the draft of open-telemetry/semantic-conventions-genai#427; it may change, and then only this file
and `VERSION` do. `shieldkit.*`: our own. None of them ever carries text of a user or a model, or a principal's id.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "2026-11.1"

SPAN_REQUEST: Final = "shieldkit {operation}"
SPAN_GUARD: Final = "apply_guardrail {guard}"
SPAN_CHAT: Final = "chat {model}"
EVENT_RESULT: Final = "gen_ai.guardrail.result"

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
USAGE_INPUT: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT: Final = "gen_ai.usage.output_tokens"
ROUTE: Final = "shieldkit.route"
ROUTES_PASSED_OVER: Final = "shieldkit.route.passed_over"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
ERROR_TYPE: Final = "error.type"

GUARDRAIL_COMPONENT: Final = "gen_ai.guardrail.component.name"
GUARDRAIL_POLICY: Final = "gen_ai.guardrail.policy.id"
GUARDRAIL_POLICY_VERSION: Final = "gen_ai.guardrail.policy.version"
GUARDRAIL_RULE: Final = "gen_ai.guardrail.policy.rule.id"
GUARDRAIL_SOURCE: Final = "gen_ai.guardrail.source"
GUARDRAIL_RESULT_TYPE: Final = "gen_ai.guardrail.result.type"
GUARDRAIL_RESULT_VALUE: Final = "gen_ai.guardrail.result.value"
GUARDRAIL_CATEGORY: Final = "gen_ai.guardrail.risk.category"
GUARDRAIL_SCORE: Final = "gen_ai.guardrail.risk.score"

NAMES_VERSION: Final = "shieldkit.names.version"
STAGE: Final = "shieldkit.stage"
STATUS: Final = "shieldkit.status"
ACTION: Final = "shieldkit.action"
WOULD: Final = "shieldkit.would"
MODE: Final = "shieldkit.mode"
RULE: Final = "shieldkit.rule"
REFUSED: Final = "shieldkit.refused"
COVERAGE: Final = "shieldkit.coverage.ratio"
FINDINGS: Final = "shieldkit.findings"
GUARD: Final = "shieldkit.guard"

METRIC_VERDICTS: Final = "shieldkit.verdicts"
METRIC_REFUSALS: Final = "shieldkit.refusals"
METRIC_GUARD_DURATION: Final = "gen_ai.client.apply_guardrail.duration"
METRIC_TOKENS: Final = "gen_ai.client.token.usage"
METRIC_MODEL_DURATION: Final = "gen_ai.client.operation.duration"

OPERATION_GUARD: Final = "apply_guardrail"
OPERATION_CHAT: Final = "chat"
PROVIDER_SHIELDKIT: Final = "shieldkit"
OTHER: Final = "_OTHER"

# Boundaries of histograms, in seconds and in tokens. The conventions' own; below their 10 ms more of the same, since most
# guards take less. Without them an SDK takes its default, whose first bucket ends at five seconds.
BUCKETS_S: Final = tuple(0.01 * 2**n for n in range(14))
BUCKETS_GUARD_S: Final = (*(0.01 / 2**n for n in range(10, 0, -1)), *BUCKETS_S)
BUCKETS_TOKENS: Final = tuple(4**n for n in range(14))
