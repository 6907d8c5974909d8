"""`shieldkit audit`: read how a model is deployed, and report what undermines the shield."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shieldkit.cli.exits import EPILOG, Exit

if TYPE_CHECKING:
    from shieldkit.audit import Finding, Report

_SEVERITIES = ("info", "low", "medium", "high", "critical")
_STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "info": "dim"}

_DESCRIPTION = """\
Read how a model is deployed, and report what undermines the shield: rule, severity, where, why,
and the line that mends it.

PATH is a file, or a folder that is walked: shell scripts, Dockerfiles, compose files, systemd units,
Procfiles, supervisor and nginx configuration, Kubernetes manifests, Helm values, LiteLLM configuration,
Ollama Modelfiles, GGUF files, Hugging Face folders, chat templates, and the settings of Cursor, Continue,
Aider, Zed, VS Code (Cody, Roo, Cline), Claude Code, Codex, Gemini CLI and OpenCode.

A file that cannot be read has no verdict, and makes the exit code 3.
"""

_EXAMPLES = """\
examples:
  shieldkit audit deploy/ ~/models/qwen3
  shieldkit audit --command "vllm serve org/model --host 0.0.0.0"
  shieldkit audit --url http://10.0.0.5:8000
  shieldkit audit deploy/ --policy policy.yaml --allow-models models.txt --sarif > audit.sarif
  shieldkit audit --rules

A finding is set aside by a comment with a reason, at its line or alone on the line above:
  # shieldkit: ignore no-tls the mesh encrypts

"""


def register(commands: Any) -> None:
    """Add the parser of `audit`."""
    from shieldkit.cli.console import subparser

    parser = subparser(
        commands, "audit", "what in a deployment undermines the shield", _DESCRIPTION, _EXAMPLES + EPILOG
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="files and folders")
    parser.add_argument(
        "--command", action="append", default=[], metavar="LINE", help="a command line that starts a server"
    )
    parser.add_argument("--url", action="append", default=[], metavar="URL", help="a running server: http://HOST:PORT")
    parser.add_argument("--key-env", metavar="NAME", help="the variable with the running server's key")
    parser.add_argument(
        "--policy", metavar="SOURCE", help="hold the deployment against a policy: a file, or builtin:NAME"
    )
    parser.add_argument("--allow-models", type=Path, metavar="FILE", help="the models that may be used, one a line")
    parser.add_argument("--local-only", action="store_true", help="report tools that send code to models elsewhere")
    parser.add_argument("--ignore", action="append", default=[], metavar="RULE", help="set a rule aside")
    parser.add_argument(
        "--no-digest", action="store_true", help="do not read model files to their end for their SHA-256"
    )
    parser.add_argument(
        "--fail-on",
        choices=(*_SEVERITIES, "never"),
        default="medium",
        help="the severity that makes the exit code 1 (medium)",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one JSON document")
    output.add_argument("--sarif", action="store_true", help="SARIF 2.1.0, for code hosts and editors")
    output.add_argument("--rules", action="store_true", help="list the rules, and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> Exit:
    """Audit, print, and return the exit code."""
    from shieldkit.audit import RULES, Allowlist, audit
    from shieldkit.cli.console import complain
    from shieldkit.policy import Policy

    if args.rules:
        return _rules()
    if not (args.paths or args.command or args.url):
        complain("nothing to audit: name files or folders, or give --command or --url")
        return Exit.USAGE
    for name in args.ignore:
        if name not in RULES:
            complain(f"--ignore {name}: there is no such rule; `shieldkit audit --rules` lists them")
            return Exit.USAGE
    key = os.environ.get(args.key_env) if args.key_env else None
    if args.key_env and not key:
        complain(f"--key-env {args.key_env}: the variable is not set")
        return Exit.USAGE
    policy = Policy.load(args.policy) if args.policy else None
    allowed = Allowlist.read(args.allow_models) if args.allow_models else None
    with _Progress() as told:
        report = audit(
            args.paths, commands=args.command, urls=args.url, policy=policy, allowed=allowed, local_only=args.local_only,
            ignore=args.ignore, key=key, digest=not args.no_digest, progress=told,
        )  # fmt: skip
    _print(report, args)
    return _exit(report, args.fail_on)


def _exit(report: Report, fail_on: str) -> Exit:
    """What could not be read outranks what was found."""
    from shieldkit.audit import Severity

    if report.unreadable:
        return Exit.UNREAD
    worst = report.worst()
    failed = fail_on != "never" and worst is not None and worst >= Severity[fail_on.upper()]
    return Exit.BLOCKED if failed else Exit.OK


def _print(report: Report, args: argparse.Namespace) -> None:
    from shieldkit.cli.console import print_json

    if args.json:
        print_json(as_json(report))
    elif args.sarif:
        from shieldkit import __version__
        from shieldkit.audit.sarif import sarif

        print_json(sarif(report, __version__))
    else:
        _show(report)


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""

    def plain(finding: Finding) -> dict[str, Any]:
        return {
            "rule": finding.rule.id, "severity": str(finding.severity), "file": finding.file, "line": finding.line or None,
            "subject": finding.subject, "title": finding.rule.title, "note": finding.note, "why": finding.rule.why,
            "mend": finding.mend, "source": finding.rule.source,
        }  # fmt: skip

    return {
        "findings": [plain(finding) for finding in report.findings],
        "ignored": [{**plain(finding), "reason": reason} for finding, reason in report.ignored],
        "unreadable": [{"file": u.file, "problem": u.problem} for u in report.unreadable],
        "models": [
            {
                "file": m.file,
                "name": m.name,
                "made_from": list(m.bases),
                "context_tokens": m.context_tokens,
                "sha256": dict(m.digests),
            }
            for m in report.models
        ],
        "audited": list(report.read),
    }


def _show(report: Report) -> None:
    """A table a file: line, severity, rule, and what it is with the line that mends it."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    from shieldkit.cli.console import complain, console, safe

    screen = console()
    for file in dict.fromkeys(finding.file for finding in report.findings):
        made = Table(title=safe(file), title_justify="left", title_style="bold", box=SIMPLE, pad_edge=False)
        made.add_column("line", justify="right")
        for column in ("severity", "rule", "what, and what mends it"):
            made.add_column(column, overflow="fold")
        for f in (f for f in report.findings if f.file == file):
            note = f" ({f.note})" if f.note else ""
            what = Text.assemble(safe(f"{f.subject}: {f.rule.title}{note}"), "\n", (safe(f"→ {f.mend}"), "green"))
            severity = Text(str(f.severity), style=_STYLES[str(f.severity)])
            made.add_row(str(f.line) if f.line else "", severity, Text(f.rule.id), what)
        screen.print(made)
    for model in report.models:
        made_from = f", made from {', '.join(model.bases)}" if model.bases else ""
        context = f", context {model.context_tokens}" if model.context_tokens is not None else ""
        screen.print(safe(f"model {model.file}: {model.name}{made_from}{context}"), soft_wrap=True)
        for name, digest in model.digests:
            screen.print(safe(f"  sha256:{digest}  {name}"), soft_wrap=True)
    for unread in report.unreadable:
        complain(f"{unread.file}: not audited: {unread.problem}")
    screen.print(_summary(report))


def _summary(report: Report) -> str:
    counts = {name: sum(str(f.severity) == name for f in report.findings) for name in reversed(_SEVERITIES)}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    parts = [f"{len(report.read)} audited", said or "nothing found"]
    parts += [f"{len(report.ignored)} ignored"] * bool(report.ignored)
    parts += [f"{len(report.unreadable)} not read"] * bool(report.unreadable)
    return "; ".join(parts)


def _rules() -> Exit:
    from shieldkit.audit import RULES
    from shieldkit.cli.console import console, table

    rows = sorted(
        ((str(r.severity), r.id, r.title) for r in RULES.values()), key=lambda row: -_SEVERITIES.index(row[0])
    )
    console().print(table("", ["severity", "rule", "what it reports"], rows))
    return Exit.OK


class _Progress:
    """A bar on a terminal while large files are read; nothing elsewhere."""

    def __enter__(self) -> Any:
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(console=Console(stderr=True), transient=True)
        self._tasks: dict[str, Any] = {}
        self._bar.start()
        return self._told

    def _told(self, name: str, done: int, size: int) -> None:
        from shieldkit.cli.console import safe

        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(safe(name), total=size)
        self._bar.update(self._tasks[name], completed=done)

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_bar"):
            self._bar.stop()
