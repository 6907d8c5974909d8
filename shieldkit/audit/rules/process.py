"""What the server process runs beside the model, and what clients may make it do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shieldkit.audit.deployment import Deployment, Reach
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.registry import Context, rule

_SECURITY = "https://docs.vllm.ai/en/latest/usage/security/"
_LLAMA = "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"


def _switched_on(deployment: Deployment, names: Sequence[str]) -> Iterator[Hit]:
    for name in names:
        given = deployment.on(name)
        if given is not None:
            yield Hit(given)


@rule(
    "trust-remote-code", Severity.HIGH, "Code from the model's repository is run",
    why="Whoever can change the repository runs code in the server, with its keys and its GPU.",
    mend="Remove --trust-remote-code, or pin --revision and --code-revision to a commit you have read",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-trust-remote-code",
)  # fmt: skip
def trust_remote_code(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["trust-remote-code"])


@rule(
    "weights-pickled", Severity.HIGH, "The weights are loaded from a format that runs code",
    why="PyTorch's pickles execute what they contain.", mend="--load-format safetensors",
    source="https://docs.python.org/3/library/pickle.html",
)  # fmt: skip
def weights_pickled(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.get("load-format")
    if given is not None and given.value in ("pt", "pickle", "npcache"):
        yield Hit(given)


@rule(
    "runtime-lora", Severity.HIGH, "Clients may load adapters while the server runs",
    why="A LoRA adapter changes what the model does, for whoever names it; vLLM's guide calls this not secure.",
    mend="Remove VLLM_ALLOW_RUNTIME_LORA_UPDATING; load adapters at the start with --lora-modules",
    source=_SECURITY + "#dynamic-lora-loading",
)  # fmt: skip
def runtime_lora(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["runtime-lora-updating"])


@rule(
    "dev-mode", Severity.CRITICAL, "Development endpoints are open",
    why="/collective_rpc runs any method of the engine, without a key.", mend="Remove VLLM_SERVER_DEV_MODE",
    source=_SECURITY,
)  # fmt: skip
def dev_mode(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["server-dev-mode"])


@rule(
    "insecure-serialization", Severity.CRITICAL, "Pickled objects are taken from the network",
    why="Whoever reaches the engine's sockets runs code.", mend="Remove VLLM_ALLOW_INSECURE_SERIALIZATION",
    source="https://docs.vllm.ai/en/latest/configuration/env_vars/",
)  # fmt: skip
def insecure_serialization(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["insecure-serialization"])


@rule(
    "template-from-request", Severity.HIGH, "Clients bring their own chat template",
    why="A template is code that writes the prompt: with it a client leaves out the system prompt and opens any turn.",
    mend="Remove --trust-request-chat-template",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-trust-request-chat-template",
)  # fmt: skip
def template_from_request(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["trust-request-chat-template"])


@rule(
    "template-overridden", Severity.MEDIUM, "The chat template is not the model's own",
    why="Markers, roles and the place of the system prompt come from this file instead of the one the model was trained with.",
    mend="Use the model's own, or audit this file too and keep it beside the deployment",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-chat-template",
)  # fmt: skip
def template_overridden(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.get("chat-template", "chat-template-file", "tokenizer-config-path", "chat-format")
    if given is not None:
        yield Hit(given)


@rule(
    "server-tools", Severity.HIGH, "The server itself runs tools for the model",
    why="File reads, shell commands and MCP servers run where the shield sees neither the call nor its result.",
    mend="Remove the option; let the application run tools, behind the policy's `guards.tools`",
    source=_LLAMA,
)  # fmt: skip
def server_tools(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["agent", "ui-mcp-proxy"])
    given = deployment.get("tools", "tool-server", "mcp-servers-config", "mcp-servers-json")
    if given is not None:
        yield Hit(given)


@rule(
    "local-media", Severity.HIGH, "Requests may name files of the server",
    why="A request with a file:// address reads what lies under this path.",
    mend="Remove the option; send images in the request", source="https://docs.vllm.ai/en/latest/cli/serve/#-allowed-local-media-path",
)  # fmt: skip
def local_media(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.get("allowed-local-media-path", "media-path")
    if given is not None and given.value:
        yield Hit(given)


@rule(
    "server-plugin", Severity.LOW, "Python code from a file is loaded into the server",
    why="Parsers, middleware and processors from files run with the server's rights, on every request.",
    mend="Keep the file in the same repository, and review it as code",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-middleware",
)  # fmt: skip
def server_plugin(deployment: Deployment, context: Context) -> Iterator[Hit]:
    for name in ("tool-parser-plugin", "reasoning-parser-plugin", "middleware", "logits-processors", "worker-cls"):
        given = deployment.get(name)
        if given is not None and given.value:
            yield Hit(given, f"--{name}")


@rule(
    "tool-calls", Severity.INFO, "The model may call tools as it likes",
    why="With automatic tool choice the answer may hold calls; the shield judges them only when the policy has a `tools` guard.",
    mend="guards: {tools: {allow: [...]}} in the policy",
    source="https://docs.vllm.ai/en/latest/features/tool_calling/",
)  # fmt: skip
def tool_calls(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.on("enable-auto-tool-choice")
    if given is not None and (context.policy is None or context.policy.guards.tools is None):
        yield Hit(given)


@rule(
    "defaults-overridden", Severity.MEDIUM, "The model's own settings are overridden",
    why="Sampling defaults, stop tokens and architecture decide when an answer ends and what the control tokens are.",
    mend="Set sampling in the policy (model.temperature); leave the model's files as they are",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-override-generation-config",
)  # fmt: skip
def defaults_overridden(deployment: Deployment, context: Context) -> Iterator[Hit]:
    for name in ("override-generation-config", "hf-overrides", "override-kv", "json-model-override-args"):
        given = deployment.get(name)
        if given is not None:
            yield Hit(given, f"--{name}")


@rule(
    "control-tokens-shown", Severity.MEDIUM, "Control tokens are written into answers",
    why="With --special the answer spells out control tokens, and the next turn reads them back.",
    mend="Remove --special", source=_LLAMA,
)  # fmt: skip
def control_tokens_shown(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.server.name == "llama-server":
        yield from _switched_on(deployment, ["special"])


@rule(
    "streaming-on", Severity.MEDIUM, "Text leaves before it has been judged",
    why="What has been streamed cannot be taken back when a guard refuses the rest.",
    mend="Stream through the shield, by its policy's `streaming`", source="shieldkit policy schema: streaming",
)  # fmt: skip
def streaming_on(deployment: Deployment, context: Context) -> Iterator[Hit]:
    yield from _switched_on(deployment, ["stream-output", "incremental-streaming-output"])


@rule(
    "tokenizer-exposed", Severity.LOW, "The tokenizer's configuration is served",
    why="/tokenizer_info shows the chat template and the control tokens: a map for forging turns.",
    mend="Remove --enable-tokenizer-info-endpoint", source=_SECURITY,
)  # fmt: skip
def tokenizer_exposed(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.reachable >= Reach.INTERNAL:
        yield from _switched_on(deployment, ["enable-tokenizer-info-endpoint"])
