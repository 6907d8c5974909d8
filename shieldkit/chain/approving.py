"""Ask a person about tool calls. Anything but a plain yes, in time, is a no."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from shieldkit.budget import Principal
from shieldkit.conversation import Conversation
from shieldkit.driving import Call, Steps
from shieldkit.outcome import Action, Verdict
from shieldkit.policy.model import GuardSettings, ToolSettings
from shieldkit.telemetry.events import told
from shieldkit.tools import ApprovalRequest, Approver, calls_of


def ask(
    approver: Approver, verdict: Verdict, conversation: Conversation, settings: GuardSettings,
    principal: Principal | None,
) -> Steps[Verdict]:  # fmt: skip
    """The verdict after the approver was asked about the calls of the last message: flagged, or blocked."""
    number = len(conversation.messages) - 1
    calls = calls_of(conversation.wire()[-1], f"messages[{number}]")
    reasons = tuple(dict.fromkeys(f.message for f in verdict.findings))
    request = ApprovalRequest(calls, reasons, principal)
    timeout_s = settings.approval_timeout if isinstance(settings, ToolSettings) else settings.timeout
    try:
        answer = yield Call(partial(approver, request), timeout_s, "person")
    except TimeoutError:
        return replace(verdict, reason="nobody approved it in time")
    except Exception as error:
        reason = f"the approver failed ({type(error).__name__})"
        return replace(verdict, reason=reason, error=told("approver_failed", error))
    if answer is not True:
        return replace(verdict, action=Action.BLOCK, would=Action.BLOCK, reason="the approver did not approve it")
    return replace(verdict, action=Action.FLAG, would=Action.FLAG, reason="the approver let it pass")
