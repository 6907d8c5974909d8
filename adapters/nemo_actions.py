"""shieldkit's guards as NeMo Guardrails actions, for teams whose chain is NeMo already.

    rails = LLMRails(config)
    register(rails, shield)

adds three actions to be executed in Colang: `shieldkit_screen_input`, `shieldkit_screen_output` and
`shieldkit_screen_text(text=…, role="document")`. Each gives True when the policy lets the text pass. What the policy
redacts is put in the place of `$user_message` or `$bot_message`; a guard that fails has passed nothing. `FLOWS` holds
flows that use them:

    rails: {input: {flows: [shieldkit check input]}, output: {flows: [shieldkit check output]}}

Needs `pip install 'shieldkit[nemo]'`. NeMo reports its use unless `NEMO_GUARDRAILS_NO_USAGE_STATS=1` is set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from shieldkit.adapters import checks
from shieldkit.conversation import Role, Segment
from shieldkit.errors import ShieldError
from shieldkit.outcome import Screening, Stage
from shieldkit.shield import Shield

FLOWS = """
define subflow shieldkit check input
  $shieldkit_allowed = execute shieldkit_screen_input
  if not $shieldkit_allowed
    bot refuse to respond
    stop

define subflow shieldkit check output
  $shieldkit_allowed = execute shieldkit_screen_output
  if not $shieldkit_allowed
    bot refuse to respond
    stop
"""
"""Colang 1.0; the text that is said is that of `bot refuse to respond`."""

FAILED = "shield.failed"
"""`$shieldkit_rule` when the shield could not judge: nothing has passed."""

_Rails = TypeVar("_Rails")
_Action = Callable[..., Awaitable[Any]]


def register(rails: _Rails, shield: Shield, *, tenant: str | None = None) -> _Rails:
    """Register the actions with an `LLMRails`; returns it. The context then has `$shieldkit_rule` after each of them."""
    for name, action in actions(shield, tenant=tenant).items():
        rails.register_action(action, name)  # type: ignore[attr-defined]
    return rails


def actions(shield: Shield, *, tenant: str | None = None) -> Mapping[str, _Action]:
    """The actions by name, for a runtime of one's own. Raises `ConfigurationError`."""
    checks.shield(shield)

    async def judged(text: str, role: str, stage: Stage, variable: str, origin: str | None = None) -> Any:
        from nemoguardrails.actions.actions import ActionResult

        try:
            segment = Segment(text, Role(role), origin=origin)
            screening = await shield.ascreen(segment, stage=stage, tenant=tenant)
        except (ShieldError, ValueError, TypeError):  # as from a role that there is not
            return ActionResult(return_value=False, context_updates={"shieldkit_rule": FAILED})
        return ActionResult(return_value=screening.allowed, context_updates=_updates(screening, segment, variable))

    async def screen_input(context: Mapping[str, Any] | None = None) -> Any:
        return await judged(_said(context, "user_message"), "user", Stage.INPUT, "user_message")

    async def screen_output(context: Mapping[str, Any] | None = None) -> Any:
        return await judged(_said(context, "bot_message"), "assistant", Stage.OUTPUT, "bot_message")

    async def screen_text(text: str, role: str = "document", origin: str | None = None) -> Any:
        return await judged(str(text), role, Stage.INPUT, "shieldkit_text", origin)

    return {
        "shieldkit_screen_input": screen_input,
        "shieldkit_screen_output": screen_output,
        "shieldkit_screen_text": screen_text,
    }


def _said(context: Mapping[str, Any] | None, variable: str) -> str:
    said = (context or {}).get(variable)
    return said if isinstance(said, str) else ""


def _updates(screening: Screening, segment: Segment, variable: str) -> dict[str, Any]:
    updates: dict[str, Any] = {"shieldkit_rule": screening.refusal.rule if screening.refusal is not None else ""}
    if screening.allowed and screening.conversation is not None:
        (passed,) = screening.conversation.segments
        if passed.text != segment.text or variable == "shieldkit_text":
            updates[variable] = passed.text
    return updates
