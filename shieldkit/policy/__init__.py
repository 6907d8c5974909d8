"""Policies: read, check, show. `Policy` is the frozen model; the words of the file are in `shieldkit.policy.model`."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shieldkit.errors import PolicyError
from shieldkit.outcome import Action
from shieldkit.policy import reading
from shieldkit.policy.model import GuardSettings, PolicyModel
from shieldkit.policy.problems import UNKNOWN_KEY, PolicyProblems, Problem, complaints, dotted, placed

BUILTINS = ("default", "strict", "monitor")

__all__ = ["BUILTINS", "Policy"]

_CANNOT_REDACT = ("topics", "safety", "tools", "schema")


class Policy(PolicyModel):
    """A frozen policy. Make one with `Policy.load("policy.yaml")` or `Policy.load("builtin:default")`."""

    @classmethod
    def load(cls, source: str | Path) -> Policy:
        """Read `builtin:default`, `builtin:strict`, `builtin:monitor`, or a YAML file.

        Raises `PolicyError`, which names the field, the value, the line and the mend of all that is wrong.
        """
        if not isinstance(source, str | Path):
            mend = "Give the path of a YAML file, or 'builtin:default'; Policy.from_dict(…) takes a dict"
            raise PolicyError("policy", f"a {type(source).__name__} is not where a policy is", mend=mend)
        name = str(source)
        if name.startswith("builtin:"):
            return _builtin(name.removeprefix("builtin:"))
        return cls.from_yaml(reading.read_file(Path(source)), source=name)

    @classmethod
    def from_yaml(cls, text: str, *, source: str = "policy") -> Policy:
        """Read YAML text. Raises `PolicyError`."""
        if not isinstance(text, str):
            mend = "Give the text; Policy.load(…) reads a file, Policy.from_dict(…) takes a dict"
            raise PolicyError(source, f"a {type(text).__name__} is not YAML text", mend=mend)
        if "\n" not in text and (text.startswith("builtin:") or text.endswith((".yaml", ".yml"))):
            raise PolicyError(source, "is where a policy is, and not its text", mend=f"Give Policy.load({text[:60]!r})")
        document = reading.parse(text, source)
        return cls._validated(document.data, source, document)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "policy") -> Policy:
        """Read a plain dict. Raises `PolicyError`."""
        return cls._validated(data, source)

    @classmethod
    def _validated(cls, data: Any, source: str, document: reading.Document | None = None) -> Policy:
        written = document is not None
        lines = document.lines if document is not None else {}
        policy, problems = cls._judged(data, written=written)
        base = data if written or policy is None else policy.model_dump(by_alias=True, exclude_unset=True)
        for tenant, override in _parts(data):
            where = f"tenants.{tenant}"
            merged = _merge({key: value for key, value in base.items() if key != "tenants"}, override)
            _, theirs = cls._judged(merged, written=written, inherited=policy)
            for problem in (*_not_for_tenants(override), *theirs):
                theirs_path = f"{where}.{problem.path}".rstrip(".")
                if problem not in problems or theirs_path in lines:  # the policy's own are told once
                    problems = [*problems, replace(problem, path=theirs_path)]
        if document is not None:
            problems = _with_empty(problems, document, cls)
        if policy is None or problems:
            raise PolicyProblems(source, [p if p.line else placed(p, lines) for p in problems])
        return policy

    @classmethod
    def _judged(
        cls, data: Any, *, written: bool = False, inherited: Policy | None = None
    ) -> tuple[Policy | None, list[Problem]]:
        """The policy, and what is wrong with it. `written`: the data stand in a file, where durations have units."""
        try:
            policy = cls.model_validate(data, context={"written": written})
        except ValidationError as error:
            return None, complaints(error, cls)
        return policy, [*_actions(policy), *_tools(policy, inherited), *_limits(policy)]

    def for_tenant(self, tenant: str | None) -> Policy:
        """The policy that holds for a tenant: this one, with the tenant's parts in place of its own."""
        override = self.tenants.get(tenant) if tenant is not None else None
        if override is None:
            return self
        merged = _merge(self.model_dump(by_alias=True, exclude={"tenants"}, exclude_unset=True), override)
        policy, problems = self._judged(merged, inherited=self)
        problems += _not_for_tenants(override)
        if policy is None or problems:
            raise PolicyProblems(f"tenants.{tenant}", problems)
        return policy

    def sections(self) -> Mapping[str, GuardSettings]:
        """The guards' sections that are present, by the guard's name."""
        named = {field.removesuffix("_"): getattr(self.guards, field) for field in type(self.guards).model_fields}
        custom: Mapping[str, GuardSettings] = named.pop("custom")
        return {**{name: s for name, s in named.items() if s is not None}, **custom}

    def message_of(self, guard: str) -> str:
        """What the user is told when this guard, or the `budget`, refuses."""
        section = self.budget if guard == "budget" else self.sections().get(guard)
        return (section.refusal_message if section is not None else None) or self.refusal_message

    def place(self, guard: str) -> str:
        """Where in the file a guard's section stands: `guards.markers`, `guards.custom.mine`."""
        return f"guards.custom.{guard}" if guard in self.guards.custom else f"guards.{guard}"

    def to_yaml(self) -> str:
        """The whole policy as YAML, defaults written out."""
        data = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the file, for editors and CI."""
        return reading.published_schema(cls)


def _parts(data: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """What a policy says of its tenants, as far as it can be read."""
    tenants = data.get("tenants") if isinstance(data, Mapping) else None
    if not isinstance(tenants, Mapping):
        return []
    return [(str(tenant), part) for tenant, part in tenants.items() if isinstance(part, Mapping)]


def _with_empty(problems: list[Problem], document: reading.Document, model: type[Policy]) -> list[Problem]:
    """What only the text shows, before what comes of it: of a key without a value one thing is said."""
    empty = {dotted(loc): reading.no_value(loc, model) for loc in document.empty}
    unknown = {p.path for p in problems if p.path in empty and p.problem == UNKNOWN_KEY}
    kept = [p for p in problems if p.path not in empty or p.path in unknown]
    return [*document.unclear, *(p for path, p in empty.items() if path not in unknown), *kept]


def _not_for_tenants(override: Mapping[str, Any]) -> Iterator[Problem]:
    if "tenants" in override:
        yield Problem("tenants", "a tenant has no tenants of its own", "Remove it")
    if isinstance(budget := override.get("budget"), Mapping) and "max_accounts" in budget:
        yield Problem("budget.max_accounts", "all tenants share one ledger", "Set it in the policy's own `budget`")


def _actions(policy: Policy) -> Iterator[Problem]:
    """A guard that cannot say where a finding stands cannot redact it, and only tool calls can wait for a person."""
    for name, section in policy.sections().items():
        chosen = {"action": section.action} | {f"rules.{rule}.action": r.action for rule, r in section.rules.items()}
        for key, action in chosen.items():
            problem = ""
            if action is Action.REDACT and name in _CANNOT_REDACT:
                problem = "'redact' cannot work: this guard judges a text as a whole and has no place to redact"
            if action is Action.APPROVE and name != "tools":
                problem = "'approve' is for tool calls, and this guard judges text"
            if problem:
                yield Problem(f"{policy.place(name)}.{key}", problem, "Use block, flag or allow")


def _tools(policy: Policy, inherited: Policy | None = None) -> Iterator[Problem]:
    """What is said of a tool that `allow` excludes is a slip of the pen; not so what a tenant with a narrower one inherits."""
    tools = policy.guards.tools
    if tools is None:
        return
    before = set(inherited.guards.tools.named().values()) if inherited and inherited.guards.tools else set()
    for key, tool in tools.named().items():
        if tool not in before and tools.excludes(tool):
            mend = f"`allow` has: {', '.join(tools.allow or ()) or 'nothing'}"
            yield Problem(f"guards.tools.{key}", "is of no tool that may be called", mend)


def _limits(policy: Policy) -> Iterator[Problem]:
    """A limit that an answer of the usual length does not fit in refuses every call that does not ask for a shorter one."""
    longest = policy.context.max_output_tokens
    for i, limit in enumerate(policy.budget.limits):
        for key, least in (("output_tokens", longest), ("total_tokens", longest + 1)):
            most = getattr(limit, key)
            if most is not None and most < least:
                problem = f"{most} has no room for an answer of {longest} tokens, which each call sets aside"
                mend = f"Raise it to {least} or more, or lower `context.max_output_tokens`"
                yield Problem(f"budget.limits[{i}].{key}", problem, mend)


def _merge(base: Any, override: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(override, Mapping):
        return {**base, **{key: _merge(base.get(key), value) for key, value in override.items()}}
    return override


@functools.cache
def _builtin(name: str) -> Policy:
    if name not in BUILTINS:
        known = ", ".join(f"builtin:{b}" for b in BUILTINS)
        problem = Problem("", "there is no such built-in policy", f"Use one of {known}, or the path of a file")
        raise PolicyProblems(f"builtin:{name}", [problem])
    text = (Path(__file__).parent / "builtin" / f"{name}.yaml").read_text(encoding="utf-8")
    return Policy.from_yaml(text, source=f"builtin:{name}")
