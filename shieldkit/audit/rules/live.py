"""What a running server lets anybody see or do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shieldkit.audit.deployment import is_loopback
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.live import ORIGIN, LiveServer
from shieldkit.audit.registry import Context, also, rule
from shieldkit.audit.rules.context import LONG

_PLAIN = re.compile(r"[\w.:@/-]{1,120}")


@rule(
    "live-open", Severity.HIGH, "The server answers without a key",
    why="Whoever reaches this address uses the model past the shield.",
    mend="Start it with a key, and let only the shield reach it", source="https://docs.vllm.ai/en/latest/usage/security/",
)  # fmt: skip
def live_open(server: LiveServer, context: Context) -> Iterator[Hit]:
    opened = [path for path in ("/v1/models", "/api/tags") if server.opened(path) is not None]
    if opened:
        yield Hit(server.where, ", ".join(opened))


@rule(
    "live-parses-control-tokens", Severity.MEDIUM, "Control tokens in plain text are taken for such",
    why="Text that a chat template puts between control tokens is tokenized the same way: a user who types one opens a turn.",
    mend="Send token ids, or keep the shield's `markers` guard at block",
    source="https://docs.vllm.ai/en/latest/serving/openai_compatible_server/",
)  # fmt: skip
def live_parses_control_tokens(server: LiveServer, context: Context) -> Iterator[Hit]:
    if server.parses:
        yield Hit(server.where, ", ".join(server.parses))


@rule(
    "live-path-shown", Severity.LOW, "The server shows where its model lies",
    why="Paths and user names help whoever looks for a way in.", mend="--served-model-name NAME, or --alias NAME",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-served-model-name",
)  # fmt: skip
def live_path_shown(server: LiveServer, context: Context) -> Iterator[Hit]:
    if any(name.startswith(("/", "~", "C:\\")) or name.count("/") > 1 for name, _ in server.models):
        yield Hit(server.where)


@also("slots-endpoint")
def live_slots(server: LiveServer, context: Context) -> Iterator[Hit]:
    answer = server.opened("/slots")
    if answer is not None and isinstance(answer.json(), list):
        yield Hit(server.where)


@also("metrics-endpoint")
def live_metrics(server: LiveServer, context: Context) -> Iterator[Hit]:
    answer = server.opened("/metrics")
    if answer is not None and b"# TYPE" in answer.body:
        yield Hit(server.where, mend="Let a proxy keep /metrics inside")


@also("api-docs")
def live_docs(server: LiveServer, context: Context) -> Iterator[Hit]:
    answer = server.opened("/openapi.json")
    if answer is not None and isinstance(answer.json(), dict) and "paths" in answer.json():
        yield Hit(server.where)


@also("dev-mode")
def live_dev_mode(server: LiveServer, context: Context) -> Iterator[Hit]:
    answer = server.opened("/server_info")
    if answer is not None and isinstance(answer.json(), dict) and "vllm_config" in answer.json():
        yield Hit(server.where)


@also("tokenizer-exposed")
def live_tokenizer(server: LiveServer, context: Context) -> Iterator[Hit]:
    for path in ("/tokenizer_info", "/props"):
        answer = server.opened(path)
        if answer is not None and isinstance(answer.json(), dict) and "chat_template" in answer.json():
            yield Hit(server.where, path, "Let a proxy keep it inside")


@also("paths-without-key")
def live_paths(server: LiveServer, context: Context) -> Iterator[Hit]:
    answer = server.answers.get("/invocations")
    if answer is not None and answer.status in (200, 400, 415, 422):
        yield Hit(server.where, "/invocations")


@also("cors-wildcard")
def live_cors(server: LiveServer, context: Context) -> Iterator[Hit]:
    if any(_allows_any(answer.headers) and not _credentials(answer.headers) for answer in server.answers.values()):
        yield Hit(server.where)


@also("cors-any-origin")
def live_cors_credentials(server: LiveServer, context: Context) -> Iterator[Hit]:
    if any(_allows_any(answer.headers) and _credentials(answer.headers) for answer in server.answers.values()):
        yield Hit(server.where)


def _allows_any(headers: object) -> bool:
    return isinstance(headers, dict) and headers.get("access-control-allow-origin") in ("*", ORIGIN)


def _credentials(headers: object) -> bool:
    return isinstance(headers, dict) and headers.get("access-control-allow-credentials") == "true"


@also("no-tls")
def live_tls(server: LiveServer, context: Context) -> Iterator[Hit]:
    if server.where.value.startswith("http://") and not is_loopback(server.where.value):
        yield Hit(server.where)


@also("context-over-128k")
def live_context(server: LiveServer, context: Context) -> Iterator[Hit]:
    permitted = context.policy is not None and context.policy.context.allow_over_128k
    for _, length in server.models:
        if length is not None and length > LONG and not permitted:
            yield Hit(server.where, f"{length} tokens")


@also("context-above-policy")
def live_above(server: LiveServer, context: Context) -> Iterator[Hit]:
    for _, length in server.models if context.policy is not None else ():
        if context.policy is not None and length is not None and length > context.policy.context.cap:
            yield Hit(server.where, f"{length} tokens, the policy grants {context.policy.context.cap}")


@also("context-below-policy")
def live_below(server: LiveServer, context: Context) -> Iterator[Hit]:
    asked = context.policy.context.max_tokens if context.policy is not None else None
    for _, length in server.models:
        if asked is not None and length is not None and length < asked:
            yield Hit(server.where, f"{length} tokens, the policy grants {asked}")


@also("model-not-allowed")
def live_model(server: LiveServer, context: Context) -> Iterator[Hit]:
    for name, _ in server.models if context.allowed is not None else ():
        if name and context.allowed is not None:
            last = name.rpartition("/")[2]
            if not (context.allowed.allows(name) or context.allowed.allows(last)):
                yield Hit(server.where, last if _PLAIN.fullmatch(last) else "")
