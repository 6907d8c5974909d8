"""A person's yes to a tool call.

The policy says which calls need one (`action: approve`); `Shield(approver=…)` says who is asked. Without an approver,
without an answer in time, and after anything but a plain `True`, the call is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from shieldkit.budget import Principal
from shieldkit.tools.calls import ToolCall


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What a person is asked: may these calls of one answer be run? `reasons` are the policy's words, safe to log.

    The calls' arguments are the model's words: show them to the person who decides, and keep them out of logs.
    """

    calls: tuple[ToolCall, ...]
    reasons: tuple[str, ...]
    principal: Principal | None = None


Approver: TypeAlias = Callable[[ApprovalRequest], bool]


def leave_to_host(request: ApprovalRequest) -> bool:
    """An approver for a model whose host asks before it runs a call, as `ShieldMiddleware` does: the answer may leave."""
    return True
