"""Every fault that is planted in `deployments/bad` is found where it stands, and nothing else; nothing in `good`."""

from __future__ import annotations

from pathlib import Path

import pytest

from shieldkit.audit import Severity, audit

HERE = Path(__file__).parent / "deployments"

# By file: line, and the rules that are broken there.
EXPECTED: dict[str, str] = {
    ".aider.conf.yml": """
        2: agent-runs-unasked
        3: tool-key-in-clear
    """,
    ".claude/settings.json": """
        3: agent-any-command agent-any-file
        4: agent-runs-unasked
        6: mcp-trusted
        7: tool-redirected
    """,
    ".codex/config.toml": """
        2: agent-runs-unasked
        7: mcp-unpinned
    """,
    ".continue/config.yaml": """
        8: tool-key-in-clear
        12: tool-plain-http
        16: agent-any-file mcp-unpinned
    """,
    ".cursor/cli.json": """
        3: agent-any-command agent-any-file
        6: agent-runs-unasked
    """,
    ".gemini/settings.json": """
        2: agent-runs-unasked
        3: mcp-trusted
    """,
    ".vscode/mcp.json": """
        3: tool-plain-http
        4: mcp-trusted mcp-unpinned
    """,
    ".vscode/settings.json": """
        4: agent-runs-unasked
        5: agent-any-command
        6: agent-any-command
        8: tool-key-in-clear
    """,
    ".zed/settings.json": """
        5: agent-runs-unasked
        8: mcp-unpinned
    """,
    "Dockerfile": """
        2: image-unpinned runs-as-root
        3: key-in-clear
        4: insecure-serialization
        7: served-name-unset usage-statistics
        8: model-unpinned
        9: template-overridden
        10: local-media
        11: context-over-128k
    """,
    "Modelfile": """
        1: model-unpinned prompt-cut-silently
        3: template-overridden
    """,
    "Procfile": """
        2: context-of-model no-api-key no-tls served-name-unset
    """,
    "chat_template.jinja": """
        3: template-has-trigger
        4: template-conceals template-has-address
        8: template-runs-code
    """,
    "docker-compose.yml": """
        3: context-unset image-unpinned usage-statistics
        4: cors-wildcard model-unpinned trust-remote-code
        5: runs-as-root
        7: no-api-key no-tls
        9: privileged
        11: image-unpinned prompt-cut-silently
        13: cors-wildcard
        14: logs-prompts
        16: no-api-key no-tls
        22: context-unset served-name-unset
        26: model-unpinned
        28: no-api-key-inside
        29: logs-prompts
        32: prompt-cut-silently
        33: streaming-on
    """,
    "k8s.yaml": """
        6: secret-in-manifest
        13: logs-prompts
        16: prompt-cut-silently
        30: host-ipc
        32: runs-as-root
        33: api-docs usage-statistics
        35: model-unpinned
        38: key-in-process-list
        45: privileged
        50: host-mount
        57: no-tls paths-without-key service-public
    """,
    "litellm.yaml": """
        1: proxy-without-key
        5: key-in-clear
        6: streaming-on
        8: logs-prompts
        9: logs-prompts
    """,
    "llama.sh": """
        2: model-safety-removed model-unpinned served-name-unset
        3: context-of-model logs-prompts metrics-endpoint no-api-key no-tls props-writable slots-endpoint
        4: cache-on-disk control-tokens-shown prompt-cut-silently server-tools
    """,
    "llm.service": """
        5: runs-as-root
        6: key-in-clear key-weak
        8: no-tls
        9: context-over-128k
    """,
    "nginx.conf": """
        6: streaming-on
    """,
    "old-vllm.sh": """
        1: api-docs context-unset host-ipc host-network no-tls paths-without-key privileged served-name-unset usage-statistics
        2: host-mount
        3: key-in-clear
        4: key-in-clear key-weak logs-prompts-by-default model-unpinned weights-pickled
    """,
    "opencode.json": """
        3: agent-any-command agent-any-file
    """,
    "serve.sh": """
        5: dev-mode
        6: runtime-lora
        8: api-docs model-unpinned usage-statistics
        9: no-api-key no-tls
        10: trust-remote-code
        12: context-over-128k
        13: served-name-misleads
        14: logs-prompts
        15: cors-any-origin
        16: template-from-request
    """,
    "supervisord.conf": """
        1: runs-as-root
        2: no-tls service-public usage-statistics
        3: key-in-clear key-weak
    """,
    "values.yaml": """
        3: api-docs context-unset image-unpinned served-name-unset usage-statistics
        8: model-unpinned
        9: tool-calls
        12: no-api-key no-tls service-public
    """,
    "vllm-config.yaml": """
        1: api-docs model-unpinned served-name-unset usage-statistics
        2: no-api-key no-tls
        4: logs-prompts
        5: defaults-overridden
    """,
}


def wanted(file: str) -> set[tuple[int, str]]:
    lines = [line.split(":") for line in EXPECTED[file].strip().splitlines()]
    return {(int(number), rule) for number, rules in lines for rule in rules.split()}


@pytest.fixture(scope="module")
def found() -> dict[str, set[tuple[int, str]]]:
    report = audit([HERE / "bad"])
    assert report.unreadable == ()
    by_file: dict[str, set[tuple[int, str]]] = {}
    for finding in report.findings:
        file = Path(finding.file).relative_to(HERE / "bad").as_posix()
        by_file.setdefault(file, set()).add((finding.line, finding.rule.id))
    return by_file


@pytest.mark.parametrize("file", EXPECTED)
def test_each_planted_fault_is_found_at_its_line_and_nothing_else(
    file: str, found: dict[str, set[tuple[int, str]]]
) -> None:
    assert found.get(file, set()) == wanted(file)


def test_every_bad_file_has_a_row_in_the_table() -> None:
    files = {p.relative_to(HERE / "bad").as_posix() for p in (HERE / "bad").rglob("*") if p.is_file()}
    assert files == set(EXPECTED)


def test_nothing_is_found_in_good_deployments() -> None:
    report = audit([HERE / "good"])
    assert report.findings == ()
    assert report.unreadable == ()
    files = {p for p in (HERE / "good").rglob("*") if p.is_file()}
    assert {Path(f) for f in report.read} == files, "a file that was not read proves nothing"


def test_good_deployments_stay_good_against_a_policy_and_an_allowlist() -> None:
    from shieldkit import Policy
    from shieldkit.audit import Allowlist

    policy = Policy.from_yaml("name: p\ncontext: {max_tokens: 8192, max_output_tokens: 512}\nguards: {markers: {}}")
    allowed = Allowlist.of(["qwen3-8b", "smollm2.gguf", "model.gguf", "model"])
    report = audit([HERE / "good"], policy=policy, allowed=allowed, local_only=True)
    assert {f.rule.id for f in report.findings} == {"context-above-policy"}


def test_each_message_names_what_mends_it_and_quotes_no_key() -> None:
    report = audit([HERE / "bad"])
    text = "\n".join(f"{f.subject} {f.note} {f.mend}" for f in report.findings)
    assert all(f.mend and f.rule.why and f.rule.source for f in report.findings)
    for secret in ("sk-proj", "sk-ant", "hf_", "8d1f5c3f", "4b9c07c1", "token-abc123", "correct-horse", "changeme"):
        assert secret not in text


def test_a_comment_with_a_reason_sets_a_finding_aside_and_one_without_does_not(tmp_path: Path) -> None:
    script = tmp_path / "serve.sh"
    line = "VLLM_NO_USAGE_STATS=1 vllm serve /m --served-model-name m --max-model-len 8k --host 127.0.0.1 --trust-remote-code"
    script.write_text(f"# shieldkit: ignore trust-remote-code we wrote it\n{line}\n")
    report = audit([script])
    assert report.findings == ()
    assert [(f.rule.id, reason) for f, reason in report.ignored] == [("trust-remote-code", "we wrote it")]
    for comment in ("# shieldkit: ignore trust-remote-code", "# shieldkit: ignore no-tls another rule", "# ignore it"):
        script.write_text(f"{comment}\n{line}\n")
        assert [f.rule.id for f in audit([script]).findings] == ["trust-remote-code"], comment


def test_the_caller_can_set_a_rule_aside() -> None:
    report = audit([HERE / "bad" / "serve.sh"], ignore=["dev-mode"])
    assert "dev-mode" not in {f.rule.id for f in report.findings}
    assert "dev-mode" in {f.rule.id for f, _ in report.ignored}


def test_findings_come_severest_first() -> None:
    severities = [f.severity for f in audit([HERE / "bad"]).findings]
    assert severities == sorted(severities, reverse=True)
    assert severities[0] is Severity.CRITICAL
