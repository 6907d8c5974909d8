"""Reports as SARIF 2.1.0, which code hosts and editors show at the lines.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html; `security-severity` is GitHub's.
"""

from __future__ import annotations

import hashlib
import urllib.parse
from typing import Any

from shieldkit.audit.findings import Finding, Report, Rule, Severity
from shieldkit.audit.registry import RULES

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {
    Severity.INFO: "note", Severity.LOW: "note", Severity.MEDIUM: "warning", Severity.HIGH: "error", Severity.CRITICAL: "error",
}  # fmt: skip
_SCORES = {
    Severity.INFO: "0.0", Severity.LOW: "3.0", Severity.MEDIUM: "5.5", Severity.HIGH: "8.0", Severity.CRITICAL: "9.5",
}  # fmt: skip


def sarif(report: Report, version: str) -> dict[str, Any]:
    """The report as a SARIF log. What could not be read is a notification, and makes the run unsuccessful."""
    order = list(RULES)
    results = [_result(finding, order, "") for finding in report.findings]
    results += [_result(finding, order, reason) for finding, reason in report.ignored]
    invocation = {
        "executionSuccessful": not report.unreadable,
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": f"not audited: {u.problem}"}, "locations": [_location(u.file, 0)]}
            for u in report.unreadable
        ],
    }
    driver = {
        "name": "shieldkit audit", "version": version, "rules": [_rule(rule) for rule in RULES.values()],
        "informationUri": "https://pypi.org/project/shieldkit/",
    }  # fmt: skip
    return {
        "$schema": SCHEMA, "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "invocations": [invocation], "results": results}],
    }  # fmt: skip


def _rule(rule: Rule) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": rule.id, "name": "".join(word.capitalize() for word in rule.id.split("-")),
        "shortDescription": {"text": rule.title}, "fullDescription": {"text": rule.why},
        "help": {"text": f"Mend: {rule.mend}. See {rule.source}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {"tags": ["security"], "security-severity": _SCORES[rule.severity]},
    }  # fmt: skip
    return made | ({"helpUri": rule.source} if rule.source.startswith("https://") else {})


def _result(finding: Finding, order: list[str], reason: str) -> dict[str, Any]:
    note = f" ({finding.note})" if finding.note else ""
    made: dict[str, Any] = {
        "ruleId": finding.rule.id, "ruleIndex": order.index(finding.rule.id), "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.subject}: {finding.rule.title}{note}. Mend: {finding.mend}"},
        "locations": [_location(finding.file, finding.line)],
        "partialFingerprints": {"shieldkit/v1": _fingerprint(finding)},
    }  # fmt: skip
    return made | ({"suppressions": [{"kind": "inSource", "justification": reason}]} if reason else {})


def _location(file: str, line: int) -> dict[str, Any]:
    uri = file if "://" in file else urllib.parse.quote(file.replace("\\", "/").removeprefix("./"))
    region = {"region": {"startLine": line}} if line > 0 else {}
    return {"physicalLocation": {"artifactLocation": {"uri": uri}, **region}}


def _fingerprint(finding: Finding) -> str:
    """Stable when lines move: rule, file, subject and what is particular."""
    parts = "\0".join((finding.rule.id, finding.file, finding.subject, finding.note))
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()[:32]
