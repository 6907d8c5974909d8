"""NeMo's flow engine, one step at a time.

For every event of a turn, NeMo Guardrails 0.24 computes the state of its flows anew from the turn's first event, which
is most of what a turn costs it. The state after n events is the state after n − 1 events and one more step of the same
function, so here it is kept for the length of one turn. Wherever that might not hold (another NeMo version, rails in
parallel, events taken back, flows started by text) NeMo's own computation is used; a test holds both to the same events.
"""

from __future__ import annotations

import contextvars
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

_PROVED = "0.24."
_REWRITES_HISTORY = frozenset({"hide_prev_turn", "start_flow"})


@dataclass(slots=True)
class _Turn:
    """What has been computed of one turn: the events, by identity, and the state after them."""

    events: list[Any] = field(default_factory=list)
    state: Any = None


_TURN: contextvars.ContextVar[_Turn | None] = contextvars.ContextVar("shieldkit_rails_turn", default=None)


def begin_turn() -> None:
    """Forget what was computed before; call it in the task of the turn."""
    _TURN.set(_Turn())


def step_incrementally(runtime: Any) -> bool:
    """Let a `RuntimeV1_0` keep the state of its flows during a turn. False when this NeMo is not one it is proved on."""
    if not version("nemoguardrails").startswith(_PROVED):
        return False
    whole = runtime._compute_next_steps

    async def compute_next_steps(events: list[dict[str, Any]], processing_log: list[dict[str, Any]]) -> Any:
        turn = _TURN.get()
        if turn is None or not _continues(turn, events):
            _TURN.set(None)
            return await whole(events, processing_log=processing_log)
        return _next_steps(runtime, turn, events, processing_log)

    runtime._compute_next_steps = compute_next_steps
    return True


def _continues(turn: _Turn, events: list[dict[str, Any]]) -> bool:
    done = len(turn.events)
    unchanged = len(events) >= done and all(a is b for a, b in zip(turn.events, events, strict=False))
    return unchanged and not any(event["type"] in _REWRITES_HISTORY for event in events[done:])


def _next_steps(runtime: Any, turn: _Turn, events: list[dict[str, Any]], log: list[dict[str, Any]]) -> Any:
    """What `nemoguardrails.colang.v1_0.runtime.flows.compute_next_steps` does after its loop over the events."""
    from nemoguardrails.colang.v1_0.runtime import flows

    if turn.state is None:
        turn.state = flows.State(
            context={}, flow_states=[], flow_configs=runtime.flow_configs, rails_config=runtime.config
        )
    for event in events[len(turn.events) :]:
        turn.state = flows.compute_next_state(turn.state, event)
        if _is_stop(event):
            turn.state.flow_states = []
    turn.events = list(events)
    state, steps = turn.state, []
    if state.context_updates:
        steps.append(flows.new_event_dict("ContextUpdate", data=state.context_updates))
    if state.next_step:
        step = flows._step_to_event(state.next_step)
        if step["type"] == "BotIntent" and state.next_step_comment:
            step["instructions"] = state.next_step_comment
        steps.append(step)
    if _is_stop(events[-1]):
        steps = []
    _log_decision(state, steps, log)
    for step in steps:
        if step["type"] == "StartInternalSystemAction":
            action = runtime.action_dispatcher.get_action(step["action_name"])
            step["is_system_action"] = bool(getattr(action, "action_meta", {}).get("is_system_action", False))
    return steps


def _is_stop(event: dict[str, Any]) -> bool:
    return bool(event["type"] == "BotIntent" and event["intent"] == "stop")


def _log_decision(state: Any, steps: list[Any], log: list[dict[str, Any]]) -> None:
    """The processing log says which flow decided; the outcome of the turn is read from it."""
    if not steps or not state.next_step_by_flow_uid:
        return
    deciding = [flow.flow_id for flow in state.flow_states if flow.uid == state.next_step_by_flow_uid]
    log.extend({"type": "step", "timestamp": time.time(), "flow_id": name, "next_steps": steps} for name in deciding)
