"""The policy: the one place where limits, thresholds and actions live.

Frozen pydantic models. Unknown keys are refused. Every guard's section has the same head (`action`, `threshold`,
`on_error`, `timeout`, `rules`) and then its own settings. `Policy.load` (in `shieldkit.policy`) reads YAML into this.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from shieldkit.conversation import Role
from shieldkit.outcome import Action
from shieldkit.policy.durations import Seconds


def _off(value: Any) -> Any:
    """YAML 1.1 reads a bare `off` as false."""
    return "off" if value is False else value


Score = Annotated[float, Field(ge=0.0, le=1.0)]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]
Message = Annotated[str, Field(min_length=1, max_length=500)]


class Section(BaseModel):
    """Base of all parts of a policy: frozen, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, which is 1 where a number is wanted: a threshold that nothing reaches."""
        field = cls.model_fields[str(info.field_name)]
        is_read = any(isinstance(part, BeforeValidator) for part in field.metadata)  # a duration says so itself
        if isinstance(value, bool) and not is_read and _wants_number(field.annotation):
            raise ValueError("is yes or no, and must be a number")
        return value


def _wants_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_wants_number, typing.get_args(annotation)))


class Rule(Section):
    """What to do about one rule of a guard, where that differs from the guard's own head."""

    action: Action | None = Field(None, description="block, redact, flag, allow or approve. Unset: the guard's own.")
    threshold: Score | None = Field(
        None, description="The score, 0 to 1, from which it counts. Unset: the guard's own."
    )


class GuardSettings(Section):
    """The head that every guard's section has."""

    action: Action = Field(Action.BLOCK, description="What to do about a finding at or above `threshold`.")
    threshold: Score = Field(0.5, description="Findings below this score are reported, and allowed.")
    flag_threshold: Score | None = Field(
        None, description="Findings from this score up to `threshold` are flagged. Unset: they are allowed."
    )
    on_error: Literal["block", "allow"] = Field(
        "block", description="When the guard fails, times out or does not read everything: block, or allow and say so."
    )
    timeout: Seconds = Field(10.0, description="How long the guard may take: 250ms, 2s, …")
    rules: Mapping[str, Rule] = Field(default_factory=dict, description="Exceptions, by the guard's rule id.")
    refusal_message: Message | None = Field(
        None, description="What the user is told when this guard refuses. Unset: the policy's own `refusal_message`."
    )

    @field_validator("flag_threshold")
    @classmethod
    def _below_threshold(cls, value: float | None, info: ValidationInfo) -> float | None:
        """A rule's own threshold may be lower: that is an exception, and can be said in no other way."""
        threshold = info.data.get("threshold")
        if value is not None and threshold is not None and value >= threshold:
            raise ValueError(f"would flag nothing, since `threshold` is {threshold}: lower it, or raise `threshold`")
        return value

    def rule(self, rule: str) -> Rule:
        """What is said about one rule of the guard; an empty `Rule` where nothing is."""
        return self.rules.get(rule, _NO_RULE)

    def threshold_for(self, rule: str, role: Role) -> float:
        """The score from which a finding of `rule` in a segment of `role` counts."""
        own = self.rule(rule).threshold
        return self.threshold if own is None else own

    def action_for(self, rule: str) -> Action:
        """What to do about a finding of `rule` that counts."""
        return self.rule(rule).action or self.action


_NO_RULE = Rule(action=None, threshold=None)


class MarkerSettings(GuardSettings):
    """Control tokens, role headers and template markers in untrusted text, disguised or not."""

    extra_tokens: tuple[str, ...] = Field((), description="Control tokens of your own, beside catalogue and backend.")


class InjectionSettings(GuardSettings):
    """The embedded injection and jailbreak detector."""

    data_threshold: Score = Field(
        0.5, description="The threshold for `document` and `tool` segments, 0 to 1.", validate_default=True
    )
    encoder_windows: Annotated[int, Field(ge=0, le=100_000)] = Field(
        128,
        description="How many windows of a text the last stage reads beside those that it must; what else it should read counts "
        "as not read.",
    )
    timeout: Seconds = Field(30.0, description="How long the guard may take: 250ms, 2s, …")

    @field_validator("data_threshold")
    @classmethod
    def _above_flag_threshold(cls, value: float, info: ValidationInfo) -> float:
        flag = info.data.get("flag_threshold")
        if flag is not None and flag >= value:
            raise ValueError(
                f"is not above `flag_threshold` ({flag}), which would flag no document: raise it, or lower `flag_threshold`"
            )
        return value

    def threshold_for(self, rule: str, role: Role) -> float:
        """As for every guard, but data (documents, tool results) has a threshold of its own."""
        own = self.rule(rule).threshold
        if own is not None:
            return own
        return self.data_threshold if role in (Role.DOCUMENT, Role.TOOL) else self.threshold


class TopicSettings(GuardSettings):
    """NeMo Guardrails topical rails for a constrained product surface."""

    pack: str = Field(description="A rail pack: `bank`, `code_review`, `travel`, or the path of a folder of one's own.")
    model: str = Field("builtin", description="Embedding model: `builtin`, or the path of a folder with model.onnx.")
    model_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Digest of the model file named.")
    history_turns: Annotated[int, Field(ge=0, le=20)] = Field(
        2, description="How many earlier user turns may complete a short question."
    )
    check_output: bool = Field(False, description="Also hold the answer to the topic.")
    use_llm: bool = Field(
        False, description="Let the pack's rails that need a language model use the shield's backend."
    )


class CategorySettings(Rule):
    """A category of a guard model: its threshold and action, and for one's own categories the description."""

    name: str | None = Field(
        None, max_length=80, pattern=r"^[^\n<>|]+$", description="Title of a category of one's own."
    )
    description: str | None = Field(
        None,
        max_length=600,
        pattern=r"^[^\n<>|]+$",
        description="What belongs to it, in the prompt of the guard model.",
    )
    enabled: bool = Field(True, description="false: this category is not judged.")


class SafetySettings(GuardSettings):
    """A guard model (Llama Guard and its kin) before and after generation."""

    family: str = Field("llama-guard-3-8b", description="Which prompt format; see `shieldkit.guards.safety.FAMILIES`.")
    model: Path | None = Field(None, description="A GGUF file, loaded in process. Or give Shield(guard_backend=…).")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$", description="Digest of the model file.")
    stages: Annotated[tuple[Literal["input", "output"], ...], Field(min_length=1)] = Field(
        ("input", "output"), description="What is judged: what the user says, the answer, or both."
    )
    categories: Mapping[str, CategorySettings] = Field(
        default_factory=dict, description="By id: exceptions for the family's categories, and categories of one's own."
    )
    window_tokens: Annotated[int, Field(ge=64, le=100_000)] = Field(
        6000, description="How much is judged at a time; at most half of the guard model's context, if that is less."
    )
    timeout: Seconds = Field(60.0, description="How long the guard may take, over all windows of a text: 30s, 2m, …")

    def rule(self, rule: str) -> Rule:
        """A category is a rule; what `rules` says of it comes first."""
        found: Rule | None = self.rules.get(rule) or self.categories.get(rule)
        return found or _NO_RULE


class LeakSettings(GuardSettings):
    """What must not leave: the canary, the system prompt, echoed control tokens, secrets."""

    canary: bool = Field(True, description="Put a random mark into the system prompt of each request, and look for it.")
    system_prompt_similarity: Score = Field(
        0.5, description="Share of the system prompt's word runs in the answer that counts as disclosure."
    )
    secrets: bool = Field(True, description="Look for keys, tokens and passwords by their shapes.")


ToolName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^*\s]*\*?$")]
Entry = Annotated[str, Field(max_length=2048, pattern=r"^(user|tool|document)(:[^*\s][^*]*\*?|:\*)?$")]


class Flow(Section):
    """What holds for a tool after text from some origin."""

    tool: ToolName = Field(description="The tool's name; the beginning of names where it ends in `*`.")
    after: tuple[Entry, ...] = Field(
        (), description="`user`, `tool`, `document`, or one of them by name: `tool:read_inbox`. Unset: always."
    )
    action: Action = Field(description="block, approve (a person has to agree), flag, or allow.")

    @model_validator(mode="after")
    def _possible(self) -> Flow:
        if self.action is Action.REDACT:
            raise ValueError("'redact' cannot work for a call: use block, approve, flag or allow")
        return self


class ToolSettings(GuardSettings):
    """Tool calls in the answer, before they are run."""

    allow: tuple[ToolName, ...] | None = Field(
        None, description="The tools that may be called; beginnings of names where they end in `*`. Unset: any."
    )
    arguments: Mapping[ToolName, Mapping[str, Any]] = Field(
        default_factory=dict,
        description="By tool, or beginning of names that ends in `*`: a JSON Schema that the arguments must conform to.",
    )
    flows: tuple[Flow, ...] = Field(
        (), description="For each origin in the conversation the first that fits holds; over all origins the severest."
    )
    approval_timeout: Seconds = Field(300.0, description="How long a person may take to approve; then it is refused.")

    def named(self) -> Mapping[str, str]:
        """By its place in the section: each tool, or beginning of names, that something is said of beside `allow`."""
        flows = {f"flows[{number}]": flow.tool for number, flow in enumerate(self.flows)}
        return {f"arguments.{tool}": tool for tool in self.arguments} | flows

    def excludes(self, tool: str) -> bool:
        """Whether `allow` has no tool that `tool`, a name or the beginning of names, may mean."""
        return self.allow is not None and not any(_meet(tool, entry) for entry in self.allow)

    def action_for(self, rule: str) -> Action:
        """`approval` and `watched` are what a flow asked for; the others are as the head says."""
        return self.rule(rule).action or {"approval": Action.APPROVE, "watched": Action.FLAG}.get(rule, self.action)


def _meet(one: str, other: str) -> bool:
    """Whether some name fits both."""
    a, b = one.removesuffix("*"), other.removesuffix("*")
    return one == other or (one != a and b.startswith(a)) or (other != b and a.startswith(b))


class SchemaSettings(GuardSettings):
    """The last gate: an answer that must conform to a schema, or it is a refusal."""

    max_bytes: Annotated[int, Field(ge=2, le=100_000_000)] = Field(
        1_000_000, description="The largest answer that is read as JSON, in bytes of UTF-8."
    )
    max_depth: Annotated[int, Field(ge=1, le=512)] = Field(64, description="How deep arrays and objects may be nested.")
    max_number_digits: Annotated[int, Field(ge=1, le=4000)] = Field(
        400, description="How many characters a number may have."
    )
    reasks: Annotated[int, Field(ge=0, le=5)] = Field(
        0, description="How often to ask again after a non-conforming answer."
    )
    constrain: bool = Field(True, description="Hand the schema to the engine's constrained decoding, where it has one.")


class Limit(Section):
    """Hard maximums of tokens for one scope. At least one of the three is set."""

    scope: Literal["request", "task", "session", "user", "tenant"] = Field(
        description="What it is a maximum of: each request, or all requests of a principal's task, session, user or tenant."
    )
    window: Seconds | None = Field(None, description="For all but `request`: the sliding window the limit holds in.")
    input_tokens: Tokens | None = Field(None, description="At most so many tokens of prompts. Unset: no such limit.")
    output_tokens: Tokens | None = Field(None, description="At most so many tokens of answers. Unset: no such limit.")
    total_tokens: Tokens | None = Field(None, description="At most so many tokens of both. Unset: no such limit.")

    @model_validator(mode="after")
    def _complete(self) -> Limit:
        if self.input_tokens is None and self.output_tokens is None and self.total_tokens is None:
            raise ValueError("limits nothing: set input_tokens, output_tokens or total_tokens")
        if self.scope == "request" and self.window is not None:
            raise ValueError("a request has no window: remove `window`, or choose another scope")
        if self.scope != "request" and self.window is None:
            raise ValueError("needs a window: add for example `window: 1h`")
        return self


class BudgetSettings(Section):
    """Hard maximums in tokens. They hold in every mode; reserve before, settle after, release on failure."""

    limits: tuple[Limit, ...] = Field((), description="All of them hold. None: only `context` limits a request.")
    require: tuple[Literal["tenant", "user", "session", "task"], ...] = Field(
        (), description="Parts of the principal without which a request is refused."
    )
    max_accounts: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        100_000, description="How many principals the in-process ledger keeps; beyond it, new ones are refused."
    )
    timeout: Seconds = Field(10.0, description="How long counting and the ledger may take, each; then it is a refusal.")
    refusal_message: Message | None = Field(
        None, description="What the user is told when a maximum is reached. Unset: the policy's own `refusal_message`."
    )


class ContextSettings(Section):
    """How much of the model's context may be used, whatever the model supports."""

    max_tokens: Tokens | None = Field(
        None, description="Prompt and answer together. Unset: 32768, or what the model has where that is less."
    )
    max_output_tokens: Tokens = Field(1024, description="The longest answer, in tokens; less than max_tokens.")
    allow_over_128k: bool = Field(False, description="max_tokens above 131072 is refused unless this is set.")

    @model_validator(mode="after")
    def _bounded(self) -> ContextSettings:
        if self.cap > 131_072 and not self.allow_over_128k:
            raise ValueError("max_tokens is above 131072: lower it, or set `allow_over_128k: true`")
        if self.max_output_tokens >= self.cap:
            raise ValueError("max_output_tokens leaves no room for a prompt: lower it, or raise max_tokens")
        return self

    @property
    def cap(self) -> int:
        """The most tokens that a request may take, prompt and answer together."""
        return self.max_tokens or 32_768


class ModelSettings(Section):
    """How the model is called."""

    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        0.0, description="0: always the likeliest token; up to 2: the more, the more varied."
    )
    timeout: Seconds = Field(300.0, description="How long the model may take to answer: 30s, 5m, …")
    allow: tuple[Annotated[str, Field(min_length=1, max_length=300)], ...] = Field(
        (), description="Models that may be behind the shield: names or patterns with *. What a server hides counts."
    )


class RoutingSettings(Section):
    """Which models may be asked. Holds for every backend; a `Router` chooses among its routes by it."""

    models: tuple[str, ...] | None = Field(None, description="The names of models that may be asked. Unset: any.")
    residency: tuple[str, ...] | None = Field(
        None, description="Labels of where data may stay; a route must have one of them. Unset: anywhere."
    )
    max_cost: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="The highest cost class of a route."
    )
    security_critical: bool = Field(False, description="Only local routes, and no streaming.")

    @property
    def restricts(self) -> bool:
        """Whether anything is asked of a route."""
        return self != _ANY_ROUTE


_ANY_ROUTE = RoutingSettings()


class StreamingSettings(Section):
    """Whether text may leave before all gates have passed."""

    mode: Annotated[Literal["off", "windowed"], BeforeValidator(_off)] = Field(
        "off",
        description="off: `stream` gives one event, when all gates have passed. windowed: text leaves when it has been "
        "screened, with what follows it in view.",
    )
    hold_back_chars: Annotated[int, Field(ge=0, le=100_000)] = Field(
        80, description="The least that is held back of the end. A guard may need more; the built-in ones need 80."
    )
    classifier_tail_chars: Annotated[int, Field(ge=16, le=100_000)] = Field(
        200, description="How far ahead of what leaves the classifiers (safety, topics) have read, and in what steps."
    )
    window_chars: Annotated[int, Field(ge=8, le=10_000)] = Field(
        32, description="How much new text is screened at a time: less is smoother, more is cheaper."
    )


class Guards(Section):
    """The chain. A section that is absent is a guard that is not in the chain; the order is fixed, cheapest first."""

    markers: MarkerSettings | None = Field(
        None, description="Control tokens, role headers, template markers and hidden text."
    )
    injection: InjectionSettings | None = Field(
        None, description="The embedded injection and jailbreak detector, on what comes in."
    )
    topics: TopicSettings | None = Field(
        None, description="Rails that keep a product surface to its topic; needs the extra `nemo`."
    )
    safety: SafetySettings | None = Field(
        None, description="A guard model, such as Llama Guard, before and after the model."
    )
    tools: ToolSettings | None = Field(
        None, description="Tool calls in the answer: which, with which arguments, after text from where."
    )
    leak: LeakSettings | None = Field(
        None, description="Canary, system prompt, control tokens and secrets in the answer."
    )
    schema_: SchemaSettings | None = Field(
        None, alias="schema", description="The last gate: an answer that must conform to the request's schema."
    )
    custom: Mapping[str, GuardSettings] = Field(
        default_factory=dict, description="Heads for guards of one's own, by the guard's name."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Guards:
        for name in self.custom:
            if name in BUILT_IN:
                raise ValueError(
                    f"custom.{name} has a built-in guard's name: rename it, or write `{name}` outside `custom`"
                )
        return self


BUILT_IN = frozenset({name.removesuffix("_") for name in Guards.model_fields} - {"custom"} | {"budget", "shield"})
"""Names that no guard of one's own may have."""


class PolicyModel(Section):
    """The whole policy, as it stands in the file."""

    format: Literal[1] = Field(1, description="The version of this file format.")
    name: str = Field(
        min_length=1, max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]*$",
        description="The policy's name; in every trace.",
    )  # fmt: skip
    version: str = Field(
        "1", min_length=1, max_length=40, description="Your own version of the policy; in every trace."
    )
    description: str = Field("", description="For whoever reads the file; nothing depends on it.")
    mode: Literal["enforce", "monitor"] = Field(
        "enforce", description="monitor: findings are reported and nothing is blocked but by the budget."
    )
    context: ContextSettings = Field(ContextSettings(), description="How much of the model's context may be used.")
    model: ModelSettings = Field(ModelSettings(), description="How the model is called, and which models may be.")
    streaming: StreamingSettings = Field(
        StreamingSettings(), description="Whether text may leave before all gates passed."
    )
    routing: RoutingSettings = Field(RoutingSettings(), description="Which models and routes may be asked.")
    budget: BudgetSettings = Field(BudgetSettings(), description="Hard maximums in tokens, in every mode.")
    guards: Guards = Field(description="The chain: a guard is in it when its section is there.")
    unreadable: Literal["block", "allow"] = Field(
        "block", description="Content that no guard can read (images, audio): block, or allow and say so."
    )
    refusal_message: Message = Field(
        "I'm sorry, but I can't assist with that request.", description="What the user is told in a refusal."
    )
    tenants: Mapping[str, Mapping[str, Any]] = Field(
        default_factory=dict, description="By tenant: any part of a policy, which replaces that part for this tenant."
    )
