"""What is kept of prompts and answers, and who is told of them."""

from __future__ import annotations

from collections.abc import Iterator

from shieldkit.audit.deployment import Deployment, is_on, tokens
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.registry import Context, rule

_QUIET_SINCE = (0, 10, 1)
_TRACE = 4


@rule(
    "logs-prompts", Severity.HIGH, "Prompts or answers are written to the log",
    why="What the shield keeps out of its own logs stands in the server's: personal data, secrets, system prompts.",
    mend="Remove the option", source="https://docs.vllm.ai/en/latest/cli/serve/#-enable-log-requests",
)  # fmt: skip
def logs_prompts(deployment: Deployment, context: Context) -> Iterator[Hit]:
    seen = set()
    for name in (
        "enable-log-requests",
        "enable-log-outputs",
        "log-requests",
        "verbose",
        "verbose-prompt",
        "log-prompts",
    ):
        given = deployment.on(name)
        if given is not None and not (name == "verbose" and deployment.server.name == "llama-cpp-python"):
            seen.add(given)
    if deployment.server.name == "ollama" and (debug := deployment.on("debug")) is not None:
        seen.add(debug)
    level, verbosity = deployment.get("logging-level"), deployment.get("verbosity")
    if level is not None and level.value.upper() == "DEBUG":
        seen.add(level)
    if verbosity is not None and (tokens(verbosity.value) or 0) >= _TRACE:
        seen.add(verbosity)
    yield from map(Hit, sorted(seen, key=lambda given: (given.line, given.value)))


@rule(
    "logs-prompts-by-default", Severity.HIGH, "This version of vLLM logs every prompt unless told not to",
    why="Before 0.10.1 request logging was on by default.", mend="--disable-log-requests, or vLLM 0.10.1 or newer",
    source="https://github.com/vllm-project/vllm/pull/21739",
)  # fmt: skip
def logs_prompts_by_default(deployment: Deployment, context: Context) -> Iterator[Hit]:
    old = deployment.version is not None and deployment.version < _QUIET_SINCE
    if deployment.server.name == "vllm" and old and deployment.on("disable-log-requests") is None:
        container = deployment.container
        yield Hit(container.image if container is not None and container.image else deployment.where)


@rule(
    "cache-on-disk", Severity.MEDIUM, "What was asked is kept on disk",
    why="--slot-save-path lets clients write a slot's state, and so the prompt, to files, and read it back.",
    mend="Remove --slot-save-path", source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def cache_on_disk(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.get("slot-save-path")
    if given is not None:
        yield Hit(given)


@rule(
    "usage-statistics", Severity.LOW, "The server reports its use to its makers",
    why="Model names, versions and hardware leave the house; an offline deployment should not try.",
    mend="VLLM_NO_USAGE_STATS=1 (or DO_NOT_TRACK=1); --usage-stats off for TGI",
    source="https://docs.vllm.ai/en/latest/usage/usage_stats/",
)  # fmt: skip
def usage_statistics(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.server.name == "vllm" and deployment.on("no-usage-stats") is None:
        yield Hit(deployment.where, mend="VLLM_NO_USAGE_STATS=1")
    if deployment.server.name == "tgi":
        given = deployment.get("usage-stats")
        if given is None or (is_on(given.value) and given.value != "no-stack"):
            yield Hit(given or deployment.where, mend="--usage-stats off")
