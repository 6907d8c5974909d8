"""Audit: how a model is deployed, and what in that undermines the shield.

    report = audit(["deploy/"], policy=Policy.load("policy.yaml"))
    for finding in report.findings:
        print(finding.file, finding.line, finding.rule.id, finding.mend)

Reads command lines, manifests, model files, a running server's answers and developers' tools into typed subjects
(`shieldkit.audit.readers`), and lets the rules (`shieldkit.audit.rules`) look at them. What cannot be read has no verdict
and is reported as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shieldkit.audit import rules as _rules
from shieldkit.audit.allowlist import Allowlist
from shieldkit.audit.findings import Finding, Given, Hit, Model, Report, Rule, Severity, Unreadable
from shieldkit.audit.located import Problem, read_text
from shieldkit.audit.readers.files import Options, subjects, walk
from shieldkit.audit.readers.modelfiles import ModelFiles, Progress
from shieldkit.audit.registry import RULES, Context, Subject, examine

if TYPE_CHECKING:
    from shieldkit.policy import Policy

__all__ = [
    "RULES", "Allowlist", "Context", "Finding", "Given", "Hit", "Model", "Report", "Rule", "Severity", "Unreadable", "audit",
]  # fmt: skip

assert _rules.__all__  # importing the rules has registered them


def audit(
    paths: Sequence[str | Path] = (),
    *,
    commands: Sequence[str] = (),
    urls: Sequence[str] = (),
    policy: Policy | None = None,
    allowed: Allowlist | None = None,
    local_only: bool = False,
    ignore: Iterable[str] = (),
    key: str | None = None,
    digest: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Audit files and folders, command lines, and running servers.

    Args:
        paths: files, and folders that are walked.
        commands: command lines, as a shell would take them.
        urls: addresses of running servers, `http://HOST:PORT`.
        policy: what the deployment is held against.
        allowed: the models that may be used.
        local_only: report tools and routes that lead to models elsewhere.
        ignore: ids of rules that are set aside.
        key: a running server's key, for what it says to those who have one.
        digest: read model files to their end for their SHA-256.
        progress: told of the bytes that are read for a digest.
    """
    run = _Run(
        Context(policy, allowed, local_only),
        Options(digest, allowed.named_digests if allowed is not None else frozenset(), progress),
        frozenset(ignore),
    )
    for path in paths:
        run.path(Path(path))
    for command in commands:
        run.command(command)
    for url in urls:
        run.url(url, key)
    return run.report()


class _Run:
    def __init__(self, context: Context, options: Options, ignore: frozenset[str]) -> None:
        self._context, self._options, self._ignore = context, options, ignore
        self._findings: list[Finding] = []
        self._ignored: list[tuple[Finding, str]] = []
        self._unreadable: list[Unreadable] = []
        self._models: list[Model] = []
        self._read: list[str] = []
        self._comments = _Comments()

    def path(self, path: Path) -> None:
        if not path.exists():
            self._unreadable.append(Unreadable(str(path), "is not there"))
        elif path.is_dir():
            for found in walk(path):
                if isinstance(found, Unreadable):
                    self._unreadable.append(found)
                else:
                    self._file(found, asked=False)
        else:
            self._file(path, asked=True)

    def command(self, command: str) -> None:
        from shieldkit.audit.readers.shell import command_line

        found = list(command_line(command))
        if not found:
            self._unreadable.append(Unreadable("--command", "starts no server that is known"))
        self._examine("--command", iter(found))

    def url(self, url: str, key: str | None) -> None:
        from shieldkit.audit.live import look

        try:
            self._examine(url, iter([look(url, key)]))
        except Problem as problem:
            self._unreadable.append(Unreadable(url, str(problem)))

    def _file(self, path: Path, *, asked: bool) -> None:
        try:
            found = subjects(path, self._options, asked=asked)
            if found is not None:
                self._examine(str(path), found)
        except Problem as problem:
            self._unreadable.append(Unreadable(str(path), str(problem)))
        except OSError as error:
            self._unreadable.append(Unreadable(str(path), f"cannot be read ({type(error).__name__})"))

    def _examine(self, file: str, found: Iterator[Subject]) -> None:
        self._read.append(file)
        for subject in found:
            if isinstance(subject, ModelFiles):
                self._models.append(_record(subject))
            for finding in examine(subject, self._context):
                self._keep(finding)

    def _keep(self, finding: Finding) -> None:
        reason = "the caller's" if finding.rule.id in self._ignore else self._comments.reason(finding)
        if reason:
            self._ignored.append((finding, reason))
        elif finding not in self._findings:
            self._findings.append(finding)

    def report(self) -> Report:
        ordered = sorted(self._findings, key=lambda f: (-f.severity, f.file, f.line, f.rule.id))
        return Report(
            tuple(ordered), tuple(self._ignored), tuple(self._unreadable), tuple(self._models), tuple(dict.fromkeys(self._read))
        )  # fmt: skip


def _record(model: ModelFiles) -> Model:
    name = model.names[0].value if model.names else model.name
    context = int(model.context.value) if model.context is not None else None
    return Model(
        model.where.file,
        name[:300],
        tuple(b.value[:300] for b in model.bases),
        context,
        tuple((g.value, d) for g, d in model.digests),
    )


_COMMENT = re.compile(r"(?:#|//)\s*shieldkit:\s*ignore\s+([\w,-]{1,200})[ \t]+(\S[^\n]{0,300})")


class _Comments:
    """`# shieldkit: ignore RULE reason`, at the finding's line or alone on the line above it. No reason, no effect."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def reason(self, finding: Finding) -> str:
        if finding.line < 1:
            return ""
        if finding.file not in self._lines:
            try:
                self._lines[finding.file] = read_text(Path(finding.file)).splitlines()
            except Problem:
                self._lines[finding.file] = []
        lines = self._lines[finding.file]
        own = lines[finding.line - 1 : finding.line]
        above = [
            line for line in lines[max(finding.line - 2, 0) : finding.line - 1] if line.lstrip().startswith(("#", "//"))
        ]
        for line in own + above:
            match = _COMMENT.search(line)
            if match is not None and finding.rule.id in match[1].split(","):
                return match[2].strip()
        return ""
