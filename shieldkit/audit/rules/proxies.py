"""LiteLLM, nginx and Modelfiles, held to the rules that hold for servers."""

from __future__ import annotations

from collections.abc import Iterator

from shieldkit.audit.deployment import tokens
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.readers.proxies import Modelfile, Proxy
from shieldkit.audit.registry import Context, also, rule
from shieldkit.audit.rules.access import is_literal
from shieldkit.audit.rules.context import LONG, cap

_LITELLM = "https://docs.litellm.ai/docs/proxy/configs"


@rule(
    "proxy-without-key", Severity.HIGH, "The proxy asks its clients for no key",
    why="Without a master key LiteLLM serves everybody, with the keys of every provider that it holds.",
    mend="general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}", source=_LITELLM,
)  # fmt: skip
def proxy_without_key(proxy: Proxy, context: Context) -> Iterator[Hit]:
    if proxy.unguarded is not None:
        yield Hit(proxy.unguarded)


@also("key-in-clear")
def proxy_key_in_clear(proxy: Proxy, context: Context) -> Iterator[Hit]:
    for given in proxy.keys:
        if is_literal(given.value) and not given.value.startswith("os.environ/"):
            yield Hit(given, mend="os.environ/NAME")


@also("streaming-on")
def proxy_streams(proxy: Proxy, context: Context) -> Iterator[Hit]:
    for given in proxy.streaming:
        yield Hit(
            given, given.value, "Buffer the answer on routes that matter" if given.value == "proxy_buffering" else ""
        )


@also("logs-prompts")
def proxy_logs(proxy: Proxy, context: Context) -> Iterator[Hit]:
    for given in proxy.logging:
        yield Hit(given, given.value, "litellm_settings: {turn_off_message_logging: true}")


@also("model-not-allowed")
def proxy_model(proxy: Proxy, context: Context) -> Iterator[Hit]:
    for given in proxy.models:
        allowed = context.allowed
        if allowed is not None and not any(map(allowed.allows, (given.value, given.value.partition("/")[2]))):
            yield Hit(given)


@also("prompt-cut-silently")
def modelfile_context(model: Modelfile, context: Context) -> Iterator[Hit]:
    if model.context is None:
        yield Hit(
            model.base or model.where, "Ollama cuts prompts to its default context", f"PARAMETER num_ctx {cap(context)}"
        )


@also("context-over-128k")
def modelfile_long(model: Modelfile, context: Context) -> Iterator[Hit]:
    number = tokens(model.context.value) if model.context is not None else None
    if model.context is not None and number is not None and number > LONG:
        yield Hit(model.context, f"{number} tokens", f"PARAMETER num_ctx {cap(context)}")


@also("template-overridden")
def modelfile_template(model: Modelfile, context: Context) -> Iterator[Hit]:
    if model.template is not None:
        yield Hit(model.template)


@also("model-unpinned")
def modelfile_unpinned(model: Modelfile, context: Context) -> Iterator[Hit]:
    base = model.base
    if base is not None and not base.value.startswith((".", "/", "~")) and "@sha256:" not in base.value:
        yield Hit(base, mend="FROM ./model.gguf, a file whose digest is known")


@also("model-not-allowed")
def modelfile_model(model: Modelfile, context: Context) -> Iterator[Hit]:
    for given in (model.base, model.adapter):
        allowed = context.allowed
        if (
            allowed is not None
            and given is not None
            and not any(map(allowed.allows, (given.value, given.value.rpartition("/")[2])))
        ):
            yield Hit(given)
