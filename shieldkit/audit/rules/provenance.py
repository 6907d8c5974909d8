"""Which model a deployment serves, in which version, and under which name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shieldkit.audit.deployment import Deployment
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.registry import Context, rule

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?::[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FAMOUS = re.compile(r"(?i)^(gpt-|o[1-9]|chatgpt|claude|gemini|grok|text-davinci|mistral-large|command-r)")


@rule(
    "model-unpinned", Severity.MEDIUM, "The model is whatever its repository holds today",
    why="Weights, template and tokenizer change with the next download, without a word.",
    mend="--revision and the 40 digits of a commit, or a local folder whose digest is known",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-revision",
)  # fmt: skip
def model_unpinned(deployment: Deployment, context: Context) -> Iterator[Hit]:
    model = deployment.model
    if model is None or _HUB_NAME.fullmatch(model.value) is None or model.value.endswith(".gguf"):
        return
    revision = deployment.get("revision")
    if deployment.server.name == "llama-server":
        yield Hit(model, mend="Download the file once, check its digest, and give it by -m")
    elif revision is None or (_COMMIT.fullmatch(revision.value) is None and "$" not in revision.value):
        yield Hit(revision or model)


@rule(
    "model-from-url", Severity.MEDIUM, "The model is downloaded from an address",
    why="What the address gives is loaded, whatever it is; over http anybody on the way may change it.",
    mend="Download once, check the digest, and give the file", source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def model_from_url(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.get("model-url")
    if given is not None:
        yield Hit(given)


@rule(
    "served-name-unset", Severity.INFO, "The model is served under its path or repository name",
    why="Clients see where the model lies, and a policy has no stable name to hold it to.",
    mend="--served-model-name NAME (vLLM, SGLang), --alias NAME (llama.cpp)",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-served-model-name",
)  # fmt: skip
def served_name_unset(deployment: Deployment, context: Context) -> Iterator[Hit]:
    named = deployment.get("served-model-name", "alias")
    if deployment.server.name not in ("ollama", "tgi") and named is None:
        yield Hit(deployment.where)


@rule(
    "served-name-misleads", Severity.MEDIUM, "The served name is that of another maker's model",
    why="Applications and policies take the model for another one, with other safeguards than it has.",
    mend="Serve it under its own name", source="https://docs.vllm.ai/en/latest/cli/serve/#-served-model-name",
)  # fmt: skip
def served_name_misleads(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given, model = deployment.get("served-model-name", "alias"), deployment.model
    if given is not None and _FAMOUS.match(given.value) and (model is None or not _FAMOUS.match(_last(model.value))):
        yield Hit(given)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


@rule(
    "model-not-allowed", Severity.HIGH, "A model that is not on the allowlist",
    why="The safeguards were measured with the models on the list.", mend="Use a listed model, or add this one on purpose",
    source="--allow-models",
)  # fmt: skip
def model_not_allowed(deployment: Deployment, context: Context) -> Iterator[Hit]:
    model = deployment.model
    if context.allowed is None or model is None or "$" in model.value:
        return
    if not (context.allowed.allows(model.value) or context.allowed.allows(_last(model.value))):
        yield Hit(model)
