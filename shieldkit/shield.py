"""`Shield`: a policy, a backend, and the chain between them.

    shield = Shield("builtin:default", backend=LlamaCpp("model.gguf"))
    reply = shield.invoke("Hello!")

State (ledger, workers, model handles) is made here, passed in, and closed here. Everything that can be wrong is found
at start-up: a policy that cannot work, a guard that fails its self-test, a backend with less context than was claimed.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from shieldkit.arguments import check_backend, check_call, check_parts, guards_of, policy_of
from shieldkit.backends.base import Backend, CallOptions, PromptBackend
from shieldkit.backends.opening import check_context, open_backend
from shieldkit.backends.routes import allowed_by
from shieldkit.budget import Budget, Ledger, MemoryLedger, Principal
from shieldkit.chain import Chain, Link
from shieldkit.chain.streaming import withheld_by
from shieldkit.conversation import Conversation, MessageLike
from shieldkit.driving import Done, Flow, Steps, adrive, arun, drive, run
from shieldkit.errors import ConfigurationError, Overloaded, PolicyError
from shieldkit.guards import BUILDERS, Resources, from_entry_point
from shieldkit.guards.base import Guard, check_plain
from shieldkit.outcome import Action, Reply, Screening, Stage, StreamEvent, stage_of
from shieldkit.policy import Policy
from shieldkit.policy.model import BUILT_IN, ContextSettings, GuardSettings
from shieldkit.policy.reading import read_from
from shieldkit.schema import SchemaGate, compile_schema
from shieldkit.telemetry import Telemetry
from shieldkit.tools import Approver
from shieldkit.workers import Workers

__all__ = ["Messages", "Shield", "StreamEvent"]

Messages: TypeAlias = "MessageLike | Sequence[MessageLike] | Conversation"


@dataclass(slots=True)
class Shield:
    """Guards calls of a language model by a policy. Safe to share between threads and tasks; make one, and keep it.

    `policy`: a `Policy`, the path of a YAML file, or `builtin:default|strict|monitor`. `backend`: the model; without
    one only `screen` works. `guards`: guards of one's own, run after the built-in ones and before the schema gate;
    they stay the caller's to close.
    `guard_backend`: the model that the safety guard asks. `ledger`: where budgets are kept; in this process by default.
    `approver`: is asked about tool calls that the policy wants a person's yes for; without one they are refused.
    `max_calls`: so many calls of the model run at a time, each in a thread; more wait in line, within `model.timeout`.
    Raises `ConfigurationError` (`PolicyError`, `ModelFileError`, `SelfTestError`) when something cannot work.
    """

    policy: Policy
    backend: Backend | None
    _chains: dict[str | None, Chain] = field(default_factory=dict, repr=False)
    _lanes: dict[str, Workers] = field(default_factory=dict, repr=False)
    _own_ledger: Ledger | None = field(default=None, repr=False)
    _owned: dict[tuple[str, str], Guard] = field(default_factory=dict, repr=False)
    _is_view: bool = field(default=False, repr=False)

    def __init__(
        self,
        policy: Policy | str | Path = "builtin:default",
        backend: Backend | None = None,
        *,
        guards: Sequence[Guard] = (),
        guard_backend: PromptBackend | None = None,
        ledger: Ledger | None = None,
        approver: Approver | None = None,
        max_calls: int = 32,
        self_test: bool = True,
        tracer_provider: Any = None,
        meter_provider: Any = None,
    ) -> None:
        self.policy, guards = policy_of(policy), guards_of(guards)
        source = str(policy) if isinstance(policy, (str, Path)) else None
        self.backend = backend
        if backend is not None:
            check_backend(backend)
        check_parts(guard_backend, ledger, approver)
        if type(max_calls) is not int or max_calls < 1:
            raise ConfigurationError("max_calls", f"{max_calls!r:.60} is not a number of calls", mend="Give 1 or more")
        sizes = {"guard": 32, "count": 32, "model": max_calls, "person": 32}
        self._lanes = {lane: Workers(lane, max_threads=size) for lane, size in sizes.items()}
        self._chains, self._owned, self._own_ledger, self._is_view = {}, {}, None, False
        if ledger is None:
            ledger = self._own_ledger = MemoryLedger(max_accounts=self.policy.budget.max_accounts)
        with ExitStack() as undo:
            undo.callback(self.close)
            undo.enter_context(read_from(source))
            if backend is not None:
                open_backend(backend, self.policy)
            for tenant in (None, *self.policy.tenants):
                own = self.policy.for_tenant(tenant)
                allowed = allowed_by(own.routing, backend) if backend is not None else None
                links = self._links(own, guards, Resources(allowed, guard_backend), self._owned)
                context = _capped(own, allowed) if allowed is not None else own.context
                telemetry = Telemetry(
                    policy=own.name, policy_version=own.version, mode=own.mode,
                    tracer_provider=tracer_provider, meter_provider=meter_provider,
                )  # fmt: skip
                self._chains[tenant] = Chain(own, links, Budget(own.budget, context, ledger), telemetry, approver)
            if self_test:
                for made in (*self._owned.values(), *guards):
                    getattr(made, "self_test", lambda: None)()
            undo.pop_all()

    # -- calls ------------------------------------------------------------------------------------------------------

    def invoke(self, messages: Messages, *, principal: Principal | None = None, schema: Any = None,
               options: CallOptions | None = None) -> Reply:  # fmt: skip
        """Ask the model, guarded. Inside a running event loop it works, and blocks the loop: use `ainvoke` there.

        `messages`: a string, a message (dict, `Segment`, LangChain message), or a list of them. `schema`: a pydantic
        model, a JSON Schema or a type that the answer must conform to; `reply.data` then holds the value. `options`:
        tools, temperature and the like, within the policy's caps.
        A refusal is a value (`reply.refused`). Raises `InvalidConversation`, `BackendError`, and `Overloaded` where too many
        calls are under way or the shield is closed.
        """
        return drive(self._invocation(messages, principal, schema, options, "invoke"), self._lanes)

    async def ainvoke(self, messages: Messages, *, principal: Principal | None = None, schema: Any = None,
                      options: CallOptions | None = None) -> Reply:  # fmt: skip
        """`invoke` for async code: the same chain. When the caller is cancelled, generating stops soon after."""
        return await adrive(self._invocation(messages, principal, schema, options, "invoke"), self._lanes)

    def screen(self, messages: Messages, *, stage: Stage | str = Stage.INPUT, tenant: str | None = None,
               schema: Any = None, since: int = 0, only: Collection[str] | None = None) -> Screening:  # fmt: skip
        """Judge text without calling a model: what would the guards of this stage say?

        At `stage="output"` the whole text is judged as an answer. No budget is used, and no approver asked.
        `since`: the first so many messages are context (judged before, or what an answer answers); only those after
        them are judged, and there must be some. `only`: the names of the guards to run, of those in the chain; all by
        default. `schema`: what an answer must conform to. Raises `ConfigurationError` where no guard judges at the stage, or no
        schema gate would hold an answer against the schema.
        """
        return drive(self._screening(messages, stage, tenant, schema, since, only), self._lanes)

    async def ascreen(self, messages: Messages, *, stage: Stage | str = Stage.INPUT, tenant: str | None = None,
                      schema: Any = None, since: int = 0, only: Collection[str] | None = None) -> Screening:  # fmt: skip
        """`screen` for async code."""
        return await adrive(self._screening(messages, stage, tenant, schema, since, only), self._lanes)

    def stream(
        self, messages: Messages, *, principal: Principal | None = None, schema: Any = None,
        options: CallOptions | None = None,
    ) -> Iterator[StreamEvent]:  # fmt: skip
        """`invoke` as events. The policy's `streaming: off` gives one event, when all gates have passed.

        Closing the iterator ends the generation, and what was generated is charged.
        """
        yield from run(self._invocation(messages, principal, schema, options, "stream"), self._lanes)

    async def astream(
        self, messages: Messages, *, principal: Principal | None = None, schema: Any = None,
        options: CallOptions | None = None,
    ) -> AsyncIterator[StreamEvent]:  # fmt: skip
        """`stream` for async code. `aclose`, or cancelling the caller, ends the generation."""
        async with aclosing(
            arun(self._invocation(messages, principal, schema, options, "stream"), self._lanes)
        ) as flow:
            async for event in flow:
                if not isinstance(event, Done):
                    yield event

    # -- life -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close what the shield made: guards, ledger and worker threads. Backend and ledger of the caller's stay open.

        What a guard raises at its close is raised when all the others are closed.
        """
        if self._is_view:
            return
        with ExitStack() as closing:
            if self._own_ledger is not None:
                closing.callback(self._own_ledger.close)
            for lane in self._lanes.values():
                closing.callback(lane.close)
            for made in self._owned.values():
                closing.callback(getattr(made, "close", lambda: None))

    def with_backend(self, backend: Backend) -> Shield:
        """This shield in front of another model: the same policy, guards, ledger and threads, which stay this one's.

        Guards that were made for this shield's own model (its control tokens, rails that ask it) stay as they are.
        Raises `ConfigurationError` when the policy claims more context than the model has.
        """
        check_backend(backend)
        open_backend(backend, self.policy)
        made = copy.copy(self)
        made.backend, made._owned, made._own_ledger, made._is_view = backend, {}, None, True
        allowed = {tenant: allowed_by(chain.policy.routing, backend) for tenant, chain in self._chains.items()}
        made._chains = {
            tenant: replace(chain, budget=replace(chain.budget, context=_capped(chain.policy, allowed[tenant])))
            for tenant, chain in self._chains.items()
        }
        return made

    def __enter__(self) -> Shield:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Shield:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def guards(self, tenant: str | None = None, stage: Stage | str | None = None) -> tuple[str, ...]:
        """The names of the guards in the chain, in order; in a tenant's own where it has one. Of one stage, or of both."""
        return tuple(
            link.guard.name
            for link in self._chain(tenant).links
            if stage is None or stage_of(stage) in link.guard.stages
        )

    def describe(self) -> dict[str, Any]:
        """What is at work: policy, backend, and each guard with its stages and model files. Plain JSON, no secrets."""
        return {
            "policy": f"{self.policy.name}@{self.policy.version}", "mode": self.policy.mode,
            "backend": dict(self.backend.describe()) if self.backend is not None else None,
            "guards": [
                {"name": link.guard.name, "stages": sorted(link.guard.stages), "action": link.settings.action.value,
                 "on_error": link.settings.on_error, **getattr(link.guard, "describe", dict)()}
                for link in self._chains[None].links
            ],
            "streaming": {"mode": self.policy.streaming.mode, "withheld_by": withheld_by(self._chains[None].links)},
        }  # fmt: skip

    # -- inside -----------------------------------------------------------------------------------------------------

    def _invocation(self, messages: Messages, principal: Principal | None, schema: Any, options: CallOptions | None,
                    operation: str) -> Flow[StreamEvent, Reply]:  # fmt: skip
        self._check_open()
        check_call(principal, options)
        if self.backend is None:
            mend = "Give Shield(policy, backend=…), or use `screen`"
            raise ConfigurationError("backend", "this shield has no model to ask", mend=mend)
        chain = self._chain(principal.tenant if principal is not None else None)
        _check_gate(schema, chain.policy)
        conversation = Conversation.of(messages)
        backend = allowed_by(chain.policy.routing, self.backend)
        return chain.invoke(conversation, backend, principal, _gate(schema), options or CallOptions(), operation)

    def _screening(
        self, messages: Messages, stage: Stage | str, tenant: str | None, schema: Any, since: int,
        only: Collection[str] | None,
    ) -> Steps[Screening]:  # fmt: skip
        self._check_open()
        stage = stage_of(stage)
        chain, conversation = self._chain(tenant), Conversation.of(messages)
        if isinstance(only, str):
            raise ConfigurationError("only", "is one string", mend=f"Give a list: only=['{only:.60}']")
        if unknown := set(only or ()) - set(self.guards(tenant)):
            mend = f"In this chain are: {', '.join(self.guards(tenant))}"
            raise ConfigurationError("only", f"no guard is named {sorted(unknown)[0]!r:.60}", mend=mend)
        here = set(self.guards(tenant, stage))
        if only is not None and here.isdisjoint(only):
            mend = f"At this stage are: {', '.join(sorted(here)) or 'none'}"
            raise ConfigurationError("only", f"none of these guards judges at the stage '{stage}'", mend=mend)
        if not here:
            mend = "Add one to the policy, such as `markers: {}`, or screen at the other stage"
            raise ConfigurationError("stage", f"no guard of this policy judges at the stage '{stage}'", mend=mend)
        _check_gate(schema, chain.policy)
        if schema is not None and "schema" not in (here if only is None else here.intersection(only)):
            mend = "Screen with stage='output', and with 'schema' among `only` where that is given"
            raise ConfigurationError("schema", "the schema gate does not judge here", mend=mend)
        # What leaves nothing to judge is a mistake: a host that acts on "allowed" would let pass what nobody has read.
        if since and not 0 < since < len(conversation.messages):
            mend = f"Give less than {len(conversation.messages)}, the number of messages"
            raise ConfigurationError("since", f"no message is left to judge after {since}", mend=mend)
        return chain.screen(conversation, stage, _gate(schema), since, only)

    def _check_open(self) -> None:
        """Closed is not refused: no guard has judged, and none ever will."""
        if self._lanes["guard"].closed:
            raise Overloaded("the shield is closed; close it after the last call")

    def _chain(self, tenant: str | None) -> Chain:
        return self._chains.get(tenant) or self._chains[None]

    def _links(
        self, policy: Policy, own: Sequence[Guard], resources: Resources, built: dict[tuple[str, str], Guard]
    ) -> tuple[Link, ...]:
        """The guards of a policy in order. Tenants whose section is the same share a guard, and so its model."""
        sections = dict(policy.sections())
        names = [g.name for g in own]
        if len(set(names)) != len(names) or not BUILT_IN.isdisjoint(names):
            twice = next(name for name in names if name in BUILT_IN or names.count(name) > 1)
            mend = "Give each guard of your own a name that is not a built-in one's"
            raise PolicyError("Shield(guards=…)", f"two guards have the same name, '{twice:.60}'", mend=mend)
        links = []
        for name, build in BUILDERS.items():
            if name in sections:
                settings = sections.pop(name)
                key = (name, f"{settings.model_dump_json()} {id(resources.backend)}")
                built[key] = made = built.get(key) or build(settings, resources)
                links.append(Link(made, settings))
        mine = [Link(g, sections.pop(g.name, GuardSettings())) for g in own]
        mine += [Link(_shared(built, name), settings) for name, settings in sections.items()]
        last = [link for link in links if link.guard.name == "schema"]
        ordered = (*(link for link in links if link not in last), *mine, *last)
        if not ordered:
            raise PolicyError(
                "guards", "the chain is empty: nothing would be guarded", mend="Add at least `markers: {}`"
            )
        for link in ordered:
            _check_link(link, policy.place(link.guard.name))
        return ordered


def _shared(built: dict[tuple[str, str], Guard], name: str) -> Guard:
    key = (name, "")
    built[key] = made = built.get(key) or from_entry_point(name)
    return made


def _check_gate(schema: Any, policy: Policy) -> None:
    if schema is not None and policy.guards.schema_ is None:
        mend = "Add `schema: {}` to the policy's guards"
        raise ConfigurationError("schema", "this policy has no schema gate to hold the answer against", mend=mend)


def _check_link(link: Link, place: str) -> None:
    """Refuse what cannot work: a guard that never runs or answers, a redaction without places, a rule that it does not have."""
    name, settings = link.guard.name, link.settings
    if not link.guard.stages or not frozenset(Stage).issuperset(link.guard.stages):
        problem = "its stages are not one or both of 'input' and 'output', so that it would not run"
        raise ConfigurationError(
            f"guard '{name}'", problem, mend="Give it, for example, stages = frozenset({Stage.OUTPUT})"
        )
    check_plain(name, link.guard.check)
    actions = {settings.action, *(r.action for r in settings.rules.values())}
    if Action.REDACT in actions and not getattr(link.guard, "locates", False):
        problem = "'redact' cannot work: this guard does not say exactly where a finding stands"
        raise PolicyError(f"{place}.action", problem, mend="Use block, flag or allow")
    known = getattr(link.guard, "rules", None)
    for rule in settings.rules:
        if known is not None and rule not in known:
            near = difflib.get_close_matches(rule, known, n=1)
            mend = f"Did you mean '{near[0]}'?" if near else f"Its rules: {', '.join(sorted(known))}"
            raise PolicyError(f"{place}.rules.{rule}", "the guard has no such rule", mend=mend)


def _capped(policy: Policy, backend: Backend) -> ContextSettings:
    """The context that may be used: the policy's, and never more than the model has."""
    check_context(backend, policy, "context")
    return policy.context.model_copy(update={"max_tokens": min(policy.context.cap, backend.context_tokens)})


def _gate(schema: Any) -> SchemaGate | None:
    if schema is None or isinstance(schema, SchemaGate):
        return schema
    return compile_schema(schema)
