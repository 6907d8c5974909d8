"""What is wrong, in OpenAI's error shape. No message holds text of the user or of the model.

Clients read the status first: the official ones try 408, 409, 429 and 5xx again, twice, unless `x-should-retry` says
otherwise; some tools do so without end. So a refusal is never one of these; see `answers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shieldkit.errors import (
    BackendBusy,
    BackendError,
    BackendTimeout,
    ConfigurationError,
    ContextExceeded,
    InvalidConversation,
    Overloaded,
    ShieldError,
)
from shieldkit.outcome import Reply

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          413: "invalid_request_error", 415: "invalid_request_error", 429: "rate_limit_error"}  # fmt: skip


@dataclass(frozen=True)
class ApiError(Exception):
    """An answer that is an error: HTTP status, message for people, code for programs, the parameter it is about."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "insufficient_quota" if self.code == "insufficient_quota" else _TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def api_error(error: BaseException) -> ApiError:
    """The answer to what went wrong below. What was not foreseen is a 500 that says nothing of it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidConversation):
        return ApiError(400, str(error), "invalid_messages", error.path[:200])
    if isinstance(error, BackendBusy):
        wait = {"retry-after": str(math.ceil(error.retry_after_s))} if error.retry_after_s else {}
        return ApiError(503, "the model's server has too much to do", "upstream_busy", headers=wait)
    if isinstance(error, ConfigurationError):
        return ApiError(400, str(error), "invalid_request", error.field[:200])
    return next((made for kind, made in _ANSWERS if isinstance(error, kind)), _INTERNAL)


_INTERNAL = ApiError(500, "internal error", "internal_error")
_ANSWERS: tuple[tuple[type[ShieldError], ApiError], ...] = (
    (ContextExceeded, ApiError(400, "prompt and answer do not fit the model", "context_length_exceeded", "messages")),
    (BackendTimeout, ApiError(504, "the model did not answer in time", "upstream_timeout")),
    (BackendError, ApiError(502, "the model did not answer", "upstream_error")),
    (Overloaded, ApiError(503, "too many calls are under way; try again", "overloaded", None, {"retry-after": "1"})),
)


def budget_error(reply: Reply, window_s: float | None) -> ApiError | None:
    """The error that a refusal by the budget is, to a client; None for every other reply.

    A used-up budget is told as what it is, and not as an answer. `window_s` is the window of the limit: room comes back
    gradually, a sixtieth of it at a time.
    """
    if reply.refusal is None or reply.refusal.guard != "budget":
        return None
    rule = reply.refusal.rule.removeprefix("budget.")
    if rule in ("context", "request"):
        message = "the request is larger than the policy allows"
        return ApiError(400, message, "context_length_exceeded", "messages")
    if rule == "principal":
        return ApiError(400, "the policy wants to know who asks: name user, session and task", "principal_required")
    if rule in ("timeout", "ledger"):
        return ApiError(503, "the budget cannot be told now", "budget_unavailable", headers={"retry-after": "5"})
    wait = {"retry-after": str(math.ceil(window_s / 60))} if window_s else {}
    message = f"the token budget of this {rule} is used up"
    return ApiError(429, message, "insufficient_quota", headers={**wait, "x-should-retry": "false"})
