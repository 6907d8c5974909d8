"""The rules, by id: a dictionary that decorators fill. A rule is a function of one typed subject.

A rule's first parameter says by its annotation what it looks at (a `Deployment`, a `ModelFiles`, …); its second is the
`Context` of the audit: the policy and the allowlist, where there are any.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from shieldkit.audit.allowlist import Allowlist
from shieldkit.audit.findings import Finding, Hit, Rule, Severity

if TYPE_CHECKING:
    from shieldkit.policy import Policy


@dataclass(frozen=True, slots=True)
class Context:
    """What an audit is held against, beside the rules themselves."""

    policy: Policy | None = None
    allowed: Allowlist | None = None
    local_only: bool = False


class Subject(Protocol):
    """What rules look at: it has a name to be told by."""

    @property
    def name(self) -> str:
        """What the report calls it."""


S = TypeVar("S", bound=Subject)
Check = Callable[[S, Context], Iterable[Hit]]

RULES: dict[str, Rule] = {}
_CHECKS: dict[type[Any], list[tuple[str, Check[Any]]]] = {}


def rule(
    id: str,  # noqa: A002 - the word of the report
    severity: Severity,
    title: str,
    *,
    why: str,
    mend: str,
    source: str,
) -> Callable[[Check[S]], Check[S]]:
    """Register a check under `id`."""
    if id in RULES:
        raise ValueError(f"rule {id} is there already")
    RULES[id] = Rule(id, severity, title, why, mend, source)
    return also(id)


def also(id: str) -> Callable[[Check[S]], Check[S]]:  # noqa: A002
    """Register a check of another subject under a rule that some module has."""

    def register(check: Check[S]) -> Check[S]:
        subject = next(iter(typing.get_type_hints(check).values()))
        _CHECKS.setdefault(subject, []).append((id, check))
        return check

    return register


def examine(subject: Subject, context: Context) -> Iterator[Finding]:
    """All findings about one subject."""
    for name, check in _CHECKS.get(type(subject), ()):
        made = RULES[name]
        for hit in check(subject, context):
            yield Finding(made, hit.where.file, hit.where.line, subject.name, hit.note, hit.mend or made.mend)
