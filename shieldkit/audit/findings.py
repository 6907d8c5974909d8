"""What an audit says: rules, findings and reports. Plain values; nothing here reads a file.

A finding names where it stands and which line mends it. It never quotes a key, a prompt or the text of a template.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Severity(enum.IntEnum):
    """How much a finding undermines the shield; ordered."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it was given. `line` counts from 1; 0 is the file as a whole."""

    value: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule reports: where, what is particular there, and the line that mends it, if not the rule's own."""

    where: Given
    note: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that is looked for. `source` is the document that says how the server or tool behaves."""

    id: str
    severity: Severity
    title: str
    why: str
    mend: str
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that was broken at a place. `subject` is what is audited there: a service, a model, a tool."""

    rule: Rule
    file: str
    line: int
    subject: str
    note: str
    mend: str

    @property
    def severity(self) -> Severity:
        """The rule's."""
        return self.rule.severity


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file or server that has no verdict, and why. It is not passed."""

    file: str
    problem: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model that was read: what it is, for the record."""

    file: str
    name: str
    bases: tuple[str, ...]
    context_tokens: int | None
    digests: tuple[tuple[str, str], ...]
    """Names of files and their SHA-256."""


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of an audit. `ignored` are findings that a comment with a reason, or the caller, has set aside."""

    findings: tuple[Finding, ...]
    ignored: tuple[tuple[Finding, str], ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    models: tuple[Model, ...] = ()
    read: tuple[str, ...] = field(default=())

    def worst(self) -> Severity | None:
        """The severest finding; `None` when there is none."""
        return max((f.severity for f in self.findings), default=None)
