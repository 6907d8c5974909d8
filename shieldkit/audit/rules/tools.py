"""What developers' tools may do: which models they send code to, and what their agents do without asking."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shieldkit.audit.deployment import is_loopback
from shieldkit.audit.findings import Given, Hit, Severity
from shieldkit.audit.readers.settings import Settings
from shieldkit.audit.registry import Context, also, rule
from shieldkit.audit.rules.access import is_literal

_APPROVALS = "https://code.visualstudio.com/docs/agents/approvals"
_LOCAL = frozenset(
    "ollama lmstudio lm-studio lm_studio llama.cpp llama-cpp llamacpp vllm hosted_vllm llamafile transformers localai oss".split()
)
_PRIVATE = re.compile(
    r"(?i)^(?:10\.|192\.168\.|172\.(?:1[6-9]|2\d|3[01])\.|.*\.(?:internal|local|lan|intranet|corp|svc)$)"
)
_PINNED = re.compile(r".+@v?\d[\w.+-]*$|.+==\d[\w.+-]*$|.+@sha256:[0-9a-f]{64}$|.+:v?\d[\w.+-]*$")
_PLACEHOLDER_KEYS = frozenset(
    {"", "empty", "none", "dummy", "ollama", "not-needed", "no-key", "sk-no-key-required", "local", "true", "false"}
)


@rule(
    "agent-runs-unasked", Severity.CRITICAL, "The agent does everything without asking",
    why="One poisoned file, page or ticket that it reads is then enough to run commands with the developer's rights.",
    mend="Remove the setting; approve commands one by one, or by a short list", source=_APPROVALS,
)  # fmt: skip
def agent_runs_unasked(settings: Settings, context: Context) -> Iterator[Hit]:
    yield from (Hit(given, given.value) for given in settings.unasked)


@rule(
    "agent-any-command", Severity.HIGH, "The agent may run any command",
    why="An allowlist that matches everything is none.", mend="List the commands, by their beginnings: `git diff`, `npm test`",
    source=_APPROVALS,
)  # fmt: skip
def agent_any_command(settings: Settings, context: Context) -> Iterator[Hit]:
    yield from map(Hit, settings.any_command)


@rule(
    "agent-any-file", Severity.HIGH, "The agent may read or write any file",
    why="Keys and private files end up in prompts, and with a hosted model outside of the house.",
    mend="Keep it to the project's folder", source="https://code.claude.com/docs/en/permissions",
)  # fmt: skip
def agent_any_file(settings: Settings, context: Context) -> Iterator[Hit]:
    yield from map(Hit, settings.any_file)


@rule(
    "mcp-trusted", Severity.HIGH, "Tools of MCP servers run without asking",
    why="A server's tools, and what their descriptions say, may change from one day to the next.",
    mend="Name the tools that may run unasked; none that write or send",
    source="https://modelcontextprotocol.io/specification/2025-06-18/server/tools",
)  # fmt: skip
def mcp_trusted(settings: Settings, context: Context) -> Iterator[Hit]:
    yield from (Hit(given, given.value if given.value.isalnum() else "") for given in settings.trusted_servers)


@rule(
    "mcp-unpinned", Severity.MEDIUM, "An MCP server is whatever its package is today",
    why="npx, uvx and images without a version fetch the newest package, and run it, each time.",
    mend="Pin the version: npx -y package@1.2.3", source="https://modelcontextprotocol.io/docs/tutorials/security/security_best_practices",
)  # fmt: skip
def mcp_unpinned(settings: Settings, context: Context) -> Iterator[Hit]:
    for where, line in settings.servers:
        package = _package(line)
        if package and _PINNED.fullmatch(package) is None:
            yield Hit(where)


def _package(line: tuple[str, ...]) -> str:
    """What a runner would fetch; empty where the command is a program that is there."""
    program = line[0].replace("\\", "/").rpartition("/")[2].removesuffix(".cmd").removesuffix(".exe")
    words = list(line[1:])
    if program in ("pnpm", "yarn", "bun") and words[:1] in (["dlx"], ["x"]):
        words = words[1:]
    elif program in ("docker", "podman") and words[:1] == ["run"]:
        valued = ("-e", "--env", "-v", "--volume", "--mount", "--name", "-p", "--network", "--user", "-u")
        words = [w for w, before in zip(words[1:], ["", *words[1:]], strict=False) if before not in valued]
    elif program not in ("npx", "bunx", "uvx", "pipx"):
        return ""
    for flag in ("--from", "--package", "-p"):
        if flag in words[:-1] and program in ("npx", "uvx"):
            return words[words.index(flag) + 1]
    bare = [w for w in words if not w.startswith("-") and not (program == "pipx" and w == "run")]
    package = bare[0] if bare else ""
    return "" if package.startswith((".", "/")) else package


@rule(
    "tool-key-in-clear", Severity.HIGH, "A key stands in a tool's settings in clear",
    why="Settings are committed, synchronized and read by the agent itself.",
    mend="Take it from the environment: ${env:NAME}, ${{ secrets.NAME }}, or the tool's own keychain",
    source="https://docs.continue.dev/reference",
)  # fmt: skip
def tool_key_in_clear(settings: Settings, context: Context) -> Iterator[Hit]:
    for given in settings.keys:
        bare = given.value.removeprefix("Bearer ").strip()
        if is_literal(bare) and bare.lower() not in _PLACEHOLDER_KEYS and len(bare) >= 8:
            yield Hit(given)


@rule(
    "tool-remote-model", Severity.HIGH, "Code goes to a model outside of the house",
    why="The audit was asked to hold tools to local models (--local-only).", mend="Route the tool to the shield's own endpoint",
    source="--local-only",
)  # fmt: skip
def tool_remote_model(settings: Settings, context: Context) -> Iterator[Hit]:
    if context.local_only:
        for given in (*settings.addresses, *settings.redirects):
            if not _is_near(given.value):
                yield Hit(given)
        for given in settings.providers:
            if given.value.lower() not in _LOCAL:
                yield Hit(given)


def _is_near(address: str) -> bool:
    host = address.partition("://")[2].partition("/")[0]
    bare = host.rpartition("@")[2].rpartition(":")[0] or host
    return is_loopback(address) or _PRIVATE.match(bare) is not None or "$" in address or "." not in bare


@rule(
    "tool-plain-http", Severity.MEDIUM, "Prompts and keys cross the network in clear",
    why="Code and keys go over http to another machine.", mend="https://, or a tunnel",
    source="https://cheatsheetseries.owasp.org/cheatsheets/Transport_Layer_Security_Cheat_Sheet.html",
)  # fmt: skip
def tool_plain_http(settings: Settings, context: Context) -> Iterator[Hit]:
    for given in (*settings.addresses, *settings.redirects):
        if (
            given.value.lower().startswith(("http://", "ws://"))
            and not is_loopback(given.value)
            and "$" not in given.value
        ):
            yield Hit(given)


@rule(
    "tool-redirected", Severity.HIGH, "The project sends the agent's traffic, keys included, to another host",
    why="Whoever opens the project sends prompts and the provider's key to this address.",
    mend="Keep it out of the project's settings; set it for the user, or by the organisation",
    source="https://code.claude.com/docs/en/settings",
)  # fmt: skip
def tool_redirected(settings: Settings, context: Context) -> Iterator[Hit]:
    for given in settings.redirects:
        if not is_loopback(given.value) and "$" not in given.value:
            yield Hit(given)


@also("model-not-allowed")
def tool_model_not_allowed(settings: Settings, context: Context) -> Iterator[Hit]:
    for given in settings.models if context.allowed is not None else ():
        if context.allowed is not None and not _listed(given, context):
            yield Hit(given)


def _listed(given: Given, context: Context) -> bool:
    name = given.value
    return context.allowed is None or context.allowed.allows(name) or context.allowed.allows(name.rpartition("/")[2])
