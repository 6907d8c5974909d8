"""Developers' tools: where they send code, and what their agents do unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shieldkit.audit import Allowlist, audit
from shieldkit.audit.readers.settings import tools


def rules(folder: Path, name: str, content: Any, **held: Any) -> set[str]:
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    report = audit([file], **held)
    assert report.unreadable == ()
    return {f.rule.id for f in report.findings}


REMOTE: list[tuple[str, Any]] = [
    (".continue/config.yaml", "models: [{name: a, provider: openai, model: gpt-4o}]"),
    (".continue/config.json", {"models": [{"provider": "anthropic", "model": "claude"}]}),
    (".continue/config.yaml", "models: [{provider: openai, model: x, apiBase: https://api.example.com/v1}]"),
    (".continue/config.yaml", "models: [{uses: anthropic/claude-4-sonnet}]"),
    (".aider.conf.yml", "model: gpt-4o"),
    (".aider.conf.yml", "model: openrouter/deepseek/r1"),
    (".zed/settings.json", {"agent": {"default_model": {"provider": "zed.dev", "model": "claude"}}}),
    (".vscode/settings.json", {"cody.dev.models": [{"provider": "openai", "model": "gpt-4o"}]}),
    (
        "roo-code-settings.json",
        {"providerProfiles": {"apiConfigs": {"a": {"apiProvider": "openrouter", "openRouterModelId": "x"}}}},
    ),
    (".codex/config.toml", 'model = "gpt-5"\nmodel_provider = "azure"\n'),
    ("opencode.json", {"model": "anthropic/claude-sonnet-4-5"}),
    (".claude/settings.json", {"env": {"ANTHROPIC_BASE_URL": "https://gateway.example.net"}}),
]

LOCAL: list[tuple[str, Any]] = [
    (".continue/config.yaml", "models: [{provider: ollama, model: qwen3}]"),
    (".continue/config.yaml", "models: [{provider: openai, model: qwen3, apiBase: 'http://localhost:8900/v1'}]"),
    (".continue/config.yaml", "models: [{provider: openai, model: qwen3, apiBase: 'https://llm.internal/v1'}]"),
    (".aider.conf.yml", "model: ollama_chat/qwen3"),
    (".zed/settings.json", {"agent": {"default_model": {"provider": "ollama", "model": "qwen3"}}}),
    (".codex/config.toml", 'model = "qwen3"\nmodel_provider = "ollama"\n'),
    (
        "opencode.json",
        {"model": "box/qwen3", "provider": {"box": {"options": {"baseURL": "http://127.0.0.1:8900/v1"}}}},
    ),
    (".claude/settings.json", {"env": {"ANTHROPIC_BASE_URL": "http://127.0.0.1:8900"}}),
]


@pytest.mark.parametrize(("name", "content"), REMOTE)
def test_a_tool_that_sends_code_elsewhere_is_found_when_only_local_models_may_be_used(
    tmp_path: Path, name: str, content: Any
) -> None:
    assert "tool-remote-model" in rules(tmp_path, name, content, local_only=True)
    assert "tool-remote-model" not in rules(tmp_path, name, content)


@pytest.mark.parametrize(("name", "content"), LOCAL)
def test_a_tool_that_keeps_code_here_is_not_found(tmp_path: Path, name: str, content: Any) -> None:
    assert rules(tmp_path, name, content, local_only=True) == set()


@pytest.mark.parametrize(
    ("name", "content"), [(n, c) for n, c in REMOTE if "uses:" not in str(c) and "claude/" not in n]
)
def test_models_are_held_to_the_allowlist(tmp_path: Path, name: str, content: Any) -> None:
    assert "model-not-allowed" in rules(tmp_path, name, content, allowed=Allowlist.of(["qwen3"]))
    assert "model-not-allowed" not in rules(
        tmp_path, name, content, allowed=Allowlist.of(["gpt*", "claude*", "r1", "x"])
    )


def test_roo_settings_that_let_everything_run_are_found(tmp_path: Path) -> None:
    general = {
        "autoApprovalEnabled": True, "alwaysAllowExecute": True, "allowedCommands": ["*"], "alwaysAllowMcp": True,
        "alwaysAllowReadOnlyOutsideWorkspace": True,
    }  # fmt: skip
    found = rules(tmp_path, "roo-code-settings.json", {"globalSettings": general})
    assert found == {"agent-any-command", "agent-any-file", "mcp-trusted"}
    assert (
        rules(tmp_path, "roo-code-settings.json", {"globalSettings": {**general, "autoApprovalEnabled": False}})
        == set()
    )


@pytest.mark.parametrize(
    ("line", "pinned"),
    [
        (["npx", "-y", "a"], False), (["npx", "-y", "a@1.2.3"], True), (["npx", "-y", "@s/a"], False), (["npx", "@s/a@2"], True),
        (["npx", "a@latest"], False), (["uvx", "a"], False), (["uvx", "a==1.0"], True), (["uvx", "--from", "git+x", "a"], False),
        (["docker", "run", "-i", "-e", "X", "acme/a"], False), (["docker", "run", "--rm", "acme/a:1.2"], True),
        (["docker", "run", "acme/a:latest"], False), (["docker", "run", "a@sha256:" + "0" * 64], True),
        (["node", "server.js"], True), (["./run"], True), (["npx", "./local"], True), (["pnpm", "dlx", "a"], False),
    ],
)  # fmt: skip
def test_mcp_servers_are_pinned_or_found(tmp_path: Path, line: list[str], pinned: bool) -> None:
    servers = {"mcpServers": {"s": {"command": line[0], "args": line[1:]}}}
    assert ("mcp-unpinned" not in rules(tmp_path, ".mcp.json", servers)) is pinned


@pytest.mark.parametrize(
    "value", ["${env:KEY}", "$KEY", "${{ secrets.K }}", "{{KEY}}", "ollama", "<your-key>", "", "${input:k}"]
)
def test_a_reference_to_a_key_is_no_key(tmp_path: Path, value: str) -> None:
    assert (
        rules(
            tmp_path, ".mcp.json", {"mcpServers": {"s": {"url": "https://x/mcp", "headers": {"Authorization": value}}}}
        )
        == set()
    )
    assert (
        rules(
            tmp_path,
            ".continue/config.json",
            {"models": [{"apiKey": value, "model": "m", "apiBase": "http://localhost/"}]},
        )
        == set()
    )


def test_settings_that_are_no_mapping_have_no_verdict(tmp_path: Path) -> None:
    for number, text in enumerate(("[]", "", "7", "{", "null")):
        file = tmp_path / str(number) / "opencode.json"
        file.parent.mkdir()
        file.write_text(text)
        assert len(audit([file]).unreadable) == 1, text


def test_every_tool_is_named() -> None:
    assert set(tools()) == {
        "cursor", "mcp", "continue", "aider", "zed", "vscode", "roo", "claude", "codex", "gemini", "opencode",
    }  # fmt: skip
