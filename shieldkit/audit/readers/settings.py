"""Settings of developers' tools: which models they route to, with which keys, and what their agents may do unasked.

Each tool's keys are read into one shape, `Settings`, that the rules look at. Sources: Cursor docs/reference/permissions
and docs/cli; Continue docs/reference; aider.chat/docs/config; zed.dev/docs/ai; the `cody.*` and `roo-cline.*` settings of
those extensions; code.visualstudio.com/docs/agents/approvals; code.claude.com/docs/en/settings; Codex and Gemini CLI
configuration references.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from shieldkit.audit.findings import Given
from shieldkit.audit.located import Map, Problem, Seq, documents, jsonc, maps, sub, text_of


@dataclass
class Settings:
    """What a tool's settings come to. Lists of values with their places, filled by the tool's reader."""

    name: str
    models: list[Given] = field(default_factory=list)
    providers: list[Given] = field(default_factory=list)
    """Names of hosted providers that are used."""
    addresses: list[Given] = field(default_factory=list)
    """Where models and MCP servers are reached."""
    redirects: list[Given] = field(default_factory=list)
    """Addresses that a project's settings put in place of the provider's own."""
    keys: list[Given] = field(default_factory=list)
    unasked: list[Given] = field(default_factory=list)
    """Settings by which everything is done without asking."""
    any_command: list[Given] = field(default_factory=list)
    any_file: list[Given] = field(default_factory=list)
    servers: list[tuple[Given, tuple[str, ...]]] = field(default_factory=list)
    """MCP servers that are started, with their command lines."""
    trusted_servers: list[Given] = field(default_factory=list)
    """MCP servers whose tools run without asking."""


_Reader = Callable[[Any, str, Settings], None]
_READERS: dict[str, tuple[str, Callable[[PurePath], bool], _Reader]] = {}


def _tool(name: str, title: str, fits: Callable[[PurePath], bool]) -> Callable[[_Reader], _Reader]:
    def register(reader: _Reader) -> _Reader:
        _READERS[name] = (title, fits, reader)
        return reader

    return register


def _in(path: PurePath, folder: str, *names: str) -> bool:
    return path.parent.name == folder and path.name in names


def tool_of(path: PurePath) -> str | None:
    """The tool whose settings a file of this name holds."""
    return next((name for name, (_, fits, _) in _READERS.items() if fits(path)), None)


def read(tool: str, text: str, file: str) -> Settings:
    """The settings in a file. Raises `Problem`."""
    title, _, reader = _READERS[tool]
    if file.endswith(".toml"):
        try:
            value = _placed(tomllib.loads(text), text)
        except (tomllib.TOMLDecodeError, RecursionError):
            raise Problem("is not TOML") from None
    elif file.endswith((".yml", ".yaml")):
        found = documents(text)
        value = found[0] if found else Map(0)
    else:
        value = jsonc(text)
    if not isinstance(value, Map):
        raise Problem("is not a mapping of settings")
    made = Settings(title)
    reader(value, file, made)
    return made


def _placed(value: Any, text: str) -> Any:
    """TOML as a `Map`, each key at the first line that begins with it."""
    if isinstance(value, dict):
        made = Map(1)
        for key, part in value.items():
            made[key] = _placed(part, text)
            match = re.search(rf"(?m)^\s*\[*[\w.\"-]*{re.escape(key)}\b", text)
            made.lines[key] = text.count("\n", 0, match.start() + len(match.group()) - len(key)) + 1 if match else 1
        return made
    if isinstance(value, list):
        listed = Seq(1)
        for part in value:
            listed.append(_placed(part, text))
            listed.lines.append(1)
        return listed
    return value


# -- what several tools share -----------------------------------------------------------------------------------------

_KEY = re.compile(r"(?i)(?:^|[_.-])(?:api[_-]?key|apikey|auth[_-]?token|access[_-]?token|secret|password|bearer)s?$")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ADDRESS = re.compile(r"(?i)^(?:https?|wss?)://")


def _walk(value: Any, file: str, path: str = "") -> Iterator[tuple[str, str, Given]]:
    """Every scalar: its key, its dotted path, and its text with its place."""
    if isinstance(value, Map):
        for key, part in value.items():
            here = f"{path}.{key}" if path else key
            if isinstance(part, Map | Seq):
                yield from _walk(part, file, here)
            else:
                yield key, here, Given(text_of(part), file, value.at(key))
    elif isinstance(value, Seq):
        key = path.rpartition(".")[2]
        for index, part in enumerate(value):
            if isinstance(part, Map | Seq):
                yield from _walk(part, file, path)
            else:
                yield key, path, Given(text_of(part), file, value.at(index))


def _keys_and_addresses(value: Any, file: str, made: Settings) -> None:
    for key, _, given in _walk(value, file):
        if _KEY.search(_CAMEL.sub("_", key)) or _KEY.search(key) or key.lower() in ("authorization", "x-api-key"):
            made.keys.append(given)
        elif _ADDRESS.match(given.value) and not key.startswith("$") and "schema" not in key.lower():
            made.addresses.append(given)


def _mcp(servers: Map, file: str, made: Settings) -> None:
    """MCP servers, as most tools write them: `{NAME: {command, args, env} | {url}}`."""
    for name, server in servers.items():
        if not isinstance(server, Map):
            continue
        arguments = server.get("args")
        line = [text_of(server.get("command")), *(text_of(a) for a in arguments or () if isinstance(arguments, Seq))]
        where = Given(name, file, server.at("args") if "args" in server else servers.at(name))
        if line[0]:
            made.servers.append((where, tuple(line)))
            if any("server-filesystem" in word or word.endswith("mcp-filesystem") for word in line):
                made.any_file += [
                    Given(w, file, where.line) for w in line[1:] if w in ("/", "~", "$HOME", "${HOME}", "/home", "C:\\")
                ]
        for key in ("alwaysAllow", "autoApprove", "trust", "default_tools_approval_mode"):
            value = server.get(key)
            everything = value is True or value == "approve" or (isinstance(value, Seq) and "*" in value)
            if everything:
                made.trusted_servers.append(Given(key, file, server.at(key)))


def _true(value: Map, file: str, into: list[Given], *keys: str) -> None:
    into.extend(Given(key, file, value.at(key)) for key in keys if value.get(key) is True)


def _listed(value: Any, file: str, fits: Callable[[str], bool]) -> Iterator[Given]:
    if isinstance(value, Seq):
        yield from (Given(text_of(p), file, value.at(i)) for i, p in enumerate(value) if fits(text_of(p)))


_ANY = frozenset({"*", "**", "/.*/", ".*", "^.*$", "/^.*$/", ""})


# -- the tools --------------------------------------------------------------------------------------------------------


@_tool(
    "cursor",
    "Cursor",
    lambda p: p.parent.name == ".cursor" and p.name in ("cli.json", "cli-config.json", "permissions.json"),
)
def _cursor(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    allow = sub(value, "permissions").get("allow")
    made.any_command += _listed(allow, file, lambda t: bool(re.fullmatch(r"Shell(?:\(\*+\))?", t)))
    made.any_file += _listed(
        allow, file, lambda t: bool(re.fullmatch(r"Read(?:\((?:\*+|/\*+|~/\*+|/|~)(?:/\*+)?\))?", t))
    )
    made.any_command += _listed(value.get("terminalAllowlist"), file, _ANY.__contains__)
    made.trusted_servers += _listed(value.get("mcpAllowlist"), file, lambda t: t in ("*", "*:*"))
    if text_of(value.get("approvalMode")) in ("unrestricted", "yolo"):
        made.unasked.append(Given("approvalMode", file, value.at("approvalMode")))


@_tool(
    "mcp", "MCP servers", lambda p: p.name in (".mcp.json", "mcp.json", "mcp_settings.json", "cline_mcp_settings.json")
)
def _mcp_file(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    for key in ("mcpServers", "servers"):
        _mcp(sub(value, key), file, made)


@_tool("continue", "Continue", lambda p: _in(p, ".continue", "config.yaml", "config.yml", "config.json"))
def _continue(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    single = [sub(value, key) for key in ("tabAutocompleteModel", "embeddingsProvider", "reranker") if key in value]
    for model in [*maps(value.get("models")), *single]:
        if model.get("model"):
            made.models.append(Given(text_of(model["model"]), file, model.at("model")))
        if not model.get("apiBase") and model.get("provider"):
            made.providers.append(Given(text_of(model["provider"]), file, model.at("provider")))
        elif "uses" in model:
            made.providers.append(Given("hub", file, model.at("uses")))
    for server in maps(value.get("mcpServers")):
        named = Map(server.line)
        named[text_of(server.get("name"))] = server
        _mcp(named, file, made)
    if isinstance(value.get("mcpServers"), Map):
        _mcp(value["mcpServers"], file, made)


@_tool("aider", "Aider", lambda p: p.name in (".aider.conf.yml", ".aider.conf.yaml"))
def _aider(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    _true(value, file, made.unasked, "yes-always", "yes")
    base = value.get("openai-api-base")
    for key in ("model", "weak-model", "editor-model"):
        if value.get(key):
            name = text_of(value[key])
            provider, _, rest = name.rpartition("/")
            made.models.append(Given(rest, file, value.at(key)))
            local = provider.startswith(("ollama", "lm_studio", "hosted_vllm")) or (base and provider in ("openai", ""))
            if not local:
                made.providers.append(Given(provider or "by the model's name", file, value.at(key)))
    for given in _listed(value.get("api-key"), file, lambda t: "=" in t):
        made.keys.append(Given(given.value.partition("=")[2], file, given.line))


@_tool(
    "zed", "Zed", lambda p: _in(p, ".zed", "settings.json") or (p.parent.name == "zed" and p.name == "settings.json")
)
def _zed(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    agent = value.get("agent") if isinstance(value.get("agent"), Map) else value.get("assistant")
    agent = agent if isinstance(agent, Map) else Map(0)
    _true(agent, file, made.unasked, "always_allow_tool_actions")
    permissions = sub(agent, "tool_permissions")
    if permissions.get("default") == "allow":
        made.unasked.append(Given("tool_permissions.default", file, permissions.at("default")))
    terminal = sub(permissions, "tools", "terminal")
    if terminal.get("default") == "allow":
        made.any_command.append(Given("terminal", file, terminal.at("default")))
    for entry in maps(terminal.get("always_allow")):
        if text_of(entry.get("pattern")).strip("^$") in (".*", "", ".+"):
            made.any_command.append(Given("terminal", file, entry.line))
    for key in (
        "default_model",
        "inline_assistant_model",
        "commit_message_model",
        "thread_summary_model",
        "subagent_model",
    ):
        model = sub(agent, key)
        if model.get("model"):
            made.models.append(Given(text_of(model["model"]), file, model.at("model")))
        if model.get("provider"):
            made.providers.append(Given(text_of(model["provider"]), file, model.at("provider")))
    _mcp(sub(value, "context_servers"), file, made)


@_tool(
    "vscode",
    "VS Code",
    lambda p: _in(p, ".vscode", "settings.json") or (p.parent.name == "User" and p.name == "settings.json"),
)
def _vscode(value: Map, file: str, made: Settings) -> None:
    """VS Code's own agent, and the extensions that keep their settings with it: Cody, Roo, Cline, Continue."""
    _keys_and_addresses(value, file, made)
    _true(value, file, made.unasked, "chat.tools.global.autoApprove", "chat.tools.autoApprove")
    if text_of(value.get("chat.permissions.default")) in ("bypassApprovals", "autopilot", "bypass"):
        made.unasked.append(Given("chat.permissions.default", file, value.at("chat.permissions.default")))
    commands = sub(value, "chat.tools.terminal.autoApprove")
    made.any_command += [
        Given(k, file, commands.at(k)) for k, v in commands.items() if k in _ANY and v is not False and v
    ]
    edits = sub(value, "chat.tools.edits.autoApprove")
    made.any_file += [Given(k, file, edits.at(k)) for k, v in edits.items() if k in ("**", "**/*", "*") and v is True]
    for key in ("roo-cline.allowedCommands", "zoo-code.allowedCommands", "cline.allowedCommands"):
        made.any_command += _listed(value.get(key), file, _ANY.__contains__)
    for model in maps(value.get("cody.dev.models")):
        made.models.append(Given(text_of(model.get("model")), file, model.at("model")))
        if not model.get("apiEndpoint"):
            made.providers.append(Given(text_of(model.get("provider")), file, model.at("provider")))
    _mcp(sub(value, "mcp", "servers"), file, made)


@_tool(
    "roo", "Roo Code", lambda p: p.name in ("roo-code-settings.json", "zoo-code-settings.json", "cline-settings.json")
)
def _roo(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    general = sub(value, "globalSettings")
    if general.get("autoApprovalEnabled") is not False:
        if general.get("alwaysAllowExecute") is True:
            made.any_command += _listed(general.get("allowedCommands"), file, _ANY.__contains__)
        _true(general, file, made.any_file, "alwaysAllowReadOnlyOutsideWorkspace", "alwaysAllowWriteOutsideWorkspace")
        _true(general, file, made.trusted_servers, "alwaysAllowMcp")
    for profile in sub(value, "providerProfiles", "apiConfigs").values():
        if isinstance(profile, Map):
            made.models += [Given(text_of(v), file, profile.at(k)) for k, v in profile.items() if k.endswith("ModelId")]
            provider = text_of(profile.get("apiProvider"))
            if provider and not any(key.endswith("BaseUrl") for key in profile):
                made.providers.append(Given(provider, file, profile.at("apiProvider")))


@_tool(
    "claude",
    "Claude Code",
    lambda p: _in(p, ".claude", "settings.json", "settings.local.json") or p.name == "managed-settings.json",
)
def _claude(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    permissions = sub(value, "permissions")
    if permissions.get("defaultMode") == "bypassPermissions":
        made.unasked.append(Given("defaultMode", file, permissions.at("defaultMode")))
    allow = permissions.get("allow")
    made.any_command += _listed(allow, file, lambda t: bool(re.fullmatch(r"Bash(?:\(:?\*+\))?", t)))
    made.any_file += _listed(allow, file, lambda t: bool(re.fullmatch(r"Read(?:\((?://\*\*|~/\*\*|\*\*?|/)\))?", t)))
    made.any_file += _listed(permissions.get("additionalDirectories"), file, lambda t: t in ("/", "~", "~/", "$HOME"))
    _true(value, file, made.trusted_servers, "enableAllProjectMcpServers")
    environment = sub(value, "env")
    for key in ("ANTHROPIC_BASE_URL", "ANTHROPIC_BEDROCK_BASE_URL", "ANTHROPIC_VERTEX_BASE_URL", "HTTPS_PROXY"):
        if environment.get(key):
            made.redirects.append(Given(text_of(environment[key]), file, environment.at(key)))
    if value.get("model"):
        made.models.append(Given(text_of(value["model"]), file, value.at("model")))


@_tool("codex", "Codex", lambda p: _in(p, ".codex", "config.toml"))
def _codex(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    for profile in (value, *(p for p in sub(value, "profiles").values() if isinstance(p, Map))):
        if profile.get("approval_policy") == "never" and profile.get("sandbox_mode") == "danger-full-access":
            made.unasked.append(Given("approval_policy", file, profile.at("approval_policy")))
        elif profile.get("sandbox_mode") == "danger-full-access":
            made.any_file.append(Given("sandbox_mode", file, profile.at("sandbox_mode")))
        if profile.get("model"):
            made.models.append(Given(text_of(profile["model"]), file, profile.at("model")))
        if isinstance(profile.get("model_provider"), str):
            made.providers.append(Given(profile["model_provider"], file, profile.at("model_provider")))
    _mcp(sub(value, "mcp_servers"), file, made)


@_tool("gemini", "Gemini CLI", lambda p: _in(p, ".gemini", "settings.json"))
def _gemini(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    for holder, key in ((sub(value, "general"), "defaultApprovalMode"), (sub(value, "tools"), "approvalMode")):
        if text_of(holder.get(key)).lower() == "yolo":
            made.unasked.append(Given(key, file, holder.at(key)))
    for holder, key in ((sub(value, "tools"), "allowed"), (sub(value, "tools"), "core"), (value, "allowedTools")):
        made.any_command += _listed(holder.get(key), file, lambda t: t in ("run_shell_command", "ShellTool", "*"))
    _mcp(sub(value, "mcpServers"), file, made)


@_tool("opencode", "OpenCode", lambda p: p.name in ("opencode.json", "opencode.jsonc"))
def _opencode(value: Map, file: str, made: Settings) -> None:
    _keys_and_addresses(value, file, made)
    permission = value.get("permission")
    if permission == "allow":
        made.unasked.append(Given("permission", file, value.at("permission")))
    for key, target in (("bash", made.any_command), ("external_directory", made.any_file)):
        chosen = sub(value, "permission").get(key)
        everything = chosen == "allow" or (isinstance(chosen, Map) and chosen.get("*") == "allow")
        if everything:
            target.append(Given(key, file, sub(value, "permission").at(key)))
    if value.get("model"):
        provider, _, model = text_of(value["model"]).partition("/")
        made.models.append(Given(model or provider, file, value.at("model")))
        if provider and not sub(value, "provider", provider, "options").get("baseURL"):
            made.providers.append(Given(provider, file, value.at("model")))


def tools() -> Mapping[str, str]:
    """The tools whose settings are read: their ids and names."""
    return {name: title for name, (title, _, _) in _READERS.items()}
