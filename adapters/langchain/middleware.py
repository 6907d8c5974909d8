"""A shield in an agent of langchain 1.x: what the model reads, what it answers, and which calls are run.

    create_agent(model, tools, middleware=[..., ShieldMiddleware(shield)])

Put it last, so that it sees what the other middleware makes of messages and calls. What is judged when:

    before the model   user turns, tool results and documents that are new; a result that is refused is withheld
    after the model    the answer, against the system prompt and the policy's output guards
    before a tool      the call, by the policy's `tools` section: allowlist, arguments, flows, a person's approval

It sees an answer when it is whole. A host that streams the model's tokens from callbacks (`stream_mode="messages"`)
shows them before any middleware can act: there, put a `ShieldedChatModel` in place of the model, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, TypeAlias, TypeVar, cast, get_args

from cachetools import LRUCache
from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
from langchain.agents.middleware.types import PrivateStateAttr
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables.config import ensure_config
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt

from shieldkit.adapters import checks
from shieldkit.adapters.langchain.config import principal_of
from shieldkit.adapters.langchain.messages import META, OnRefusal, answer, outcome_of, refused, rewritten
from shieldkit.conversation import Conversation, Role, Segment
from shieldkit.outcome import Action, Screening, Stage
from shieldkit.shield import Shield
from shieldkit.tools import ApprovalRequest, Approver, Origin, calls_of, origins_of

T = TypeVar("T")

REMEMBERED = 10_000
WITHHELD = "[withheld by policy: {rule}]"
ApproverLike: TypeAlias = "Approver | Callable[[ApprovalRequest], Awaitable[bool]] | Literal['interrupt']"


class ShieldState(AgentState[Any]):
    """What the middleware keeps in the agent's state: where text was from, also when the messages are gone.

    `shieldkit_called` are the tools of the last answer, whose results the model will have read by its next turn.
    """

    shieldkit_origins: NotRequired[Annotated[list[str], PrivateStateAttr]]
    shieldkit_called: NotRequired[Annotated[list[str], PrivateStateAttr]]


@dataclass(frozen=True, slots=True)
class _Step:
    """Something that takes time, for a synchronous and for an asynchronous agent. The hooks are written once."""

    now: Callable[[], Any]
    later: Callable[[], Awaitable[Any]]


_Steps: TypeAlias = Generator[_Step, Any, T]


class ShieldMiddleware(AgentMiddleware[ShieldState, Any, Any]):
    """Screens what an agent's model reads and answers, and judges tool calls before they run.

    `approver`: who is asked about a call for which the policy says `approve`: a function (plain or async) that gets an
    `ApprovalRequest` and returns True, or `"interrupt"` for LangGraph's interrupt, which is resumed with
    `Command(resume={"type": "approve"})`. Without one such calls are refused. `on_tool_output`: a refused tool result is
    replaced by a note (`"withhold"`), or ends the run (`"end"`). A refused user turn always ends the run, and is replaced
    by a note, so that the thread can go on. `on_refusal`: how a run ends, by an `AIMessage` or by `RefusedByShield`.
    """

    state_schema = ShieldState

    def __init__(
        self, shield: Shield, *, approver: ApproverLike | None = None, on_refusal: OnRefusal = "message",
        on_tool_output: Literal["withhold", "end"] = "withhold", screen_output: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        checks.shield(shield)
        checks.word("on_refusal", on_refusal, get_args(OnRefusal))
        checks.word("on_tool_output", on_tool_output, ("withhold", "end"))
        self.tools = []
        self.shield = shield
        self.approver = approver
        self.on_refusal = on_refusal
        self.on_tool_output = on_tool_output
        self.screen_output = screen_output
        # Keyed, so that nobody outside can make two messages share an entry; no text is kept.
        self._key = secrets.token_bytes(32)
        self._judged: LRUCache[bytes, bool] = LRUCache(REMEMBERED)
        self._lock = threading.Lock()

    # -- LangChain's hooks ------------------------------------------------------------------------------------------

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: ShieldState, runtime: Any) -> dict[str, Any] | None:
        """Screen what is new in the conversation."""
        return _drive(self._before(state))

    @hook_config(can_jump_to=["end"])
    async def abefore_model(self, state: ShieldState, runtime: Any) -> dict[str, Any] | None:
        """`before_model` for async agents."""
        return await _adrive(self._before(state))

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Screen what other middleware has added, call the model, and screen its answer."""
        return _drive(self._around_model(request, handler))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """`wrap_model_call` for async agents."""
        return await _adrive(self._around_model(request, handler))

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Judge a call, and run it or answer in the tool's place."""
        return _drive(self._around_tool(request, handler))

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """`wrap_tool_call` for async agents."""
        return await _adrive(self._around_tool(request, handler))

    def after_model(self, state: ShieldState, runtime: Any) -> dict[str, Any] | None:
        """Note which tools are called, before anything can drop what they bring."""
        last = state["messages"][-1] if state["messages"] else None
        called = sorted({call["name"] for call in last.tool_calls}) if isinstance(last, AIMessage) else []
        return {"shieldkit_called": called} if called or state.get("shieldkit_called") else None

    # -- what the model reads ---------------------------------------------------------------------------------------

    def _before(self, state: ShieldState) -> _Steps[dict[str, Any] | None]:
        messages: list[BaseMessage] = list(state["messages"])
        known = set(state.get("shieldkit_origins") or ())
        origins = known | {_written(Origin(Role.TOOL, name)) for name in state.get("shieldkit_called") or ()}
        origins |= {_written(o) for o in origins_of(Conversation.of(messages))} if messages else set()
        update: dict[str, Any] = {"shieldkit_origins": sorted(origins)} if origins != known else {}
        read, refusal = yield from self._read(messages)
        changed: list[BaseMessage] = [new for old, new in zip(messages, read, strict=True) if new is not old]
        if refusal is not None:
            changed.append(self._ended(refusal))
            update["jump_to"] = "end"
        if changed:
            update["messages"] = changed
        return update or None

    def _read(self, messages: list[BaseMessage]) -> _Steps[tuple[list[BaseMessage], Screening | None]]:
        """The messages as the model may read them, and what ends the run, if anything does."""
        new = [i for i, message in enumerate(messages) if not self._knows(message)]
        if not new:
            return messages, None
        # A new turn of the user is judged with the earlier ones: an attack may be cut over turns.
        since = 0 if any(isinstance(messages[i], HumanMessage) for i in new) else new[0]
        screening = yield self._screen(messages, Stage.INPUT, since)
        if screening.conversation is None:
            messages, screening = yield from self._one_by_one(messages, new, screening)
        if screening.conversation is None:
            return messages, screening
        read = rewritten(messages, screening.conversation)
        self._remember(read[since:])
        return read, None

    def _one_by_one(
        self, messages: list[BaseMessage], new: Sequence[int], whole: Screening
    ) -> _Steps[tuple[list[BaseMessage], Screening]]:
        """Which of the new messages are refused: tool results are withheld, and the rest is judged again."""
        read, ends = list(messages), None
        for i in new:
            screening = yield self._screen(read[: i + 1], Stage.INPUT, i)
            if screening.refusal is None:
                continue
            read[i] = _withheld(read[i], screening.refusal.rule)
            if not isinstance(read[i], ToolMessage) or self.on_tool_output == "end":
                ends = screening if ends is None else ends
        if ends is None:
            whole = yield self._screen(read, Stage.INPUT, 0)
        if ends is None and whole.refusal is not None:
            # Nothing by itself, and refused together: the last turn is what completed it.
            last = max(i for i, m in enumerate(read) if isinstance(m, HumanMessage) or i == new[-1])
            read[last] = _withheld(read[last], whole.refusal.rule)
        return read, whole if ends is None else ends

    # -- what it answers --------------------------------------------------------------------------------------------

    def _around_model(self, request: ModelRequest[Any], handler: Callable[..., Any]) -> _Steps[ModelResponse[Any]]:
        read, refusal = yield from self._read(list(request.messages))
        if refusal is not None:
            return ModelResponse(result=[self._ended(refusal)])
        sent = request.override(messages=cast("list[AnyMessage]", read))
        response: ModelResponse[Any] = yield _handled(handler, sent)
        only = tuple(name for name in self.shield.guards(_tenant(), Stage.OUTPUT) if name != "tools")
        if not self.screen_output or not only:
            return response
        context = [*([request.system_message] if request.system_message is not None else []), *read]
        result = list(response.result)
        for i, message in enumerate(result):
            if not isinstance(message, AIMessage):
                continue
            screening = yield self._screen([*context, message], Stage.OUTPUT, len(context), only)
            if screening.conversation is None:
                return ModelResponse(result=[self._ended(screening)])
            result[i] = rewritten([*context, message], screening.conversation)[-1]
            self._remember(result[i : i + 1])
        same = all(new is old for new, old in zip(result, response.result, strict=True))
        return response if same else ModelResponse(result=result)

    # -- which calls are run ----------------------------------------------------------------------------------------

    def _around_tool(self, request: ToolCallRequest, handler: Callable[..., Any]) -> _Steps[ToolMessage | Command[Any]]:
        if "tools" in self.shield.guards(_tenant()):
            call, state = request.tool_call, request.state
            seen = [_segment(origin) for origin in state.get("shieldkit_origins") or ()]
            context = [*seen, *state["messages"]]
            function = {"name": call["name"], "arguments": call["args"]}
            asked = {"role": "assistant", "content": "", "tool_calls": [{"id": call["id"], "function": function}]}
            screening = yield self._screen([*context, asked], Stage.OUTPUT, len(context), ("tools",))
            if not (screening.allowed or (yield from self._approved(screening, asked))):
                return self._not_run(request, screening)
        result: ToolMessage | Command[Any] = yield _handled(handler, request)
        return result

    def _approved(self, screening: Screening, asked: dict[str, Any]) -> _Steps[bool]:
        """Whether a person said yes to a call that only needs one; anything but a plain yes is a no."""
        approver = self.approver
        if screening.action is not Action.APPROVE or approver is None:
            return False
        reasons = tuple(dict.fromkeys(f.message for f in screening.findings))
        request = ApprovalRequest(calls_of(asked), reasons, principal_of(ensure_config()))
        if approver == "interrupt":
            return _interrupted(request)
        assert callable(approver)
        answer = yield _Step(lambda: approver(request), lambda: _awaited(approver, request))
        return answer is True

    def _not_run(self, request: ToolCallRequest, screening: Screening) -> ToolMessage:
        if self.on_refusal == "raise":
            raise refused(outcome_of(screening))
        assert screening.refusal is not None
        told = f"The call was not run. {WITHHELD.format(rule=screening.refusal.rule)}"
        call = request.tool_call
        return ToolMessage(told, tool_call_id=call["id"], name=call["name"], status="error")

    # -- inside -----------------------------------------------------------------------------------------------------

    def _screen(self, messages: Sequence[Any], stage: Stage, since: int, only: Sequence[str] | None = None) -> _Step:
        asked: dict[str, Any] = {"stage": stage, "since": since, "only": only, "tenant": _tenant()}
        given = list(messages)
        return _Step(lambda: self.shield.screen(given, **asked), lambda: self.shield.ascreen(given, **asked))

    def _ended(self, screening: Screening) -> AIMessage:
        outcome = outcome_of(screening)
        if self.on_refusal == "raise":
            raise refused(outcome)
        return answer(outcome)

    def _digest(self, message: BaseMessage) -> bytes:
        wire = json.dumps([_tenant(), Conversation.of([message]).wire()], sort_keys=True)
        return hashlib.blake2b(wire.encode("utf-8", "surrogatepass"), key=self._key).digest()

    def _knows(self, message: BaseMessage) -> bool:
        digest = self._digest(message)
        with self._lock:
            return digest in self._judged

    def _remember(self, messages: Iterable[BaseMessage]) -> None:
        digests = [self._digest(message) for message in messages]
        with self._lock:
            self._judged.update(dict.fromkeys(digests, True))


def _handled(handler: Callable[..., Any], request: Any) -> _Step:
    """What the agent would do next. For an asynchronous agent the handler gives an awaitable."""
    return _Step(partial(handler, request), partial(handler, request))


def _drive(steps: _Steps[T]) -> T:
    try:
        step = next(steps)
        while True:
            step = steps.send(step.now())
    except StopIteration as stop:
        value: T = stop.value
        return value


async def _adrive(steps: _Steps[T]) -> T:
    try:
        step = next(steps)
        while True:
            step = steps.send(await step.later())
    except StopIteration as stop:
        value: T = stop.value
        return value


def _tenant() -> str | None:
    principal = principal_of(ensure_config())
    return principal.tenant if principal is not None else None


def _withheld(message: BaseMessage, rule: str) -> BaseMessage:
    """A note in place of a refused message, which keeps its id and place."""
    update: dict[str, Any] = {"content": WITHHELD.format(rule=rule), "additional_kwargs": {}}
    if isinstance(message, ToolMessage):
        update |= {"status": "error", "artifact": None}
    if isinstance(message, AIMessage):
        update |= {"tool_calls": [], "invalid_tool_calls": []}
    return message.model_copy(update={**update, "response_metadata": {META: {"rule": rule}}})


def _written(origin: Origin) -> str:
    return origin.role.value if origin.name is None else f"{origin.role.value}:{origin.name}"


def _segment(origin: str) -> Segment:
    """A remembered origin as an empty piece of the context."""
    role, _, name = origin.partition(":")
    return Segment("", Role(role), origin=name or None)


def _interrupted(request: ApprovalRequest) -> bool:
    """Ask through LangGraph, in the shape of LangChain's own approvals; the run waits until it is resumed."""
    (call,) = request.calls
    decision = interrupt({
        "type": "tool_approval", "tool_call_id": call.id, "name": call.name, "args": dict(call.arguments or {}),
        "description": "; ".join(request.reasons),
    })  # fmt: skip
    return decision is True or (isinstance(decision, dict) and decision.get("type") == "approve")


async def _awaited(approver: Callable[[ApprovalRequest], Any], request: ApprovalRequest) -> Any:
    """Ask an approver of either kind without holding up the event loop."""
    answer = await asyncio.to_thread(approver, request)
    return await answer if inspect.isawaitable(answer) else answer
