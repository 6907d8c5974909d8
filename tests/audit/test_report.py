"""The command: exit codes, JSON, SARIF, and every rule shown to work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema_rs import validator_for

from shieldkit.audit import RULES
from shieldkit.cli import main
from shieldkit.cli.exits import Exit

HERE = Path(__file__).parent
BAD, GOOD = str(HERE / "deployments" / "bad"), str(HERE / "deployments" / "good")

# What SARIF 2.1.0 asks of the parts that are used, from its specification (sections 3.13 to 3.58).
_TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
_LEVEL = {"enum": ["none", "note", "warning", "error"]}
_LOCATION = {
    "type": "object", "required": ["physicalLocation"],
    "properties": {"physicalLocation": {
        "type": "object", "required": ["artifactLocation"], "additionalProperties": False,
        "properties": {
            "artifactLocation": {
                "type": "object", "required": ["uri"],
                "properties": {"uri": {"type": "string", "format": "uri-reference"}},
            },
            "region": {"type": "object", "properties": {"startLine": {"type": "integer", "minimum": 1}}},
        },
    }},
}  # fmt: skip
_RULE = {
    "type": "object", "required": ["id", "shortDescription", "fullDescription", "help", "defaultConfiguration"],
    "properties": {
        "id": {"type": "string"}, "shortDescription": _TEXT, "fullDescription": _TEXT, "help": _TEXT,
        "helpUri": {"type": "string", "format": "uri"}, "defaultConfiguration": {"properties": {"level": _LEVEL}},
        "properties": {"properties": {"security-severity": {"type": "string", "pattern": "^[0-9]+[.][0-9]$"}}},
    },
}  # fmt: skip
_RESULT = {
    "type": "object", "required": ["ruleId", "ruleIndex", "level", "message", "locations"],
    "properties": {
        "ruleId": {"type": "string"}, "ruleIndex": {"type": "integer", "minimum": 0}, "level": _LEVEL, "message": _TEXT,
        "locations": {"type": "array", "minItems": 1, "items": _LOCATION},
        "suppressions": {"type": "array", "items": {
            "required": ["kind"], "properties": {"kind": {"enum": ["inSource", "external"]}},
        }},
        "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}  # fmt: skip
SARIF = {
    "type": "object", "required": ["version", "runs", "$schema"],
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["tool", "results", "invocations"],
            "properties": {
                "tool": {"required": ["driver"], "properties": {"driver": {
                    "required": ["name", "rules", "version"], "properties": {"rules": {"type": "array", "items": _RULE}},
                }}},
                "results": {"type": "array", "items": _RESULT},
                "invocations": {"type": "array", "items": {
                    "required": ["executionSuccessful"],
                    "properties": {"toolExecutionNotifications": {"type": "array", "items": {
                        "required": ["message"], "properties": {"level": _LEVEL, "message": _TEXT},
                    }}},
                }},
            },
        }},
    },
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["audit", *argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_exit_codes_are_for_ci(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, BAD)[0] == Exit.BLOCKED
    assert run(capsys, GOOD)[0] == Exit.OK
    assert run(capsys, BAD, "--fail-on", "never")[0] == Exit.OK
    low = ["--command", "vllm serve /m --host 127.0.0.1 --max-model-len 8k --served-model-name m"]
    assert run(capsys, *low)[0] == Exit.OK
    assert run(capsys, *low, "--fail-on", "low")[0] == Exit.BLOCKED
    (tmp_path / "compose.yaml").write_text("a: [")
    code, _, err = run(capsys, str(tmp_path), "--fail-on", "never")
    assert code == Exit.UNREAD
    assert "not audited: is not YAML (line 1)" in err
    assert run(capsys)[0] == Exit.USAGE
    assert run(capsys, GOOD, "--ignore", "no-such-rule")[0] == Exit.USAGE
    assert run(capsys, GOOD, "--key-env", "SHIELDKIT_NOT_SET")[0] == Exit.USAGE
    assert run(capsys, GOOD, "--allow-models", str(tmp_path / "none.txt"))[0] == Exit.USAGE


def test_json_holds_what_a_program_needs(capsys: pytest.CaptureFixture[str], smollm2_path: Path) -> None:
    code, out, _ = run(capsys, BAD, GOOD, str(smollm2_path), "--json")
    report = json.loads(out)
    assert code == Exit.BLOCKED
    assert set(report) == {"findings", "ignored", "unreadable", "models", "audited"}
    keys = {"rule", "severity", "file", "line", "subject", "title", "note", "why", "mend", "source"}
    assert all(set(f) == keys for f in report["findings"])
    assert all(f["reason"] for f in report["ignored"])
    assert len(report["models"][0]["sha256"][smollm2_path.name]) == 64


def test_sarif_is_sarif(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a b.yaml").write_text("a: [")
    code, out, _ = run(capsys, BAD, GOOD, str(tmp_path / "a b.yaml"), "--sarif")
    log = json.loads(out)
    assert code == Exit.UNREAD
    validator_for(SARIF, validate_formats=True).validate(log)
    (made,) = log["runs"]
    rules = made["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == list(RULES)
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in made["results"])
    assert any("suppressions" in r for r in made["results"])
    assert made["invocations"][0]["executionSuccessful"] is False
    assert len({r["partialFingerprints"]["shieldkit/v1"] for r in made["results"]}) > 20


def test_the_table_is_for_people_and_cannot_drive_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evil = tmp_path / "\x1b[31m.sh"
    evil.write_text("vllm serve org/m --trust-remote-code\n")
    code, out, _ = run(capsys, str(evil))
    assert code == Exit.BLOCKED
    assert "\x1b" not in out
    assert "trust-remote-code" in out
    assert "→ Remove --trust-remote-code" in " ".join(out.split())


def test_the_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--rules")
    assert code == Exit.OK
    assert all(rule in out for rule in RULES)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.id)
def test_every_rule_is_named_in_a_test_that_finds_it(rule: Any) -> None:
    tests = [p.read_text() for p in HERE.glob("test_*.py") if p.name != Path(__file__).name]
    assert any(f'"{rule.id}"' in text or f" {rule.id}" in text for text in tests)


def test_each_rule_says_why_how_to_mend_it_and_where_that_is_written() -> None:
    for rule in RULES.values():
        assert rule.title and rule.why.endswith(".") and rule.mend and rule.source, rule.id
        assert rule.source.startswith(("https://", "--", "shieldkit ")), rule.id


def test_the_documentation_lists_every_rule_as_it_is() -> None:
    page = (HERE.parents[1] / "docs" / "audit.md").read_text()
    ordered = sorted(RULES.values(), key=lambda rule: (-rule.severity, rule.id))
    table = "".join(f"| `{rule.id}` | {rule.severity} | {rule.title} |\n" for rule in ordered)
    assert page.endswith(table), f"the table in docs/audit.md has to end with:\n{table}"
