"""Policies: read, check, show. `Policy` is the frozen model; the words of the file are in `shieldkit.policy.model`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from shieldkit.errors import PolicyError
from shieldkit.outcome import Action
from shieldkit.policy import reading
from shieldkit.policy.model import GuardSettings, PolicyModel

BUILTINS = ("default", "strict", "monitor")

__all__ = ["BUILTINS", "Policy"]

_CANNOT_REDACT = ("topics", "safety", "tools", "schema")


class Policy(PolicyModel):
    """A frozen policy. Make one with `Policy.load("policy.yaml")` or `Policy.load("builtin:default")`."""

    @classmethod
    def load(cls, source: str | Path) -> Policy:
        """Read `builtin:default`, `builtin:strict`, `builtin:monitor`, or a YAML file.

        Raises `PolicyError`, which names the field, the value, the line and the mend.
        """
        name = str(source)
        if name.startswith("builtin:"):
            return _builtin(name.removeprefix("builtin:"))
        return cls.from_yaml(reading.read_file(Path(source)), source=name)

    @classmethod
    def from_yaml(cls, text: str, *, source: str = "policy") -> Policy:
        """Read YAML text. Raises `PolicyError`."""
        data, lines = reading.parse(text, source)
        return cls._validated(data, lines, source)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "policy") -> Policy:
        """Read a plain dict. Raises `PolicyError`."""
        return cls._validated(data, {}, source)

    @classmethod
    def _validated(cls, data: Any, lines: Mapping[str, int], source: str) -> Policy:
        try:
            policy = cls.model_validate(data)
        except ValidationError as error:
            raise reading.explain(error, lines, source, model=cls) from None
        _check_actions(policy, source)
        _check_tools(policy, source)
        for tenant in policy.tenants:
            policy.for_tenant(tenant)
        return policy

    def for_tenant(self, tenant: str | None) -> Policy:
        """The policy that holds for a tenant: this one, with the tenant's parts in place of its own."""
        override = self.tenants.get(tenant) if tenant is not None else None
        if override is None:
            return self
        merged = _merge(self.model_dump(by_alias=True, exclude={"tenants"}, exclude_unset=True), override)
        source = f"tenants.{tenant}"
        if "tenants" in override:
            raise PolicyError(f"{source}.tenants", "a tenant has no tenants of its own", mend="Remove it")
        if isinstance(budget := override.get("budget"), Mapping) and "max_accounts" in budget:
            mend = "Set it in the policy's own `budget`"
            raise PolicyError(f"{source}.budget.max_accounts", "all tenants share one ledger", mend=mend)
        try:
            policy = type(self).model_validate(merged)
        except ValidationError as error:
            raise reading.explain(error, {}, source, model=type(self)) from None
        _check_actions(policy, source)
        _check_tools(policy, source, inherited=self)
        return policy

    def sections(self) -> Mapping[str, GuardSettings]:
        """The guards' sections that are present, by the guard's name."""
        named = {field.removesuffix("_"): getattr(self.guards, field) for field in type(self.guards).model_fields}
        custom: Mapping[str, GuardSettings] = named.pop("custom")
        return {**{name: s for name, s in named.items() if s is not None}, **custom}

    def to_yaml(self) -> str:
        """The whole policy as YAML, defaults written out."""
        data = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the file, for editors and CI."""
        return reading.published_schema(cls)


def _check_actions(policy: Policy, source: str) -> None:
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
                raise PolicyError(f"{source}: guards.{name}.{key}", problem, mend="Use block, flag or allow")


def _check_tools(policy: Policy, source: str, inherited: Policy | None = None) -> None:
    """What is said of a tool that `allow` excludes is a slip of the pen; not so what a tenant with a narrower one inherits."""
    tools = policy.guards.tools
    if tools is None:
        return
    before = set(inherited.guards.tools.named().values()) if inherited and inherited.guards.tools else set()
    for key, tool in tools.named().items():
        if tool not in before and tools.excludes(tool):
            mend = f"`allow` has: {', '.join(tools.allow or ()) or 'nothing'}"
            raise PolicyError(f"{source}: guards.tools.{key}", "is of no tool that may be called", mend=mend)


def _merge(base: Any, override: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(override, Mapping):
        return {**base, **{key: _merge(base.get(key), value) for key, value in override.items()}}
    return override


@functools.cache
def _builtin(name: str) -> Policy:
    if name not in BUILTINS:
        known = ", ".join(f"builtin:{b}" for b in BUILTINS)
        raise PolicyError("policy", f"there is no builtin:{name}", mend=f"Use one of {known}, or the path of a file")
    text = (Path(__file__).parent / "builtin" / f"{name}.yaml").read_text(encoding="utf-8")
    return Policy.from_yaml(text, source=f"builtin:{name}")
