"""How long a prompt the server takes, and what becomes of one that is too long."""

from __future__ import annotations

from collections.abc import Iterator

from shieldkit.audit.deployment import Deployment, tokens
from shieldkit.audit.findings import Hit, Severity
from shieldkit.audit.registry import Context, rule

LONG = 131_072
DEFAULT_CAP = 32_768
_UNBOUNDED = ("llama-cpp-python", "ollama")  # they have a small default of their own


def cap(context: Context) -> int:
    """The context that the policy grants; without a policy the cap that policies have by default."""
    return context.policy.context.cap if context.policy is not None else DEFAULT_CAP


def granted(deployment: Deployment) -> int | None:
    """The tokens that one request may take by what is given; `None` where nothing usable is."""
    given = deployment.context
    number = tokens(given.value) if given is not None else None
    if number is None or number <= 0:
        return None
    parallel = deployment.get("parallel")
    slots = tokens(parallel.value) if parallel is not None else 1
    if deployment.server.name == "llama-server" and slots and slots > 1 and not deployment.on("kv-unified"):
        return number // slots
    return number


@rule(
    "context-unset", Severity.MEDIUM, "The server takes as long a prompt as the model can",
    why="Without a cap the context is the model's own, up to a million tokens: room for many-shot jailbreaks, and more than"
        " the shield's policy was made for.",
    mend="Cap the context where the server is started",
    source="https://docs.vllm.ai/en/latest/cli/serve/#-max-model-len",
)  # fmt: skip
def context_unset(deployment: Deployment, context: Context) -> Iterator[Hit]:
    if deployment.context is None and deployment.server.name not in _UNBOUNDED:
        yield Hit(deployment.where, mend=f"--{deployment.server.context[0]} {cap(context)}")


@rule(
    "context-of-model", Severity.HIGH, "The context is set to whatever the model file says",
    why="0, -1 and `auto` take the length from the model's file, so whoever makes the file sets the limit.",
    mend="Write the number of tokens",
    source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def context_of_model(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.context
    if given is None or "$" in given.value or "{{" in given.value:
        return
    number = tokens(given.value)
    if number is None or number <= 0:
        yield Hit(given, mend=f"--{deployment.server.context[0]} {cap(context)}")


@rule(
    "context-over-128k", Severity.HIGH, "A context above 128K tokens",
    why="Attention thins out over very long contexts and instructions lose their hold; attacks hide there, and a policy"
        " grants more than 131072 tokens only when it says so.",
    mend="Lower the context", source="https://arxiv.org/abs/2307.03172",
)  # fmt: skip
def context_over_128k(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.context
    number = tokens(given.value) if given is not None else None
    permitted = context.policy is not None and context.policy.context.allow_over_128k
    if given is not None and number is not None and number > LONG and not permitted:
        yield Hit(given, f"{number} tokens", f"--{deployment.server.context[0]} {cap(context)}")


@rule(
    "context-above-policy", Severity.MEDIUM, "The server takes more than the policy grants",
    why="Whoever reaches the server beside the shield gets the longer context; the policy's cap holds inside of the shield"
        " only.",
    mend="Lower the server's context to the policy's", source="shieldkit policy schema: context.max_tokens",
)  # fmt: skip
def context_above_policy(deployment: Deployment, context: Context) -> Iterator[Hit]:
    number, given = granted(deployment), deployment.context
    if context.policy is not None and given is not None and number is not None and number > context.policy.context.cap:
        note = f"{number} tokens, the policy grants {context.policy.context.cap}"
        yield Hit(given, note, f"--{deployment.server.context[0]} {context.policy.context.cap}")


@rule(
    "context-below-policy", Severity.HIGH, "The server has less context than the policy grants",
    why="Prompts that the policy lets through are refused by the server, or cut without a word: then the system prompt or the"
        " last guard's text may be what is cut.",
    mend="Raise the server's context, or lower context.max_tokens in the policy",
    source="shieldkit policy schema: context.max_tokens",
)  # fmt: skip
def context_below_policy(deployment: Deployment, context: Context) -> Iterator[Hit]:
    number, given = granted(deployment), deployment.context
    asked = context.policy.context.max_tokens if context.policy is not None else None
    if asked is not None and given is not None and number is not None and number < asked:
        yield Hit(given, f"{number} tokens for a request, the policy grants {asked}")


@rule(
    "context-divided", Severity.LOW, "The context is divided among parallel slots",
    why="llama-server gives each slot its share of --ctx-size, so a request has less room than the number says.",
    mend="Set --ctx-size to the slots times what one request may take, or --kv-unified",
    source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
)  # fmt: skip
def context_divided(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given, parallel, number = deployment.context, deployment.get("parallel"), granted(deployment)
    if given is not None and parallel is not None and number is not None and number != tokens(given.value):
        yield Hit(parallel, f"{number} tokens for each of {tokens(parallel.value)} slots")


@rule(
    "context-stretched", Severity.MEDIUM, "The context is stretched beyond what the model was trained for",
    why="RoPE scaling and overridden limits give a context that safety training has never seen.",
    mend="Serve the model with the context it was trained for", source="https://docs.vllm.ai/en/latest/configuration/env_vars/",
)  # fmt: skip
def context_stretched(deployment: Deployment, context: Context) -> Iterator[Hit]:
    given = deployment.on("allow-long-max-model-len") or deployment.get(
        "rope-scale", "rope-scaling", "rope-factor", "yarn-orig-ctx"
    )
    if given is not None and given.value not in ("none", "1", "1.0"):
        yield Hit(given)


@rule(
    "prompt-cut-silently", Severity.HIGH, "A prompt that is too long is cut without a word",
    why="An attacker who fills the context pushes the system prompt, or the guarded text, out of it; nobody is told.",
    mend="Let the server refuse what is too long", source="https://docs.ollama.com/context-length",
)  # fmt: skip
def prompt_cut_silently(deployment: Deployment, context: Context) -> Iterator[Hit]:
    flag = deployment.on("allow-auto-truncate", "context-shift")
    if flag is not None:
        yield Hit(flag, mend="Remove the flag")
    if deployment.server.name == "ollama" and deployment.context is None:
        note = "Ollama cuts prompts to its default context (4096 tokens on most machines)"
        yield Hit(deployment.where, note, f"OLLAMA_CONTEXT_LENGTH={cap(context)}, and num_ctx in every request")
